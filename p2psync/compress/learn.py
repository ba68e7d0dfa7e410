"""What is decided about a variant before anything is written: its experts' shapes, their ranges, which layers give way.

This is the part of a build that runs the pipeline, on a GPU where there is one.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from p2psync.compress import lineage
from p2psync.compress.calibrate import Calibrated, calibrate
from p2psync.compress.distil import distil, prepare_lessons, span_of
from p2psync.compress.pipeline import experts, with_experts
from p2psync.compress.prune import Kept, choose, pruned
from p2psync.compress.recipe import Pruning, Recipe, VariantRecipe
from p2psync.compress.tuned import read_tuned

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Learned:
    """A variant's pipeline, and by expert: what its calibration runs showed, and what pruning kept (or nothing)."""

    variant: VariantRecipe
    pipeline: Any
    calibrated: Mapping[str, Calibrated]
    kept: Mapping[str, Kept]


def learn(pipeline: Any, recipe: Recipe, variant: VariantRecipe, *, before: str, tell: Tell) -> Learned:
    """Prune, fine-tune and calibrate, as far as the variant asks for it.

    Args:
        pipeline: The whole pipeline; not changed.
        recipe: Prompts, sizes.
        variant: What to make of it.
        before: Directory of the same variant of the version before, whose kept indices stay; empty for none.
        tell: Called with a line before each stage.

    Raises:
        InvalidConfigError: pruning would remove too much.
        QualityError: the fine-tune diverged.
    """
    kept: dict[str, Kept] = {}
    if variant.prune is not None:
        pipeline, kept = _shrink(pipeline, recipe, variant, variant.prune, before, tell)
    calibrated: Mapping[str, Calibrated] = {}
    if variant.precision == "int8":
        tell(
            f"{variant.name}: calibrating on {min(len(recipe.calibration.prompts), recipe.calibration.clips_max)} clips"
        )
        calibrated = calibrate(pipeline, recipe)
    return Learned(variant, pipeline, calibrated, kept)


def chosen_layers(layers: Sequence[str], variant: VariantRecipe) -> list[str]:
    """Those of ``layers`` that become INT8: not in the first and last blocks, nor kept by a pattern."""
    last = max((_block(layer) for layer in layers), default=0)
    return [
        layer
        for layer in layers
        if variant.keep_first <= _block(layer) <= last - variant.keep_last
        and not any(fnmatch.fnmatchcase(layer, pattern) for pattern in variant.keep)
    ]


def _block(layer: str) -> int:
    return int(layer.split(".", 2)[1])


def _shrink(
    pipeline: Any, recipe: Recipe, variant: VariantRecipe, pruning: Pruning, before: str, tell: Tell
) -> tuple[Any, dict[str, Kept]]:
    whole = experts(pipeline)
    if pruning.tuned:
        tell(f"{variant.name}: taking the fine-tune in {pruning.tuned}")
        indices, learned = read_tuned(os.path.join(recipe.directory, pruning.tuned), whole)
        return with_experts(pipeline, learned), dict(indices)
    tell(f"{variant.name}: ranking channels and heads")
    frozen = lineage.read_kept(before, list(whole)) if before else None
    seen = calibrate(pipeline, recipe, calls_max=16)
    kept: dict[str, Kept] = {}
    small: dict[str, Any] = {}
    for name, expert in whole.items():
        kept[name] = frozen[name] if frozen else choose(expert, seen[name].calls, pruning)
        small[name] = pruned(expert, kept[name], seen[name].calls)
    if pruning.steps:
        tell(f"{variant.name}: making {pruning.clips} clips to learn from")
        lessons = prepare_lessons(pipeline, recipe, pruning)
        for name, student in small.items():
            say = _progress(tell, f"{variant.name}: {name}", pruning.steps)
            distil(student, whole[name], lessons, pruning, span=span_of(pipeline, name), tell=say)
    return with_experts(pipeline, small), kept


def _progress(tell: Tell, label: str, steps: int) -> Callable[[int, float], None]:
    def say(step: int, loss: float) -> None:
        tell(f"{label}: step {step} of {steps}, loss {loss:.5f}")

    return say
