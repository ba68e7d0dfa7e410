"""The node's own loop makes the frames of diffusers' WanPipeline from the same latents and the same modules."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

from p2psync.engine.description import Latent, read_description  # noqa: E402 - after what may be missing
from p2psync.engine.pipeline import Pipeline, latent_shape, to_bytes  # noqa: E402
from p2psync.engine.request import Wish, settle  # noqa: E402
from p2psync.engine.text import Tokenizer  # noqa: E402
from tests.unit.engine.tiny_engine import LENGTH, edit_json, make_engine  # noqa: E402
from tests.unit.engine.torch_parts import TorchParts, tiny_wan  # noqa: E402


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A WanPipeline, and the same modules behind the engine's loop."""
    root = tmp_path_factory.mktemp("wan")
    engine = make_engine(root / "fp32")
    tokenizer_file = root / "tokenizer" / "tokenizer.json"
    wan = tiny_wan(tokenizer_file)
    config = wan.vae.config
    latent = {"channels": 16, "spatial": 8, "temporal": 4, "mean": config.latents_mean, "std": config.latents_std}
    edit_json(engine / "engine.json", lambda top: top.update(latent=latent))
    described = read_description(Path(engine))
    assert isinstance(described.latent, Latent)
    parts = TorchParts(wan)
    return wan, Pipeline(described, parts, Tokenizer(tokenizer_file, LENGTH), "torch"), parts


@pytest.mark.parametrize(
    ("steps", "guidance", "size", "frames"),
    [
        (1, 1.0, (32, 32), 1),
        (2, 6.0, (16, 16), 9),
        (4, 1.5, (32, 48), 5),
        (8, 1.0, (32, 32), 9),
        (8, 3.0, (32, 32), 17),
    ],
)
def test_frames_are_equal(both, steps, guidance, size, frames):
    """Within 1e-3 per pixel, and at most one of 256 levels, with and without guidance, over both experts."""
    wan, ours, parts = both
    wish = Wish(
        "a  red circle &amp; مربع", steps=steps, guidance=guidance, height_px=size[0], width_px=size[1], frames=frames
    )
    request = settle(ours.described, wish)
    noise = np.random.RandomState(3).standard_normal(latent_shape(ours.described, request)).astype(np.float32)
    theirs = wan(
        prompt=wish.prompt,
        height=size[0],
        width=size[1],
        num_frames=frames,
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=torch.from_numpy(noise.copy()),
        max_sequence_length=LENGTH,
        output_type="np",
    ).frames[0]
    parts.called.clear()
    made = np.concatenate(list(ours.decode(ours.latents(request, noise=noise))))
    assert made.shape == theirs.shape == (frames, *size, 3)
    assert np.abs(made - theirs).max() < 1e-3
    assert np.abs(to_bytes(made).astype(int) - np.rint(theirs * 255).astype(int)).max() <= 1
    assert theirs.std() > 0.01
    assert set(parts.called) >= ({"high", "low"} if steps > 1 else {"high"})
