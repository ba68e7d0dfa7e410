"""Golden probes of format 1, which older versions have, are still read, answered, and failed by wrong answers."""

import numpy as np
import pytest

from p2psync.engine import probe
from p2psync.engine.answers import summary
from p2psync.engine.pipeline import Hooks, open_pipeline
from p2psync.engine.request import Wish, settle
from p2psync.errors import MalformedError, WrongAnswerError
from p2psync.limits import PROBE_TOLERANCES_MAX
from tests.unit.engine.tiny_engine import change_weights, edit_json, write_json

INPUTS = {"prompt": "a red circle", "seed": 7, "steps": 3, "guidance": 1.5, "height": 32, "width": 32, "frames": 5}
TOLERANCE = {"default": {"text": 0.01, "high": 0.02, "low": 0.02, "latents": 0.05, "frames": 0.05}}
STAGES = ["text", "high", "low", "latents", "frames"]


@pytest.fixture
def probed(engine):
    """An engine with a probe as versions before format 2 wrote them."""
    made = {}
    names = {"height": "height_px", "width": "width_px"}
    with open_pipeline(engine) as pipeline:
        request = settle(pipeline.described, Wish(**{names.get(name, name): value for name, value in INPUTS.items()}))
        made["latents"] = pipeline.latents(request, Hooks(watch=made.setdefault))
        made["frames"] = np.concatenate(list(pipeline.decode(made["latents"])))
    expected = {stage: {**summary(made[stage]), "mean": 0.5} for stage in STAGES}
    whole = {"format": 1, "inputs": INPUTS, "expected": expected, "tolerance": TOLERANCE}
    write_json(engine / "probe.json", whole)
    return engine


def answers(engine, **options):
    with open_pipeline(engine, **options) as pipeline:
        return probe.check(pipeline, probe.read_probe(engine / "probe.json"))


def test_passes_for_itself(probed):
    """The engine that made the probe answers it exactly."""
    found = answers(probed)
    assert [a.stage for a in found] == STAGES
    assert all(a.passed and a.distance < 1e-5 for a in found)


@pytest.mark.parametrize(
    ("part", "change", "stage"),
    [
        ("text", lambda name, array: array[::-1] if name == "table" else array, "text"),
        ("high", lambda _name, array: np.zeros_like(array), "high"),
        ("low", lambda _name, array: array[:, ::-1], "low"),
        ("decode_first", lambda _name, array: np.roll(array, 1, axis=1), "frames"),
    ],
    ids=["permuted table", "zero layer", "permuted channels", "other colours"],
)
def test_right_bytes_wrong_answers(probed, part, change, stage):
    """Weights that are whole and sealed and yet wrong fail it, at the stage where they are wrong."""
    change_weights(probed, part, change)
    with pytest.raises(WrongAnswerError, match=f"{stage} by") as caught:
        answers(probed, prove=True)
    assert "ran before stays" in caught.value.hint


def test_other_backends_are_told_why(probed):
    """Where it was not recorded, a refusal says which backend answers it: the engine may be right."""
    change_weights(probed, "high", lambda _name, array: array * np.float32(1.05))
    golden = probe.read_probe(probed / "probe.json")
    with open_pipeline(probed, "ort-cpu") as pipeline:
        pipeline.backend = "torch"
        with pytest.raises(WrongAnswerError, match="high by") as caught:
            probe.check(pipeline, golden)
    assert "--backend ort-cpu" in caught.value.hint


def test_tolerance_by_backend(probed):
    """A backend with a line of its own is judged by it, the others by the default."""
    change_weights(probed, "high", lambda _name, array: array * np.float32(1.05))
    wide = dict.fromkeys(TOLERANCE["default"], 10.0)
    edit_json(probed / "probe.json", lambda top: top["tolerance"].update({"ort-cuda": wide}))
    with pytest.raises(WrongAnswerError):
        answers(probed)
    edit_json(probed / "probe.json", lambda top: top["tolerance"].update({"ort-cpu": wide}))
    assert all(a.passed for a in answers(probed))


def test_another_shape_fails(probed):
    """A probe of another model's shape fails; it does not pass for lack of comparison."""
    edit_json(probed / "probe.json", lambda top: top["expected"]["latents"].update(shape=[1, 4, 2, 4, 5]))
    with pytest.raises(WrongAnswerError, match="latents by inf"):
        answers(probed)


def test_stage_that_never_came_fails(probed):
    """A stage that the publisher expects and this engine does not have fails."""
    edit_json(probed / "engine.json", lambda top: (top["parts"].pop("low"), top["sampling"].pop("boundary_ratio")))
    with pytest.raises(WrongAnswerError, match="low by inf"):
        answers(probed)


MANY = {f"backend-{number}": {} for number in range(PROBE_TOLERANCES_MAX + 1)}


@pytest.mark.parametrize(
    "edit",
    [
        lambda top: top.pop("inputs"),
        lambda top: top["inputs"].update(seed=-1),
        lambda top: top["expected"].pop("frames"),
        lambda top: top["expected"]["text"]["positions"].append(0),
        lambda top: top["expected"]["text"].update(positions=[], values=[]),
        lambda top: top["expected"]["text"]["positions"].__setitem__(0, 10**9),
        lambda top: top["expected"]["text"].update(deviation=-1),
        lambda top: top["tolerance"].pop("default"),
        lambda top: top["tolerance"].update(MANY),
        lambda top: top["tolerance"]["default"].update(text="much"),
        lambda top: top["tolerance"]["default"].update(dict.fromkeys(MANY, 0.1)),
    ],
    ids=range(11),
)
def test_wrong_files(probed, edit):
    """A probe that does not follow its format is refused."""
    edit_json(probed / "probe.json", edit)
    with pytest.raises(MalformedError):
        probe.read_probe(probed / "probe.json")
