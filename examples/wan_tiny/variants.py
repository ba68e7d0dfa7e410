"""The variants of the recipe as their graphs compute them, in torch and in batches, so that a GPU can judge them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from p2psync.compress import read_recipe
from p2psync.compress.calibrate import as_quantized, sample
from p2psync.compress.learn import Learned, chosen_layers, learn
from p2psync.compress.pipeline import experts, open_pipeline
from p2psync.compress.quantize import Grid, weight_scales
from p2psync.compress.recipe import Sampling
from p2psync.compress.similarity import ssim
from wan_tiny.exam import Setting

RECIPE: Final = Path(__file__).parent / "recipe.toml"


@contextmanager
def open_variant(bundle: str, name: str, device: Any) -> Iterator[Any]:
    """Give the pipeline of a variant on the device; INT8 layers round their inputs and weights as the graph does."""
    recipe = read_recipe(str(RECIPE))
    variant = next(one for one in recipe.variants if one.name == name)
    pipeline = open_pipeline(f"{recipe.directory}/{variant.source}" if variant.source else bundle).to(device)
    learned = learn(pipeline, recipe, variant, before="", tell=lambda _: None)
    with ExitStack() as stack:
        for expert, module in experts(learned.pipeline).items() if variant.precision == "int8" else ():
            grid = grid_of(module, learned, expert)
            stack.enter_context(as_quantized(module, list(grid.scales), grid))
        yield learned.pipeline


def grid_of(module: nn.Module, learned: Learned, expert: str) -> Grid:
    """Return the grid by which an expert's graph is quantised."""
    linear = {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear) and n.startswith("blocks.")}
    layers = chosen_layers(list(linear), learned.variant)
    ranges = learned.calibrated[expert].ranges
    weights = {layer: linear[layer].weight.detach().float().cpu().numpy() for layer in layers}
    return Grid(
        {layer: ranges[layer] for layer in layers},
        {layer: weight_scales(weight, axis=0) for layer, weight in weights.items()},
    )


def likeness(whole: Any, other: Any, setting: Setting = Setting()) -> dict[str, float]:  # noqa: B008 - frozen
    """Return mean and least SSIM between the clips of two pipelines on the recipe's quality prompts and seeds."""
    recipe = read_recipe(str(RECIPE))
    sampling = Sampling(setting.steps, setting.guidance, setting.tokens)
    asked = recipe.quality.prompts[: recipe.quality.clips_max]
    seeds = [recipe.quality.seed + number for number in range(len(asked))]
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    pairs = [
        sample(pipeline, asked, seeds, sampling=sampling, video=recipe.video, output="np")
        for pipeline in (whole, other)
    ]
    torch.set_float32_matmul_precision(precision)
    found = [ssim(first, second) for first, second in zip(*pairs, strict=True)]
    return {"mean": round(float(np.mean(found)), 4), "least": round(float(min(found)), 4), "clips": len(found)}
