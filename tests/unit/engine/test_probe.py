"""The golden probe passes for the engine that it was made from and catches right bytes with wrong answers."""

import json

import numpy as np
import pytest

from p2psync.engine import probe
from p2psync.engine.choice import candidates
from p2psync.engine.pipeline import open_pipeline
from p2psync.errors import IncompleteModelError, MalformedError, UnsupportedVersionError, WrongAnswerError
from tests.unit.engine.tiny_engine import change_weights, edit_json, write_json

INPUTS = {"prompt": "a red circle", "seed": 7, "steps": 3, "guidance": 1.5, "height": 32, "width": 32, "frames": 5}
TOLERANCE = {"default": {"text": 0.01, "high": 0.02, "low": 0.02, "latents": 0.05, "frames": 0.05}}


@pytest.fixture
def probed(engine):
    """An engine with a probe of its own answers."""
    with open_pipeline(engine) as pipeline:
        write_json(engine / "probe.json", probe.record(pipeline, INPUTS, TOLERANCE))
    return engine


def answers(engine, **options):
    with open_pipeline(engine, **options) as pipeline:
        return probe.check(pipeline, probe.read_probe(engine / "probe.json"))


def test_passes_for_itself(probed):
    """The engine that made the probe answers it exactly, however its parts are kept."""
    for keep in (True, False):
        found = answers(probed, keep_parts=keep)
        assert [a.stage for a in found] == ["text", "high", "low", "latents", "frames"]
        assert all(a.passed and a.distance < 1e-5 for a in found)


def test_is_small_and_plain(probed):
    """A probe holds at most 512 values of a stage, in order, with their spread."""
    value = json.loads((probed / "probe.json").read_text())
    frames = value["expected"]["frames"]
    assert frames["shape"] == [5, 32, 32, 3]
    assert len(frames["positions"]) == len(frames["values"]) == 512
    assert frames["positions"] == sorted(set(frames["positions"]))
    assert frames["deviation"] > 0
    assert (probed / "probe.json").stat().st_size < 64_000


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
    """Weights that are whole and sealed and yet wrong fail the probe, at the stage where they are wrong."""
    change_weights(probed, part, change)
    with pytest.raises(WrongAnswerError, match=f"{stage} by") as caught:
        answers(probed, prove=True)
    assert caught.value.exit_code == 9
    assert "ran before stays" in caught.value.hint


def test_not_a_number_fails(probed):
    """NaN is never near enough."""
    change_weights(probed, "decode_first", lambda _name, array: array * np.float32("inf"))
    with pytest.raises(WrongAnswerError):
        answers(probed)
    assert not probe.Answer("frames", float("nan"), 1.0).passed


def test_tolerance_by_backend(probed):
    """A backend with a line of its own is judged by it, the others by the default."""
    change_weights(probed, "high", lambda _name, array: array * np.float32(1.05))
    with pytest.raises(WrongAnswerError):
        answers(probed)
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


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (lambda top: top.update(format=2), UnsupportedVersionError),
        (lambda top: top.pop("inputs"), MalformedError),
        (lambda top: top["inputs"].update(seed=-1), MalformedError),
        (lambda top: top["expected"].pop("frames"), MalformedError),
        (lambda top: top["expected"]["text"]["positions"].append(0), MalformedError),
        (lambda top: top["expected"]["text"].update(positions=[], values=[]), MalformedError),
        (lambda top: top["expected"]["text"]["positions"].__setitem__(0, 10**9), MalformedError),
        (lambda top: top["expected"]["text"].update(deviation=-1), MalformedError),
        (lambda top: top["tolerance"].pop("default"), MalformedError),
        (lambda top: top["tolerance"]["default"].update(text="much"), MalformedError),
    ],
    ids=range(10),
)
def test_wrong_files(probed, edit, error):
    """A probe that does not follow its format is refused."""
    edit_json(probed / "probe.json", edit)
    with pytest.raises(error):
        probe.read_probe(probed / "probe.json")


def test_verify(probed):
    """``verify --run`` says what ran where, and how near each stage was."""
    found = probe.verify(candidates(probed))
    assert found["variant"] == "fp32"
    assert found["backend"] == "ort-cpu"
    assert found["probe"] is True
    assert found["stages"]["frames"]["distance"] < 1e-5
    (probed / "probe.json").unlink()
    without = probe.verify(candidates(probed))
    assert (without["probe"], without["stages"]) == (False, {})
    (probed / "low.safetensors").unlink()
    with pytest.raises(IncompleteModelError, match="low"):
        probe.verify(candidates(probed))
