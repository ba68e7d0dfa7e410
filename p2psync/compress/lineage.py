"""What one version's variants hand to the next: scales, ranges and kept indices, frozen, so that few codes change."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from p2psync.compress.prune import Kept
from p2psync.compress.quantize import Grid, Range
from p2psync.compress.tensors import Source, write_tensors
from p2psync.errors import MalformedError, ModelNotFoundError

KEPT_NAME: Final = "kept.safetensors"
_SCALE: Final = ".weight.T.scale"
_INPUT: Final = ".input_scale_u8"
_ZERO: Final = ".input_zero_u8"


def write_kept(directory: str, kept: Mapping[str, Kept]) -> None:
    """Write the kept indices of each expert as int32 tensors ``EXPERT.blocks.N.ffn``, ``.attn1``, ``.attn2``."""
    tensors = {
        f"{expert}.{name}": Source.of(np.array(indices, np.int32))
        for expert, table in kept.items()
        for name, indices in table.items()
    }
    write_tensors(os.path.join(directory, KEPT_NAME), tensors)


def read_kept(directory: str, experts: Sequence[str]) -> dict[str, dict[str, list[int]]] | None:
    """Read what ``write_kept`` wrote; None where this variant was not pruned.

    Raises:
        MalformedError: the file is no safetensors.
    """
    path = os.path.join(directory, KEPT_NAME)
    if not os.path.isfile(path):
        return None
    tensors = _read(path, lambda _name: True)
    found: dict[str, dict[str, list[int]]] = {expert: {} for expert in experts}
    for name, values in tensors.items():
        expert, _, place = name.partition(".")
        found.setdefault(expert, {})[place] = values.tolist()
    return found


def read_grid(directory: str, expert: str) -> Grid | None:
    """The grid by which an expert of a variant was quantised; None where the variant is not INT8.

    Raises:
        ModelNotFoundError: the variant has no such expert.
        MalformedError: the file is no safetensors.
    """
    path = os.path.join(directory, f"{expert}.safetensors")
    if not os.path.isfile(path):
        raise ModelNotFoundError(
            f"{directory} has no expert {expert}", hint="name a directory that p2psync compress made"
        )
    tensors = _read(path, lambda name: name.endswith((_SCALE, _INPUT, _ZERO)))
    scales = {name.removesuffix(_SCALE): values for name, values in tensors.items() if name.endswith(_SCALE)}
    ranges = {}
    for name, scale in tensors.items():
        if name.endswith(_INPUT):
            layer = name.removesuffix(_INPUT)
            step, zero = float(scale), int(tensors.get(layer + _ZERO, np.uint8(0)))
            ranges[layer] = Range(-zero * step, (255 - zero) * step)
    return Grid(ranges, scales) if scales else None


def _read(path: str, wanted: Callable[[str], bool]) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys() if wanted(name)}  # noqa: SIM118 - It is no dict.
    except (SafetensorError, OSError) as error:
        raise MalformedError(f"{path} is no safetensors file: {error}") from error
