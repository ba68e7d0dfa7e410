"""A recipe: what is made of one checkpoint, as TOML, with a digest. Read without torch.

A recipe names the engine, how it samples, the prompts that calibrate and judge, and one table per variant. What it
does not say has a default that is written here, so that a recipe and a checkpoint decide every byte that comes out.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from p2psync.content import Digest
from p2psync.errors import InvalidConfigError, ModelNotFoundError
from p2psync.limits import INTEGER_MAX, RECIPE_BYTES_MAX, RECIPE_PROMPTS_MAX, VARIANTS_MAX, WORD_CHARS_MAX

_T = TypeVar("_T")
PRECISIONS: Final = ("fp32", "fp16", "int8")
_WORD: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{WORD_CHARS_MAX - 1}}}")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the pipeline samples unless told otherwise. ``max_sequence_length`` is the one of training, in tokens."""

    steps: int = 8
    guidance: float = 1.5
    max_sequence_length: int = 32


@dataclass(frozen=True, slots=True)
class Video:
    """The clip that is made unless told otherwise, in pixels, frames and frames per second."""

    height: int = 64
    width: int = 64
    frames: int = 9
    fps: int = 8


@dataclass(frozen=True, slots=True)
class Calibration:
    """Prompts whose runs show the ranges of activations, ``clips_max`` of them; ``percentile`` of values are kept."""

    prompts: tuple[str, ...] = ()
    prompts_file: str = ""
    clips_max: int = 16
    steps: int = 8
    seed: int = 0
    percentile: float = 100.0


@dataclass(frozen=True, slots=True)
class Quality:
    """The floor. ``ssim`` is the mean over clips of equal seed against ``reference``; ``accuracy`` is a share of 1."""

    prompts: tuple[str, ...] = ()
    prompts_file: str = ""
    clips_max: int = 8
    seed: int = 1
    reference: str = "fp16"
    ssim: float = 0.85
    accuracy: float = 0.0


@dataclass(frozen=True, slots=True)
class Pruning:
    """What is removed: shares of FFN channels and of attention heads, of 1, and how long the rest learns to make up.

    ``parameters_max`` bounds what is removed, as a share of an expert's parameters. The rest learns from ``clips``
    clips of the whole pipeline, for ``steps`` steps of ``batch`` questions. ``tuned`` is a file beside the recipe that
    holds what such a fine-tune came to (see ``tuned.write_tuned``); then nothing is ranked and nothing learned.
    """

    ffn: float = 0.4
    heads: float = 0.25
    parameters_max: float = 0.35
    clips: int = 256
    steps: int = 400
    batch: int = 16
    rate: float = 2e-4
    seed: int = 0
    tuned: str = ""


