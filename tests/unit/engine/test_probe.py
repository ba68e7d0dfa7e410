"""The golden probe passes for the engine that it was made from and catches right bytes with wrong answers."""

import json

import numpy as np
import onnx
import pytest

from p2psync.content import Digest
from p2psync.engine import probe, probe_record
from p2psync.engine.choice import candidates
from p2psync.engine.pipeline import open_pipeline
from p2psync.errors import IncompleteModelError, MalformedError, UnsupportedVersionError, WrongAnswerError
from p2psync.limits import (
    PROBE_CLIPS_MAX,
    PROBE_LATENT_VALUES_MAX,
    PROBE_MEANS_MAX,
    PROBE_TOKENS_MAX,
    PROBE_TOLERANCE_MAX,
)
from tests.unit.engine.tiny_engine import (
    PROBE_INPUTS,
    change_weights,
    constant,
    edit_json,
    make_engine,
    reseal,
    with_probe,
)

STAGES = ["tokens", "text", "high", "high.means", "low", "low.means", "frames"]


@pytest.fixture
def probed(engine):
    """An engine with a probe of its own answers."""
    return with_probe(engine)


def answers(engine, **options):
    with open_pipeline(engine, **options) as pipeline:
        return probe.check(pipeline, probe.read_probe(engine / "probe.json"))


def off(engine):
    """The stages that are not answered, those of experts by values, by means or both."""
    with open_pipeline(engine) as pipeline:
        answers = probe.measure(pipeline, probe.read_probe(engine / "probe.json"))
    return list(dict.fromkeys(a.stage.removesuffix(".means") for a in answers if not a.passed))


def engine_json(engine):
    return (engine / "engine.json").read_text()


def forms(probe_json, stage):
    """What the skeletons of a stage answered."""
    return list(probe_json["stages"][stage]["answers"].values())


def test_passes_for_itself(probed):
    """The engine that made the probe answers it exactly, however its parts are kept."""
    for keep in (True, False):
        found = answers(probed, keep_parts=keep)
        assert [a.stage for a in found] == STAGES
        assert all(a.passed and a.distance < 1e-5 for a in found)


def test_is_small_and_plain(probed):
    """A probe holds at most 512 values of a stage, in order, with their spread, and what it asks."""
    value = json.loads((probed / "probe.json").read_text())
    assert value["format"] == 2
    (frames,) = forms(value, "frames")
    assert frames["shape"] == [9, 32, 48, 3]
    assert len(frames["positions"]) == len(frames["values"]) == 512
    assert frames["positions"] == sorted(set(frames["positions"]))
    assert frames["deviation"] > 0
    assert [len(forms(value, name)[0]["means"]) for name in ("high", "low")] == [4 * 2 * 2] * 2
    assert [value["stages"][name]["timestep"] for name in ("high", "low")] == [999, 874]
    assert len({value["stages"][name]["seed"] for name in ("high", "low", "frames")}) == 3
    assert value["context"]["rows"] == len(value["ids"]) == 4
    assert value["context"]["width"] == 8
    assert (probed / "probe.json").stat().st_size < 64_000


@pytest.mark.parametrize(
    ("part", "change", "stage"),
    [
        ("text", lambda name, array: array[::-1] if name == "table" else array, "text"),
        ("high", lambda _name, array: np.zeros_like(array), "high"),
        ("low", lambda _name, array: array[:, ::-1], "low"),
        ("decode_first", lambda _name, array: np.roll(array, 1, axis=1), "frames"),
        ("high", lambda _name, array: array * np.float32("nan"), "high"),
        ("low", lambda _name, array: np.where(array == array.max(), np.float32("nan"), array), "low"),
    ],
    ids=["permuted table", "zero layer", "permuted channels", "other colours", "no numbers", "one that is none"],
)
def test_right_bytes_wrong_answers(probed, part, change, stage):
    """Weights that are whole and sealed and yet wrong fail the probe, at the stage where they are wrong alone."""
    change_weights(probed, part, change)
    assert off(probed) == [stage]
    with pytest.raises(WrongAnswerError, match=f"{stage} by") as caught:
        answers(probed, prove=True)
    assert caught.value.exit_code == 9
    assert "ran before stays" in caught.value.hint


