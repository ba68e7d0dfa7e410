"""From diffusers modules through the export to the node's own pipeline: the same frames, on a machine that has both."""

import os

import numpy as np
import pytest

pytest.importorskip("diffusers")
pytest.importorskip("onnxscript")
torch = pytest.importorskip("torch")

from p2psync.engine.pipeline import latent_shape, open_pipeline  # noqa: E402 - after what may be missing
from p2psync.engine.request import Wish, settle  # noqa: E402
from tests.unit.engine.tiny_engine import LENGTH, write_tokenizer  # noqa: E402
from tests.unit.engine.torch_parts import tiny_wan  # noqa: E402

RECIPE = """
name = "tiny"

[sampling]
max_sequence_length = 12

[variants.fp32]
precision = "fp32"
default = true
"""

# The export traces every part: a minute or two on a machine that does nothing else.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A WanPipeline, and the engine that was exported from it."""
    from p2psync.compress.build import build
    from p2psync.compress.recipe import read_recipe

    root = tmp_path_factory.mktemp("export")
    os.environ["HF_HUB_OFFLINE"] = "1"
    write_tokenizer(root / "tokenizer")
    wan = tiny_wan(root / "tokenizer" / "tokenizer.json")
    # Some parts keep their matrices as F16, so these hold nothing that F16 does not.
    for module in (wan.text_encoder, wan.vae, wan.transformer, wan.transformer_2):
        for weight in module.parameters():
            weight.data = weight.data.half().float()
    wan.save_pretrained(root / "checkpoint")
    (root / "recipe.toml").write_text(RECIPE)
    recipe = read_recipe(str(root / "recipe.toml"))
    build(str(root / "checkpoint"), str(root / "engines"), recipe, tell=lambda _line: None)
    return wan, root / "engines" / "fp32"


@pytest.mark.parametrize(
    ("steps", "guidance", "size", "frames"),
    [(8, 1.5, (64, 64), 9), (4, 1.0, (32, 48), 17), (2, 3.0, (64, 32), 1), (4, 6.0, (48, 48), 5)],
)
def test_frames_are_those_of_diffusers(exported, steps, guidance, size, frames):
    """Within 1e-3 per pixel of WanPipeline on the same latents, at sizes and lengths that were not exported."""
    wan, engine = exported
    with open_pipeline(engine, prove=True) as pipeline:
        wish = Wish("a red circle", 0, steps, guidance, *size, frames)
        request = settle(pipeline.described, wish)
        noise = np.random.RandomState(3).standard_normal(latent_shape(pipeline.described, request)).astype(np.float32)
        made = np.concatenate(list(pipeline.decode(pipeline.latents(request, noise=noise))))
    theirs = wan(
        prompt=request.prompt,
        height=size[0],
        width=size[1],
        num_frames=frames,
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=torch.from_numpy(noise.copy()),
        max_sequence_length=LENGTH,
        output_type="np",
    ).frames[0]
    assert made.shape == theirs.shape == (frames, *size, 3)
    assert np.abs(made - theirs).max() < 1e-3
    assert theirs.std() > 0.01