@dataclass(frozen=True, slots=True)
class VariantRecipe:
    """One variant.

    ``keep`` are patterns of layer names (``blocks.2.attn1.*``) that stay precise, beside the first ``keep_first`` and
    the last ``keep_last`` blocks. ``source`` is another checkpoint directory beside the recipe, for a variant that
    was trained apart. ``accuracy`` and ``ssim``, when not negative, replace the floors of the recipe.
    """

    name: str
    precision: str = "fp16"
    default: bool = False
    keep: tuple[str, ...] = ()
    keep_first: int = 1
    keep_last: int = 1
    source: str = ""
    prune: Pruning | None = None
    ssim: float = -1.0
    accuracy: float = -1.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that a build needs besides the checkpoint. ``directory`` is where the recipe stands."""

    name: str
    variants: tuple[VariantRecipe, ...]
    digest: Digest
    directory: str
    sampling: Sampling = field(default_factory=Sampling)
    video: Video = field(default_factory=Video)
    calibration: Calibration = field(default_factory=Calibration)
    quality: Quality = field(default_factory=Quality)


def read_recipe(path: str) -> Recipe:
    """Read a recipe file, and the files of prompts that it names (one prompt a line, relative to the recipe).

    Raises:
        ModelNotFoundError: there is no such file.
        InvalidConfigError: it is too long, no TOML, or a key or value is not what it must be.
    """
    data = _read_bounded(path)
    directory = os.path.dirname(os.path.abspath(path))
    return parse_recipe(data, directory=directory)


def parse_recipe(data: bytes, *, directory: str) -> Recipe:
    """Read the bytes of a recipe.

    Raises:
        InvalidConfigError: as ``read_recipe``.
    """
    try:
        top = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidConfigError(f"recipe: {error}") from error
    _check_keys(top, ("name", "sampling", "video", "calibration", "quality", "variants"), "")
    name = top.get("name")
    if not isinstance(name, str) or not _WORD.fullmatch(name):
        raise InvalidConfigError("recipe: name must be a word of letters, digits, . _ -")
    tables = top.get("variants", {})
    if not isinstance(tables, dict) or not 0 < len(tables) <= VARIANTS_MAX:
        raise InvalidConfigError(f"recipe: there must be 1 to {VARIANTS_MAX} tables [variants.NAME]")
    calibration = _table(Calibration, top.get("calibration", {}), "calibration")
    quality = _table(Quality, top.get("quality", {}), "quality")
    recipe = Recipe(
        name,
        tuple(_variant(label, table) for label, table in tables.items()),
        Digest.of(data),
        directory,
        _table(Sampling, top.get("sampling", {}), "sampling"),
        _table(Video, top.get("video", {}), "video"),
        dataclasses.replace(calibration, prompts=_prompts(calibration, directory)),
        dataclasses.replace(quality, prompts=_prompts(quality, directory)),
    )
    _check(recipe)
    return recipe


def _check(recipe: Recipe) -> None:
    video, names = recipe.video, {variant.name for variant in recipe.variants}
    if video.height % 16 or video.width % 16 or min(video.height, video.width) < 16 or video.frames % 4 != 1:
        raise InvalidConfigError("recipe: video: sides are multiples of 16, frames are 4 k + 1")
    if sum(variant.default for variant in recipe.variants) > 1:
        raise InvalidConfigError("recipe: more than one variant is the default")
    for variant in recipe.variants:
        where = f"variants.{variant.name}"
        if variant.precision not in PRECISIONS:
            raise InvalidConfigError(f"recipe: {where}.precision must be one of {', '.join(PRECISIONS)}")
        if variant.precision == "int8" and not recipe.calibration.prompts:
            raise InvalidConfigError(f"recipe: {where} needs calibration.prompts or calibration.prompts_file")
        if variant.prune is not None and not (0 <= variant.prune.ffn < 1 and 0 <= variant.prune.heads < 1):
            raise InvalidConfigError(f"recipe: {where}.prune: ffn and heads are shares from 0 to below 1")
    if recipe.quality.prompts and recipe.quality.reference not in names:
        raise InvalidConfigError(f"recipe: quality.reference: there is no variant {recipe.quality.reference!r}")


def _variant(name: str, table: Any) -> VariantRecipe:
    where = f"variants.{name}"
    if not _WORD.fullmatch(name):
        raise InvalidConfigError(f"recipe: {name!r} is no name of a variant: letters, digits, . _ -")
    if not isinstance(table, dict) or "name" in table:
        raise InvalidConfigError(f"recipe: {where} must be a table without a name")
    values = dict(table)
    prune = values.pop("prune", None)
    variant = _table(VariantRecipe, {**values, "name": name}, where)
    return variant if prune is None else dataclasses.replace(variant, prune=_table(Pruning, prune, f"{where}.prune"))


def _table(kind: type[_T], table: Any, where: str) -> _T:
    """A dataclass from a table: every key known, every value of the field's type and finite."""
    if not isinstance(table, dict):
        raise InvalidConfigError(f"recipe: {where} must be a table")
    hints = typing.get_type_hints(kind)
    _check_keys(table, tuple(hints), where)
    return kind(**{key: _value(value, hints[key], f"{where}.{key}") for key, value in table.items()})


def _value(value: Any, hint: Any, where: str) -> Any:
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if hint is int and type(value) is int and 0 <= value <= INTEGER_MAX:
        return value
    if hint in (str, bool) and type(value) is hint:
        return value
    if hint == tuple[str, ...] and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    kinds = {float: "a number", int: "a count", str: "text", bool: "true or false"}
    raise InvalidConfigError(f"recipe: {where} must be {kinds.get(hint, 'a list of texts')}")


def _check_keys(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)
            name = f"{where}.{key}" if where else key
            raise InvalidConfigError(f"recipe: unknown key {name}", hint=f"did you mean {near[0]}?")


def _prompts(table: Calibration | Quality, directory: str) -> tuple[str, ...]:
    prompts = list(table.prompts)
    if table.prompts_file:
        data = _read_bounded(os.path.join(directory, table.prompts_file))
        try:
            prompts += [line for line in data.decode().splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise InvalidConfigError(f"recipe: {table.prompts_file} is no text in UTF-8") from error
    if len(prompts) > RECIPE_PROMPTS_MAX:
        raise InvalidConfigError(f"recipe: {len(prompts)} prompts; at most {RECIPE_PROMPTS_MAX} are possible")
    return tuple(prompts)


def _read_bounded(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(RECIPE_BYTES_MAX + 1)
    except OSError as error:
        raise ModelNotFoundError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > RECIPE_BYTES_MAX:
        raise InvalidConfigError(f"{path} is longer than {RECIPE_BYTES_MAX} bytes")
    return data
