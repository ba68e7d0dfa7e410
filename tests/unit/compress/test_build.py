"""A checkpoint and a recipe become a directory that publishes, whole or not at all."""

import json
import os
import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra compress)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra compress)")

import numpy as np  # noqa: E402 - After the question whether it can be.
from safetensors.numpy import load_file  # noqa: E402

from p2psync.compress import lineage, parse_recipe, read_report  # noqa: E402
from p2psync.compress.build import Options, build  # noqa: E402
from p2psync.compress.parts import file_digest  # noqa: E402
from p2psync.engine.pipeline import open_pipeline  # noqa: E402
from p2psync.engine.probe import check, read_probe, record_at  # noqa: E402
from p2psync.errors import ModelNotFoundError, QualityError, StoreUnwritableError  # noqa: E402
from p2psync.store.settings import choose_files, parse_settings  # noqa: E402

# A build traces six graphs, which takes a minute or two on an idle machine.
pytestmark = pytest.mark.timeout(1500)

RECIPE = """
name = "tiny"
[sampling]
steps = 2
[video]
height = 16
width = 16
frames = 5
[calibration]
prompts = ["a red circle moves left", "a blue square moves right"]
steps = 4
[quality]
prompts = ["a blue circle moves left"]
ssim = {ssim}
[variants.fp16]
[variants.int8]
precision = "int8"
default = true
keep_first = 0
keep_last = 0
[variants.int8-pruned]
precision = "int8"
keep_first = 0
keep_last = 0
prune = {{ ffn = 0.25, heads = 0.25, clips = 2, steps = 2, batch = 2 }}
"""
SMALL = """
[variants.small]
source = "small"
ssim = 0.0
"""


def recipe_of(directory, ssim=0.1, more=""):
    return parse_recipe((RECIPE.format(ssim=ssim) + more).encode(), directory=str(directory))


@pytest.fixture(scope="module")
def small(pipeline, make_expert, tmp_path_factory):
    """One narrow expert around the same text encoder and decoder, as if trained apart."""
    folder = tmp_path_factory.mktemp("trained")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = {**pipeline.components, "transformer": make_expert(3, layers=1, ffn=16), "transformer_2": None}
        type(pipeline)(**parts, boundary_ratio=None).save_pretrained(folder / "small")
    return folder


@pytest.fixture(scope="module")
def built(checkpoint, small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    told = []
    # The judge says yes, so its share must be one.
    options = Options(judge=lambda _prompt, clip: clip.shape == (5, 16, 16, 3), probe=record_at)
    reports = build(
        str(checkpoint), str(folder / "engine"), recipe_of(small, more=SMALL), tell=told.append, options=options
    )
    assert [entry.name for entry in folder.iterdir()] == ["engine"]
    return folder / "engine", reports, told


@pytest.mark.slow
def test_descriptions_bind_their_files(built):
    """Every path is there, every digest is the file's, and skeletons stand beside their weights."""
    root, _, _ = built
    for variant in ("fp16", "int8", "int8-pruned"):
        described = json.loads((root / variant / "engine.json").read_text())
        assert set(described["parts"]) == {"text", "high", "low", "decode_first", "decode_next"}
        assert (root / variant / described["tokenizer"]).is_file()
        for part in described["parts"].values():
            skeletons = {part["skeleton"]: part["skeleton_digest"]}
            skeletons |= {path: part["skeleton_digests"][b] for b, path in part.get("skeletons", {}).items()}
            for path, digest in skeletons.items():
                file = root / variant / path
                assert str(file_digest(str(file))) == digest
                assert file.stat().st_size < 100_000
                assert Path(path).parent == Path(part["weights"]).parent
            assert str(file_digest(str(root / variant / part["weights"]))) == part["weights_digest"]


@pytest.mark.slow
def test_variants_share_text_encoder_and_decoder(built):
    """They stand once; INT8 weights are INT8, and pruned ones are fewer."""
    root, _, _ = built
    texts = [
        json.loads((root / v / "engine.json").read_text())["parts"]["text"] for v in ("fp16", "int8", "int8-pruned")
    ]
    assert texts[0] == texts[1] == texts[2]
    names = ("fp16", "int8", "int8-pruned")
    weights = [load_file(root / v / "high.safetensors")["blocks.0.ffn.net.0.proj.weight.T"] for v in names]
    assert [w.dtype for w in weights] == [np.float16, np.int8, np.int8]
    assert [w.shape for w in weights] == [(48, 64), (48, 64), (48, 48)]
    kept = lineage.read_kept(str(root / "int8-pruned"), ["high", "low"])
    assert len(kept["high"]["blocks.1.ffn"]) == 48
    assert len(kept["low"]["blocks.0.attn2"]) == 3


@pytest.mark.slow
def test_a_variant_that_was_trained_apart(built):
    """It has one expert and no boundary, and what equals its siblings' it shares with them."""
    described = json.loads((built[0] / "small" / "engine.json").read_text())
    assert set(described["parts"]) == {"text", "high", "decode_first", "decode_next"}
    assert "boundary_ratio" not in described["sampling"]
    assert described["parts"]["text"]["skeleton"] == "../shared/text.onnx"
    assert described["cost"]["expert"] == {"hidden": 48, "layers": 1, "heads": 4, "ffn": 16, "patch": [1, 2, 2]}


@pytest.mark.slow
def test_the_settings_are_those_that_publishing_reads(built):
    """``p2psync.toml`` names every variant's files, and the default is the recipe's."""
    root, _, _ = built
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.suffix != ".toml")
    variants = {v.name: v for v in choose_files(parse_settings((root / "p2psync.toml").read_bytes()), files)}
    assert set(variants) == {"fp16", "int8", "int8-pruned", "small"}
    assert [v.name for v in variants.values() if v.default] == ["int8"]
    named = {files[number] for number in variants["int8"].files}
    assert {"int8/engine.json", "shared/text.onnx", "tokenizer/tokenizer.json"} <= named
    assert not any(name.startswith("fp16/") for name in named)
    assert 0 < variants["int8-pruned"].memory_bytes < variants["fp16"].memory_bytes


