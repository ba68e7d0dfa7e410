"""Estimates count what the networks are: the real Wan2.2, whose parameters are known, and engines of one's own."""

import json

import pytest

from p2psync.engine.description import read_description
from p2psync.engine.plan import Size, estimate, plan
from p2psync.engine.request import Wish
from p2psync.engine.shapes import decoder_parameters, of_checkpoint, of_engine
from p2psync.errors import MalformedError, UnfitRequestError, UnsupportedModelError
from tests.unit.engine.tiny_engine import edit_json

TRANSFORMER = {
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "in_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 13824,
    "num_layers": 40,
    "patch_size": [1, 2, 2],
}
TEXT = {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "d_kv": 64, "vocab_size": 256384}
VAE = {"base_dim": 96, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}
LARGE = Size(height_px=720, width_px=1280, frames=81, steps=40, guided=True)


@pytest.fixture
def checkpoint(tmp_path):
    """The config files of Wan2.2-T2V-A14B, without its 64 GB of weights."""
    index = {"_class_name": "WanPipeline", "boundary_ratio": 0.875}
    for name, value in (("transformer", TRANSFORMER), ("text_encoder", TEXT), ("vae", VAE)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(value))
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    return tmp_path


def test_parameters_of_the_real_model(checkpoint):
    """The counts are those of the published model: 14,288,491,584 per expert, 73.3 M in the decoder."""
    shapes = of_checkpoint(checkpoint)
    assert shapes.experts == ("high", "low")
    assert shapes.weights_bytes["high"] == shapes.weights_bytes["low"]
    assert shapes.weights_bytes["high"] / 2 == pytest.approx(14_288_491_584, rel=1e-3)
    assert shapes.weights_bytes["text"] / 2 == pytest.approx(5.68e9, rel=1e-2)
    assert decoder_parameters(shapes.decoder, 16) == pytest.approx(73.3e6, rel=2e-2)


def test_720p_of_the_real_model(checkpoint):
    """On a GPU with fused attention one expert at a time fits 80 GB; kept scores alone would fill thousands."""
    shapes = of_checkpoint(checkpoint)
    fused = plan(shapes, LARGE, "ort-cuda", rate=400e12, available_bytes=80 * 10**9)
    assert fused.tokens == 21 * 45 * 80
    assert fused.scores_bytes == 0
    assert fused.fits == "swapped"
    assert fused.tiled
    assert 30e9 < fused.swapped_bytes < 50e9 < fused.together_bytes
    # 80 calls of 2 x 14 G x 75,600 products, and about as much for attention.
    assert 2 * 14e9 * 75_600 * 80 < fused.operations < 8 * 14e9 * 75_600 * 80
    assert 300 < fused.seconds < 7200
    plain = plan(shapes, LARGE, "ort-cpu", rate=100e9, available_bytes=64 * 10**9)
    assert plain.scores_bytes == 4 * 40 * 75_600**2 * 4
    assert plain.fits == "no"


def test_torch_is_wide_and_keeps_no_scores(checkpoint):
    """Between products torch computes in float32, twice what another backend of a GPU holds; attention is fused."""
    shapes = of_checkpoint(checkpoint)
    torch, ort = (plan(shapes, LARGE, name, rate=None, available_bytes=None) for name in ("torch", "ort-cuda"))
    assert torch.scores_bytes == 0
    assert torch.expert_bytes == 2 * ort.expert_bytes


def test_grows_with_the_clip(checkpoint):
    """More frames are more tokens and more work; decoding needs no more memory for them where nothing is tiled."""
    shapes = of_checkpoint(checkpoint)

    def of(frames, steps=4, guided=False):
        size = Size(height_px=480, width_px=480, frames=frames, steps=steps, guided=guided)
        return plan(shapes, size, "ort-cuda", rate=1e12, available_bytes=None)

    assert of(81).tokens == 21 * of(1).tokens
    assert of(81).decode_bytes == of(17).decode_bytes
    assert of(81).operations > 4 * of(17).operations
    assert of(9, guided=True).operations > 1.5 * of(9).operations
    assert of(9).fits == "unknown"


def test_of_an_engine(shared_engine):
    """An engine directory is estimated from its own facts, with a rate that is measured here."""
    made = estimate(shared_engine, Wish("", height_px=64, width_px=64, frames=17))
    assert made.backend == "ort-cpu"
    assert made.tokens == 5 * 4 * 4
    assert made.fits == "together"
    assert made.seconds > 0
    assert made.unknown == ()
    assert json.loads(json.dumps(made.record()))["tokens"] == 80
    assert made.weights_bytes == read_description(shared_engine).weights_bytes


def test_says_what_it_does_not_know(engine):
    """Without facts about its networks an engine's plan has its weights and names what is missing."""
    edit_json(engine / "engine.json", lambda top: top.pop("cost"))
    made = estimate(engine, Wish(""))
    assert made.unknown == ("expert", "text", "decoder")
    assert made.seconds is None
    assert made.fits == "unknown"
    assert made.weights_bytes > 0


def test_experts_that_share_files(engine):
    """Two names for one expert are loaded once and counted once."""
    edit_json(engine / "engine.json", lambda top: top["parts"].update(low=top["parts"]["high"]))
    shapes = of_engine(read_description(engine))
    assert shapes.weights_bytes["low"] == 0
    assert shapes.weights_bytes["high"] > 0


def test_refusals(engine, checkpoint, tmp_path):
    """A size that cannot be made, a directory that is neither, and facts that are none are refused."""
    with pytest.raises(UnfitRequestError, match="16"):
        estimate(engine, Wish("", height_px=100))
    with pytest.raises(UnfitRequestError, match=r"4k\+1"):
        estimate(checkpoint, Wish("", frames=80))
    with pytest.raises(UnsupportedModelError, match="neither"):
        estimate(tmp_path / "nowhere", Wish(""))
    edit_json(engine / "engine.json", lambda top: top["cost"]["expert"].update(hidden="wide"))
    with pytest.raises(MalformedError, match="hidden"):
        estimate(engine, Wish(""))
    edit_json(engine / "engine.json", lambda top: top["cost"]["expert"].update(hidden=64))
    edit_json(engine / "engine.json", lambda top: top["cost"]["decoder"].update(multipliers=[]))
    with pytest.raises(MalformedError, match="multipliers"):
        estimate(engine, Wish(""))
    edit_json(checkpoint / "model_index.json", lambda top: top.update(_class_name="FluxPipeline"))
    with pytest.raises(UnsupportedModelError, match="WanPipeline"):
        of_checkpoint(checkpoint)


@pytest.mark.parametrize(("part", "field", "value"), [("transformer", "patch_size", [1, 2]), ("vae", "dim_mult", [])])
def test_lists_of_a_checkpoint_that_are_too_short_are_refused(checkpoint, part, field, value):
    """Their file and their name are told."""
    edit_json(checkpoint / part / "config.json", lambda top: top.update({field: value}))
    with pytest.raises(MalformedError, match=field):
        of_checkpoint(checkpoint)
