"""The loop over steps: which expert is asked when, what guidance costs, and how it is stopped."""

import numpy as np
import pytest

from p2psync.engine.denoise import expert_of, first_noise
from p2psync.engine.description import read_description
from p2psync.engine.pipeline import Hooks, open_pipeline
from p2psync.engine.request import Wish, settle
from p2psync.errors import GenerationCancelledError, WrongAnswerError
from tests.unit.engine.tiny_engine import change_weights, edit_json


class Counting:
    """Wraps the parts of a pipeline and notes who is asked."""

    def __init__(self, parts):
        self.parts = parts
        self.asked = []

    def session(self, name):
        self.asked.append(name)
        return self.parts.session(name)

    def close(self):
        self.parts.close()


@pytest.fixture
def counted(shared_engine):
    with open_pipeline(shared_engine) as pipeline:
        pipeline.parts = Counting(pipeline.parts)
        yield pipeline


def test_noise_is_frozen():
    """The noise of a seed is part of what a reference means: these numbers never change."""
    noise = first_noise(7, (1, 1, 1, 2, 2))
    assert noise.dtype == np.float32
    assert noise.reshape(-1).tolist() == pytest.approx([1.69052565, -0.46593737, 0.03282016, 0.40751627], abs=1e-7)


def test_experts_change_at_the_boundary(counted):
    """Steps from the boundary up are made by the first expert, those below by the second, once changed for good."""
    request = settle(counted.described, Wish("a red circle", steps=8, guidance=1.0))
    counted.latents(request)
    asked = [name for name in counted.parts.asked if name != "text"]
    assert asked == sorted(asked)
    assert len(asked) == 8
    assert set(asked) == {"high", "low"}


@pytest.mark.parametrize(("timestep", "expert"), [(999, "high"), (875, "high"), (874, "low"), (0, "low")])
def test_boundary_belongs_to_the_first(shared_engine, timestep, expert):
    """A timestep at the boundary is still high noise, as in WanPipeline."""
    described = read_description(shared_engine)
    assert expert_of(described.sampling, described.experts, timestep) == expert
    assert expert_of(described.sampling, ("low",), timestep) == "low"


def test_guidance_costs_a_second_text(counted):
    """Without guidance the empty prompt is neither encoded nor asked."""
    for guidance, texts in ((1.0, 1), (1.5, 2)):
        counted.parts.asked.clear()
        counted.latents(settle(counted.described, Wish("a", guidance=guidance)))
        assert counted.parts.asked.count("text") == texts


def test_guidance_goes_beyond_the_prompt(counted):
    """The guided velocity is on the line from the empty prompt's through the prompt's."""
    seen = {}
    for guidance in (1.0, 2.0, 3.0):
        got = {}
        wish = Wish("a red circle", steps=1, guidance=guidance)
        counted.latents(settle(counted.described, wish), Hooks(watch=got.setdefault))
        seen[guidance] = got["high"]
    assert np.allclose(seen[3.0] - seen[2.0], seen[2.0] - seen[1.0], atol=1e-5)
    assert np.abs(seen[2.0] - seen[1.0]).max() > 1e-3


def test_same_seed_same_latents(counted):
    """One seed gives the same bits twice; another gives others."""
    runs = [counted.latents(settle(counted.described, Wish("a", seed=seed))) for seed in (1, 1, 2)]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_steps_are_told(counted):
    """Progress counts every step once, from one to all."""
    told = []
    counted.latents(settle(counted.described, Wish("a", steps=3)), Hooks(on_step=lambda *at: told.append(at)))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("after", [0, 2])
def test_cancel_between_steps(counted, after):
    """A cancelled generation ends before the next step, and the same engine makes the next clip."""
    done = []
    hooks = Hooks(on_step=lambda step, _of: done.append(step), cancel=lambda: len(done) == after)
    with pytest.raises(GenerationCancelledError, match=f"after {after} of 4"):
        counted.latents(settle(counted.described, Wish("a")), hooks)
    assert len(done) == after
    assert counted.generate("a").shape == (9, 32, 48, 3)


@pytest.mark.parametrize("part", ["text", "high", "low", "decode_first"])
def test_not_a_number(engine, part):
    """NaN in the weights of any part ends the generation with the name of the part."""
    change_weights(engine, part, lambda _name, array: np.full_like(array, np.nan))
    named = {"text": "text encoder", "high": "expert high, step 1", "low": "expert low"}.get(part, "decode_first")
    with open_pipeline(engine) as pipeline, pytest.raises(WrongAnswerError, match=named) as caught:
        pipeline.generate("a red circle", guidance=1.0)
    assert caught.value.exit_code == 9
    assert "verify" in caught.value.hint


def test_one_expert_makes_all_steps(engine):
    """A pipeline of one expert, and one whose experts are the same files, ask it for every step."""
    edit_json(engine / "engine.json", lambda top: top["parts"].update(low=top["parts"]["high"]))
    with open_pipeline(engine) as pipeline:
        shared = pipeline.latents(settle(pipeline.described, Wish("a")))
        assert pipeline.parts.loaded == {"text", "high", "low"}
        assert len(pipeline.parts._sessions) == 2
    edit_json(engine / "engine.json", lambda top: (top["parts"].pop("low"), top["sampling"].pop("boundary_ratio")))
    with open_pipeline(engine) as pipeline:
        assert np.array_equal(shared, pipeline.latents(settle(pipeline.described, Wish("a"))))
