"""Every part of a Wan pipeline is exported so that ONNX Runtime answers as torch does."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra compress)")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra engine)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra compress)")

import numpy as np  # noqa: E402 - After the question whether it can be.

from p2psync.compress import forms  # noqa: E402
from p2psync.compress.half import half  # noqa: E402
from p2psync.compress.parts import write_part  # noqa: E402
from p2psync.compress.pipeline import open_pipeline, trace_decoder, trace_text  # noqa: E402
from p2psync.errors import MalformedError, ModelNotFoundError, UnsupportedModelError  # noqa: E402


def session(path):
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def relative(found, right):
    return float(np.abs(found - right).max() / np.abs(right).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "tolerance"),
    [("portable", 1e-5), ("fused", 1e-5), ("stored", 2e-3), ("half", 5e-3)],
)
def test_expert(form, tolerance, pipeline, expert_graph, tmp_path):
    """Batch, frames, sides and tokens vary freely: float32 to 1e-5, float16 weights to 2e-3, all float16 to 5e-3."""
    made = {
        "portable": lambda: forms.portable(expert_graph),
        "fused": lambda: forms.fused(expert_graph),
        "stored": lambda: forms.store_half(forms.portable(expert_graph)),
        "half": lambda: half(forms.fused(expert_graph)),
    }[form]()
    write_part(str(tmp_path), "w.safetensors", {"g.onnx": made})
    running = session(str(tmp_path / "g.onnx"))
    torch.manual_seed(0)
    for batch, frames, height, width, tokens in ((1, 1, 2, 2, 1), (2, 3, 4, 6, 9), (1, 5, 8, 4, 32)):
        latents, text = torch.randn(batch, 16, frames, height, width), torch.randn(batch, tokens, 16)
        timestep = torch.linspace(999, 10, batch)
        with torch.no_grad():
            right = pipeline.transformer(latents, timestep, text, return_dict=False)[0].numpy()
        (found,) = running.run(None, {"latents": latents.numpy(), "timestep": timestep.numpy(), "text": text.numpy()})
        assert relative(found, right) < tolerance


@pytest.mark.slow
def test_text(pipeline, tmp_path):
    """Rows past a prompt's mask are zero, as the pipeline makes them; the others are the encoder's."""
    write_part(str(tmp_path), "w.safetensors", {"g.onnx": forms.portable(trace_text(pipeline.text_encoder))})
    ids = torch.tensor([[3, 4, 6, 1, 0, 0], [5, 7, 8, 9, 10, 1]])
    mask = (ids != 0).long()
    with torch.no_grad():
        right = pipeline.text_encoder(ids, mask).last_hidden_state.numpy() * mask.numpy()[..., None]
    (found,) = session(str(tmp_path / "g.onnx")).run(None, {"input_ids": ids.numpy(), "mask": mask.numpy()})
    assert relative(found, right) < 1e-5
    assert (found[0, 4:] == 0).all()


@pytest.mark.slow
def test_decoder_streams(pipeline, tmp_path):
    """Chunk by chunk with caches, two graphs over one weights file make the decoder's frames, of -1..1, to 2e-5."""
    first, following = trace_decoder(pipeline.vae)
    made = {"first.onnx": forms.portable(first), "next.onnx": forms.portable(following)}
    write_part(str(tmp_path), "decode.safetensors", made)
    start, go_on = (session(str(tmp_path / name)) for name in made)
    torch.manual_seed(0)
    for frames, height, width in ((1, 2, 2), (4, 3, 5)):
        latents = torch.randn(1, 16, frames, height, width)
        with torch.no_grad():
            right = pipeline.vae.decode(latents).sample.numpy()
        pieces = []
        for place in range(frames):
            feed = {"latents": latents[:, :, place : place + 1].numpy()}
            if place == 0:
                frame, *caches = start.run(None, feed)
            else:
                feed |= {f"cache_{slot}": cache for slot, cache in enumerate(caches)}
                frame, *caches = go_on.run(None, feed)
            pieces.append(frame)
        assert [piece.shape[2] for piece in pieces] == [1] + [4] * (frames - 1)
        assert all(cache.shape[2] == 2 for cache in caches)
        assert np.abs(np.concatenate(pieces, 2) - right).max() < 2e-5


def test_shards_are_read(pipeline, checkpoint):
    """A checkpoint in several shards with an index is the pipeline that was saved."""
    found = open_pipeline(str(checkpoint))
    for part in ("transformer", "transformer_2", "text_encoder", "vae"):
        saved, read = (getattr(p, part).state_dict() for p in (pipeline, found))
        assert saved.keys() == read.keys()
        assert all(torch.equal(read[name], value) for name, value in saved.items())
        assert not getattr(found, part).training


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, ModelNotFoundError),
        ("{", MalformedError),
        ("[]", MalformedError),
        ('{"_class_name": "FluxPipeline"}', UnsupportedModelError),
        ('{"_class_name": "WanPipeline", "vae": ["diffusers", "AutoencoderKLWan"]}', UnsupportedModelError),
    ],
    ids=["absent", "no JSON", "list", "other", "hollow"],
)
def test_what_is_no_pipeline_is_named(text, error, tmp_path):
    """A directory without a pipeline, with another one, or with a part missing, each has its error."""
    if text is not None:
        (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(error):
        open_pipeline(str(tmp_path))