@pytest.mark.slow
def test_every_variant_has_a_golden_probe(built):
    """It is recorded on the engine that nodes run, named where publishing looks for it, and answered."""
    root, _, told = built
    settings = parse_settings((root / "p2psync.toml").read_bytes())
    assert {one.name: one.probe for one in settings} == {
        name: f"{name}/probe.json" for name in ("fp16", "int8", "int8-pruned", "small")
    }
    recorded = json.loads((root / "int8" / "probe.json").read_text())
    assert recorded["prompt"] == "a blue circle moves left"
    assert set(recorded["stages"]) == {"text", "high", "low", "frames"}
    # Signed and unsigned activations round differently: each skeleton has answers of its own.
    answers = recorded["stages"]["high"]["answers"]
    described = json.loads((root / "int8" / "engine.json").read_text())["parts"]["high"]
    assert set(answers) == {described["skeleton_digest"], *described["skeleton_digests"].values()}
    assert all(0 < answer["apart"] < answer["tolerance"] for answer in answers.values())
    # Asked of the backend itself: a processor without fast INT8 would not be chosen for it.
    with open_pipeline(root / "int8", "ort-cpu") as engine:
        assert len(check(engine, read_probe(root / "int8" / "probe.json"))) == 7
    assert "int8: recording its golden probe" in told


@pytest.mark.slow
def test_reports_are_beside_their_variants(built):
    """The reference has none; the others name both measures, the floor and their layers, worst first."""
    root, reports, told = built
    assert [report.variant for report in reports] == ["int8", "int8-pruned", "small"]
    assert read_report(str(root / "fp16")) is None
    for report in reports[:2]:
        assert read_report(str(root / report.variant)) == report
        assert 0.1 <= report.ssim <= 1
        assert report.accuracy == 1.0
        errors = [error for _, error in report.layers]
        assert errors == sorted(errors, reverse=True)
        assert {name.partition(".")[0] for name, _ in report.layers} == {"high", "low"}
        assert len(errors) == 2 * 2 * 10
    assert told[0].startswith("loading")


@pytest.mark.slow
def test_a_variant_under_its_floor_leaves_nothing(checkpoint, built, tmp_path):
    """The gate ends the build, the directory does not appear, and the version before still decides the scales."""
    with pytest.raises(QualityError, match="SSIM") as caught:
        build(
            str(checkpoint),
            str(tmp_path / "engine"),
            recipe_of(tmp_path, ssim=1.0),
            tell=lambda _: None,
            options=Options(before=str(built[0])),
        )
    assert caught.value.worst
    assert list(tmp_path.iterdir()) == []


def test_an_existing_target_is_left_alone(checkpoint, tmp_path):
    """Nothing is overwritten, and nothing is read before that is sure."""
    (tmp_path / "engine").mkdir()
    with pytest.raises(StoreUnwritableError, match="exists"):
        build(str(checkpoint), str(tmp_path / "engine"), recipe_of(tmp_path), tell=lambda _: None)
    assert os.listdir(tmp_path) == ["engine"]


def test_a_missing_checkpoint_leaves_nothing(tmp_path):
    """A source that is none is named, and no half-made directory stays."""
    with pytest.raises(ModelNotFoundError):
        build(str(tmp_path / "none"), str(tmp_path / "engine"), recipe_of(tmp_path), tell=lambda _: None)
    assert list(tmp_path.iterdir()) == []
