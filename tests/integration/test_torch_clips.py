"""Clips of the demonstration's model through torch, beside those of onnxruntime: the engine that is kept, and FP16."""

import os
import sys

import numpy as np
import pytest

import environment
from p2psync.engine.backends import backend
from p2psync.engine.pipeline import open_pipeline
from p2psync.engine.probe import check, probe_of, read_probe
from tests.unit.engine.tiny_engine import with_probe

torch = pytest.importorskip("torch", reason="torch is not installed (extra torch)")
pytest.importorskip("onnxruntime")

# A GPU convolves in TF32 and multiplies in halves. By device: how far a value may be off, and a level of 255.
VALUE_OFF, LEVELS_OFF = (2e-2, 8) if torch.cuda.is_available() else (1e-4, 2)
EXAMPLES = environment.ROOT / "examples"
BUNDLE = EXAMPLES / "wan_tiny" / "bundle"
PROMPT = "a red circle moves left"
RECIPE = """
name = "wan-tiny"

[sampling]
steps = 8
guidance = 1.5
max_sequence_length = 32

[video]
width = 96
height = 64
frames = 17
fps = 8

[variants.fp16]
default = true
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The engine of INT8 that is kept in the repository."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        from wan_tiny import engines
    finally:
        sys.path.remove(str(EXAMPLES))
    return engines.build("v1", tmp_path_factory.mktemp("kept") / "v1") / "int8-pruned"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The engine of half precision, made of the bundle, with its golden probe."""
    pytest.importorskip("diffusers")
    pytest.importorskip("onnxscript")
    from p2psync.compress.build import build
    from p2psync.compress.recipe import read_recipe

    os.environ["HF_HUB_OFFLINE"] = "1"
    root = tmp_path_factory.mktemp("exported")
    (root / "recipe.toml").write_text(RECIPE)
    build(str(BUNDLE), str(root / "engines"), read_recipe(str(root / "recipe.toml")), tell=lambda _line: None)
    return with_probe(root / "engines" / "fp16")


def outputs_of(path, feeds, name):
    session = backend(name).open(path, packed=True)
    try:
        return session.run(feeds)
    finally:
        session.close()


@pytest.mark.parametrize("part", ["high", "low"])
def test_an_expert_of_int8_is_that_of_onnxruntime(kept, part):
    """One velocity of one graph: a code that falls to the other side moves a few values, and nearly all are equal."""
    random = np.random.RandomState(0)
    feeds = {
        "latents": random.standard_normal((1, 16, 5, 8, 12)).astype(np.float32),
        "timestep": np.array([900.0], np.float32),
        "text": random.standard_normal((1, 32, 192)).astype(np.float32),
    }
    for skeleton in (f"{part}.onnx", f"{part}.cpu.onnx"):
        ours, theirs = (outputs_of(kept / skeleton, feeds, name)[0] for name in ("torch", "ort-cpu"))
        assert np.abs(ours - theirs).mean() < 0.03 * theirs.std()


def test_text_and_decoder_are_those_of_onnxruntime(kept):
    """The parts that all variants share, a second frame of the decoder with its caches included."""
    shared = kept.parent / "shared"
    ids = {"input_ids": np.arange(3, 19)[None], "mask": (np.arange(16) < 9).astype(np.int64)[None]}
    latents = {"latents": np.random.RandomState(1).standard_normal((1, 16, 1, 8, 12)).astype(np.float32)}
    for name, feeds in (("text", ids), ("decode_first", latents)):
        ours, theirs = (outputs_of(shared / f"{name}.onnx", feeds, of) for of in ("torch", "ort-cpu"))
        for our, their in zip(ours, theirs, strict=True):
            assert np.abs(our - their).max() < VALUE_OFF * max(1.0, float(np.abs(their).max()))
    caches = {f"cache_{place}": cache for place, cache in enumerate(theirs[1:])}
    later = [outputs_of(shared / "decode_next.onnx", latents | caches, name)[0] for name in ("torch", "ort-cpu")]
    assert np.abs(later[0] - later[1]).max() < VALUE_OFF


@pytest.mark.slow
def test_a_clip_of_int8_is_that_of_onnxruntime(kept):
    """The same clip, to a few levels of 255 on average: signed codes here, unsigned there, each as its graph says."""
    clips = []
    for name in ("torch", "ort-cpu"):
        with open_pipeline(kept, name, prove=True) as pipeline:
            clips.append(pipeline.generate(PROMPT, seed=3).astype(int))
    assert clips[0].shape == (17, 64, 96, 3)
    assert np.abs(clips[0] - clips[1]).mean() < 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
def test_a_clip_of_half_precision_is_that_of_onnxruntime(exported):
    """Within a few levels of 255 everywhere, and the golden probe that ``ort-cpu`` recorded is answered."""
    with open_pipeline(exported, "torch") as ours, open_pipeline(exported, "ort-cpu") as reference:
        made, wanted = (pipeline.generate(PROMPT, seed=3).astype(int) for pipeline in (ours, reference))
        assert np.abs(made - wanted).max() <= LEVELS_OFF
        assert len(check(ours, read_probe(probe_of(exported)))) == 7