@pytest.mark.parametrize("part", ["text", "decode_first"])
def test_not_a_number_fails(probed, part):
    """NaN and infinity are never near enough."""
    change_weights(probed, part, lambda _name, array: array * np.float32("inf"))
    with pytest.raises(WrongAnswerError):
        answers(probed)
    assert not probe.Answer("frames", float("nan"), 1.0).passed


def test_a_tokenizer_with_other_ids_fails(probed):
    """The text encoder is asked about ids of its own; that the prompt still means them is a stage for itself."""
    text = (probed.parent / "tokenizer" / "tokenizer.json").read_text()
    changed = text.replace('"red"', '"rouge"').replace('"blue"', '"red"')
    (probed.parent / "tokenizer" / "tokenizer.json").write_text(changed)
    assert off(probed) == ["tokens"]


def test_a_wrong_expert_fails(probed):
    """Experts that changed places answer neither's questions, though both are of this very version."""

    def swap(top):
        parts = top["parts"]
        parts["high"], parts["low"] = parts["low"], parts["high"]

    edit_json(probed / "engine.json", swap)
    assert off(probed) == ["high", "low"]


def test_a_skeleton_of_another_version_fails(probed):
    """One that fits the weights and computes something else: by its digest, and where it was sealed, by its answers."""
    model = onnx.load(probed / "high.onnx", load_external_data=False)
    sealed = engine_json(probed)
    (level,) = [one for one in model.graph.initializer if one.name == "per_mille"]
    level.CopyFrom(constant("per_mille", np.array([8e-4], np.float32)))
    (probed / "high.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(IncompleteModelError, match="high"):
        answers(probed)
    reseal(probed, "high")
    assert off(probed) == ["high"]
    # And if it passed for the one that was recorded, still by what it answers.
    was, now = (json.loads(text)["parts"]["high"]["skeleton_digest"] for text in (sealed, engine_json(probed)))
    text = (probed / "probe.json").read_text()
    assert was in text
    (probed / "probe.json").write_text(text.replace(was, now))
    with pytest.raises(WrongAnswerError, match=r"high by 0\."):
        answers(probed)


def test_a_single_answer_moves_no_other(probed):
    """A text encoder that is off says nothing of the experts, and an expert nothing of the frames."""
    change_weights(probed, "text", lambda _name, array: array * np.float32(3))
    change_weights(probed, "high", lambda _name, array: array * np.float32(3))
    assert off(probed) == ["text", "high"]


def test_another_shape_fails(probed):
    """A probe of another model's shape fails; it does not pass for lack of comparison."""
    edit_json(probed / "probe.json", lambda top: forms(top, "frames")[0].update(shape=[9, 32, 16, 9]))
    with pytest.raises(WrongAnswerError, match="frames by inf"):
        answers(probed)


def test_stage_that_one_side_lacks_fails(probed):
    """A stage that the publisher expects and this engine does not have fails, and the other way round."""
    whole = (probed / "probe.json").read_text()
    edit_json(probed / "probe.json", lambda top: top["stages"].pop("low"))
    assert off(probed) == ["low"]
    (probed / "probe.json").write_text(whole)
    edit_json(probed / "engine.json", lambda top: (top["parts"].pop("low"), top["sampling"].pop("boundary_ratio")))
    with pytest.raises(WrongAnswerError, match="low by inf"):
        answers(probed)


def test_tolerance_is_what_half_precision_does(probed, monkeypatch):
    """Twice and a half of how far the same form is off on rounded inputs; where that is next to nothing, the floor."""
    monkeypatch.setattr(probe_record, "FLOOR", 1e-6)
    monkeypatch.setattr(probe_record, "MEANS_FLOOR", 1e-9)
    made = probe.record_at(str(probed), PROBE_INPUTS)
    for stage in ("high", "low"):
        (form,) = forms(made, stage)
        assert 1e-5 < form["apart"] < 1e-3
        assert form["tolerance"] == pytest.approx(form["apart"] * probe_record.MARGIN, rel=1e-3)
        assert 0 < form["means_apart"] < form["apart"]
        assert form["means_tolerance"] == pytest.approx(form["means_apart"] * probe_record.MARGIN, rel=1e-3)
    monkeypatch.undo()
    (form,) = forms(probe.record_at(str(probed), PROBE_INPUTS), "high")
    assert (form["tolerance"], form["means_tolerance"]) == (probe_record.FLOOR, probe_record.MEANS_FLOOR)


def test_what_nobody_can_tell_apart_makes_no_probe(probed, monkeypatch):
    """A tolerance that would let a wrong answer pass is not signed: the stage is named."""
    monkeypatch.setattr(probe_record, "MARGIN", 1e5)
    with pytest.raises(WrongAnswerError, match="high answers inputs that were rounded"):
        probe.record_at(str(probed), PROBE_INPUTS)


def test_what_is_no_number_makes_no_probe(engine):
    """A publisher is told at once."""
    change_weights(engine, "low", lambda _name, array: array * np.float32("nan"))
    with pytest.raises(WrongAnswerError, match="low: the answer is not a number"):
        probe.record_at(str(engine), PROBE_INPUTS)


def test_a_prompt_that_is_too_long_makes_no_probe(engine):
    """What no reader would take is not written."""
    prompt = "a" + " " * 4096 + "red"
    with pytest.raises(MalformedError, match="prompt"):
        probe.record_at(str(engine), {**PROBE_INPUTS, "prompt": prompt})


def test_each_form_is_held_to_its_own_answers(engine):
    """Another form of a skeleton may round otherwise: what it answered itself is what counts, and nothing else."""
    model = onnx.load(engine / "high.onnx", load_external_data=False)
    (level,) = [one for one in model.graph.initializer if one.name == "per_mille"]
    level.CopyFrom(constant("per_mille", np.array([1.1e-3], np.float32)))
    (engine / "high.cuda.onnx").write_bytes(model.SerializeToString())
    digest = str(Digest.of((engine / "high.cuda.onnx").read_bytes()))
    names = {"skeletons": {"ort-cuda": "high.cuda.onnx"}, "skeleton_digests": {"ort-cuda": digest}}
    edit_json(engine / "engine.json", lambda top: top["parts"]["high"].update(names))
    with_probe(engine)
    made = json.loads((engine / "probe.json").read_text())
    assert [len(forms(made, stage)) for stage in ("text", "high", "low", "frames")] == [1, 2, 1, 1]
    golden = probe.read_probe(engine / "probe.json")
    for skeletons in ("ort-cuda", "ort-cpu"):
        with open_pipeline(engine, "ort-cpu", skeletons=skeletons) as pipeline:
            assert max(a.distance for a in probe.check(pipeline, golden)) < 1e-5
    edit_json(engine / "probe.json", lambda top: top["stages"]["high"]["answers"].pop(digest))
    golden = probe.read_probe(engine / "probe.json")
    with (
        open_pipeline(engine, "ort-cpu", skeletons="ort-cuda") as pipeline,
        pytest.raises(WrongAnswerError, match="high by inf"),
    ):
        probe.check(pipeline, golden)


def test_a_large_model_is_asked_about_a_small_clip(engine):
    """Weights are the same at any size, and a node waits for its probe."""
    edit_json(engine / "engine.json", lambda top: top["video"].update(height=720, width=1280, frames=81))
    made = probe.record_at(str(engine), PROBE_INPUTS)
    assert made["stages"]["high"]["latents"] == [1, 4, 5, 32, 32]
    assert forms(made, "frames")[0]["shape"] == [17, 256, 256, 3]


def test_one_expert(tmp_path):
    """An engine of one expert is asked about pure noise."""
    engine = make_engine(tmp_path / "one" / "fp32", experts=("high",))
    made = probe.record_at(str(engine), PROBE_INPUTS)
    assert list(made["stages"]) == ["text", "high", "frames"]
    assert made["stages"]["high"]["timestep"] == 999


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (lambda top: top.update(format=3), UnsupportedVersionError),
        (lambda top: top.update(format=0), UnsupportedVersionError),
        (lambda top: top.pop("prompt"), MalformedError),
        (lambda top: top.update(ids=[]), MalformedError),
        (lambda top: top.update(ids=[1] * (PROBE_TOKENS_MAX + 1)), MalformedError),
        (lambda top: top["context"].update(rows=0), MalformedError),
        (lambda top: top["context"].update(rows=4096, width=4096), MalformedError),
        (lambda top: top["context"].update(deviation=-1), MalformedError),
        (lambda top: top["stages"].pop("frames"), MalformedError),
        (lambda top: top["stages"].pop("text"), MalformedError),
        (lambda top: (top["stages"].pop("high"), top["stages"].pop("low")), MalformedError),
        (lambda top: top["stages"]["high"].update(seed=-1), MalformedError),
        (lambda top: top["stages"]["high"].update(timestep=10**7), MalformedError),
        (lambda top: top["stages"]["high"].update(clips=PROBE_CLIPS_MAX + 1), MalformedError),
        (lambda top: top["stages"]["high"].update(latents=[1, 4, 1, 4]), MalformedError),
        (lambda top: top["stages"]["high"].update(latents=[2, 4, 1, 4, 4]), MalformedError),
        (lambda top: top["stages"]["frames"].update(latents=[1, 4, 0, 4, 4]), MalformedError),
        (lambda top: top["stages"]["frames"].update(latents=[1, PROBE_LATENT_VALUES_MAX, 2, 1, 1]), MalformedError),
        (lambda top: top["stages"]["high"].update(answers={}), MalformedError),
        (lambda top: top["stages"]["high"].update(answers={str(form): {} for form in range(9)}), MalformedError),
        (lambda top: forms(top, "high")[0].pop("means"), MalformedError),
        (lambda top: forms(top, "text")[0].update(means=[0.5]), MalformedError),
        (lambda top: forms(top, "high")[0].update(means=[0.5] * (PROBE_MEANS_MAX + 1)), MalformedError),
        (lambda top: forms(top, "high")[0].update(means_tolerance=1), MalformedError),
        (lambda top: forms(top, "text")[0]["positions"].append(0), MalformedError),
        (lambda top: forms(top, "text")[0].update(positions=[], values=[]), MalformedError),
        (lambda top: forms(top, "text")[0]["positions"].__setitem__(0, 10**9), MalformedError),
        (lambda top: forms(top, "text")[0].update(deviation=-1), MalformedError),
        (lambda top: forms(top, "text")[0].update(tolerance="much"), MalformedError),
        (lambda top: forms(top, "text")[0].update(tolerance=PROBE_TOLERANCE_MAX * 1.01), MalformedError),
        (lambda top: forms(top, "low")[0].pop("tolerance"), MalformedError),
    ],
    ids=range(31),
)
def test_wrong_files(probed, edit, error):
    """A probe that does not follow its format is refused."""
    edit_json(probed / "probe.json", edit)
    with pytest.raises(error):
        probe.read_probe(probed / "probe.json")


@pytest.mark.parametrize(
    "edit",
    [
        lambda top: top.update(ids=[1] * 13),
        lambda top: top["context"].update(rows=13),
    ],
    ids=["ids", "context"],
)
def test_more_than_the_model_reads(probed, edit):
    """A probe that asks for a longer text than the model reads is refused, and not cut."""
    edit_json(probed / "probe.json", edit)
    with pytest.raises(MalformedError, match="13"):
        answers(probed)


def test_verify(probed):
    """``verify --run`` says what ran where, and how near each stage was."""
    found = probe.verify(candidates(probed))
    assert found["variant"] == "fp32"
    assert found["backend"] == "ort-cpu"
    assert found["probe"] is True
    assert list(found["stages"]) == STAGES
    assert found["stages"]["frames"]["distance"] < 1e-5
    (probed / "probe.json").unlink()
    without = probe.verify(candidates(probed))
    assert (without["probe"], without["stages"]) == (False, {})
    (probed / "low.safetensors").unlink()
    with pytest.raises(IncompleteModelError, match="low"):
        probe.verify(candidates(probed))
