"""A pruned expert learns from the whole one: a short regression on the teacher's own clips.

No data set is needed. The teacher makes clips from the recipe's prompts; their latents, noised anew by the
flow-matching path (Lipman et al. 2023, https://arxiv.org/abs/2210.02747) to a random time of the expert's own range,
are what teacher and student are asked, and the student moves towards the teacher's velocity (Hinton et al. 2015,
https://arxiv.org/abs/1503.02531).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from p2psync.compress.calibrate import sample
from p2psync.compress.pipeline import experts
from p2psync.compress.recipe import Pruning, Recipe
from p2psync.errors import QualityError

_WARM_UP_SHARE: Final = 0.05
_GRADIENT_NORM_MAX: Final = 1.0
# The share of questions without a prompt; guidance asks them as often as those with one.
_UNPROMPTED: Final = 0.25
_TOLD: Final = 10


@dataclass(frozen=True, slots=True)
class Lessons:
    """Clean latents (n, c, t, h, w), their prompts' embeddings (n, s, d), and the embedding of no prompt (1, s, d)."""

    latents: Tensor
    text: Tensor
    empty: Tensor


def prepare_lessons(pipeline: Any, recipe: Recipe, pruning: Pruning) -> Lessons:
    """Let the whole pipeline make ``pruning.clips`` clips from the recipe's calibration prompts, in batches."""
    prompts, seeds = recipe.calibration.prompts, range(pruning.clips)
    asked = [prompts[number % len(prompts)] for number in seeds]
    latents, texts = [], []
    with torch.no_grad():
        for start in range(0, pruning.clips, pruning.batch):
            part = asked[start : start + pruning.batch]
            numbers = [pruning.seed + 1_000_003 + number for number in seeds[start : start + pruning.batch]]
            clips = sample(pipeline, part, numbers, sampling=recipe.sampling, video=recipe.video, output="latent")
            latents.append(clips.float())
            texts.append(_embed(pipeline, part, recipe))
        empty = _embed(pipeline, [""], recipe)
    return Lessons(torch.cat(latents), torch.cat(texts), empty)


def span_of(pipeline: Any, name: str) -> tuple[float, float]:
    """The noise levels, of 0..1, that an expert is asked about."""
    ratio = pipeline.config.boundary_ratio
    if ratio is None or len(experts(pipeline)) == 1:
        return 0.0, 1.0
    return (float(ratio), 1.0) if name == "high" else (0.0, float(ratio))


def distil(
    student: Any,
    teacher: Any,
    lessons: Lessons,
    pruning: Pruning,
    *,
    span: tuple[float, float],
    tell: Callable[[int, float], None],
) -> list[float]:
    """Train ``student`` in place for ``pruning.steps`` steps.

    Args:
        student: The pruned expert, on the device of ``lessons``.
        teacher: The whole one.
        lessons: From ``prepare_lessons``.
        pruning: Steps, batch, learning rate, seed.
        span: Noise levels, from ``span_of``.
        tell: Called with step and loss, about ten times.

    Returns:
        The loss of each step: mean squared difference of velocities.

    Raises:
        QualityError: the loss is no longer a number.
    """
    optimizer = torch.optim.AdamW(student.parameters(), lr=pruning.rate, betas=(0.9, 0.98), weight_decay=0.0)
    draw = torch.Generator().manual_seed(pruning.seed)
    losses: list[float] = []
    student.train()
    for step in range(pruning.steps):
        for group in optimizer.param_groups:
            group["lr"] = pruning.rate * _schedule(step, pruning.steps)
        question = _question(lessons, pruning.batch, span, draw)
        with torch.no_grad():
            right = teacher(*question, return_dict=False)[0]
        loss = (student(*question, return_dict=False)[0] - right).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), _GRADIENT_NORM_MAX)
        optimizer.step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise QualityError(
                "the fine-tune diverged", measure="loss", value=losses[-1], floor=0.0, hint="lower prune.rate"
            )
        if step % max(1, pruning.steps // _TOLD) == 0:
            tell(step, losses[-1])
    student.eval()
    return losses


def _question(
    lessons: Lessons, batch: int, span: tuple[float, float], draw: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    device = lessons.latents.device
    chosen = torch.randint(len(lessons.latents), (batch,), generator=draw).to(device)
    clean = lessons.latents[chosen]
    level = (span[0] + (span[1] - span[0]) * torch.rand(batch, generator=draw)).to(device)
    noise = torch.randn(clean.shape, generator=draw).to(device)
    spread = level.view(-1, *[1] * (clean.ndim - 1))
    mute = (torch.rand(batch, generator=draw) < _UNPROMPTED).to(device).view(-1, 1, 1)
    text = torch.where(mute, lessons.empty, lessons.text[chosen])
    return (1 - spread) * clean + spread * noise, level * 1000, text


def _schedule(step: int, steps: int) -> float:
    warm = max(1, int(steps * _WARM_UP_SHARE))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _embed(pipeline: Any, prompts: Sequence[str], recipe: Recipe) -> Tensor:
    found, _ = pipeline.encode_prompt(
        prompt=list(prompts),
        do_classifier_free_guidance=False,
        max_sequence_length=recipe.sampling.max_sequence_length,
        device=pipeline.transformer.device,
    )
    return found.float()
