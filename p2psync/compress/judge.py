"""Measure a variant: the same prompts and seeds through it and through its reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2psync.compress.calibrate import as_quantized, generate
from p2psync.compress.pipeline import experts
from p2psync.compress.quality import Report
from p2psync.compress.quantize import Grid
from p2psync.compress.recipe import Recipe, VariantRecipe
from p2psync.compress.similarity import ssim

# A prompt and a seed to a clip: (frames, height, width, 3), 0..1.
Generate = Callable[[str, int], NDArray[np.float32]]
# A prompt and a clip to whether the clip shows what the prompt asks for.
Judge = Callable[[str, NDArray[np.float32]], bool]


def simulated(pipeline: Any, recipe: Recipe, grids: Mapping[str, Grid]) -> Generate:
    """Clips of a pipeline in torch, computing the layers of ``grids`` (by expert) as their INT8 graphs do."""

    def run(prompt: str, seed: int) -> NDArray[np.float32]:
        with ExitStack() as stack:
            for name, grid in grids.items():
                stack.enter_context(as_quantized(experts(pipeline)[name], list(grid.scales), grid))
            return generate(pipeline, prompt, seed=seed, sampling=recipe.sampling, video=recipe.video)

    return run


def measure(
    recipe: Recipe,
    variant: VariantRecipe,
    *,
    reference: Generate,
    candidate: Generate,
    layers: Sequence[tuple[str, float]],
    judge: Judge | None,
) -> Report:
    """Run the recipe's quality prompts through both.

    Args:
        recipe: Prompts, seeds and floors.
        variant: Whose floors count where it has its own.
        reference: Makes the clips to be like.
        candidate: Makes the variant's clips.
        layers: (layer, error), for the report.
        judge: Says whether a clip shows its prompt; None where nobody can.

    Returns:
        The report; whether it is good enough is the gate's question.
    """
    settings = recipe.quality
    alike: list[float] = []
    right: list[bool] = []
    for number, prompt in enumerate(settings.prompts[: settings.clips_max]):
        seed = settings.seed + number
        clip = candidate(prompt, seed)
        alike.append(ssim(reference(prompt, seed), clip))
        if judge is not None:
            right.append(bool(judge(prompt, clip)))
    return Report(
        variant=variant.name,
        reference=settings.reference,
        clips=len(alike),
        ssim=sum(alike) / len(alike),
        ssim_least=min(alike),
        ssim_floor=variant.ssim if variant.ssim >= 0 else settings.ssim,
        accuracy=sum(right) / len(right) if right else None,
        accuracy_floor=variant.accuracy if variant.accuracy >= 0 else settings.accuracy,
        layers=tuple(layers),
    )
