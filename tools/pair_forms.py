"""The types in which a pair of F32 models is compared: two halves, FP8 and INT8 with one scale per row.

FP8 is E4M3 without infinities (https://arxiv.org/abs/2209.05433), INT8 is symmetric. A tensor of two or more axes has
one F32 scale per index of its first axis, in a tensor of its own named ``NAME.scale``; a vector stays BF16 there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from weights import Weights

Floats = NDArray[np.float32]
Model = dict[str, Weights]
_E4M3_MAX = 448
_INT8_MAX = 127
# Below the normal floats a scale loses its digits; a row that small has the scale of a row of zeros.
_SMALLEST = np.finfo(np.float32).tiny
_IDLE_SCALE = np.float32(1)


def f32(tensors: Mapping[str, Floats]) -> Model:
    """The model as it is."""
    return {name: _weights("F32", tensor) for name, tensor in tensors.items()}


def bf16(tensors: Mapping[str, Floats]) -> Model:
    """Rounded to the nearest BF16, halves to even."""
    return {name: _weights("BF16", tensor.astype(ml_dtypes.bfloat16)) for name, tensor in tensors.items()}


def f16(tensors: Mapping[str, Floats]) -> Model:
    """Rounded to the nearest F16, halves to even."""
    return {name: _weights("F16", tensor.astype(np.float16)) for name, tensor in tensors.items()}


def fp8(tensors: Mapping[str, Floats], frozen: Mapping[str, Floats] | None = None) -> Model:
    """Nearest E4M3 of every value over its row's scale. ``frozen`` holds scales to keep, by the tensor's name."""

    def rounded(ratio: Floats) -> NDArray[Any]:
        # Beyond the largest value E4M3 has only NaN, where a grown weight under a frozen scale must not end.
        return np.clip(ratio, -_E4M3_MAX, _E4M3_MAX).astype(ml_dtypes.float8_e4m3fn)

    return _scaled(tensors, frozen or row_scales(tensors, _E4M3_MAX), "F8_E4M3", rounded)


def int8(tensors: Mapping[str, Floats], frozen: Mapping[str, Floats] | None = None) -> Model:
    """Nearest whole number in -127..127, halves to even, of every value over its row's scale; ``frozen`` as above."""

    def rounded(ratio: Floats) -> NDArray[Any]:
        return np.clip(np.rint(ratio), -_INT8_MAX, _INT8_MAX).astype(np.int8)

    return _scaled(tensors, frozen or row_scales(tensors, _INT8_MAX), "I8", rounded)


def row_scales(tensors: Mapping[str, Floats], level_max: int) -> dict[str, Floats]:
    """For each tensor of two or more axes: each row's largest magnitude over ``level_max``, shape (rows,)."""
    found = {}
    for name, tensor in tensors.items():
        if tensor.ndim > 1:
            scales = np.abs(tensor.reshape(tensor.shape[0], -1)).max(axis=1) / np.float32(level_max)
            found[name] = np.where(scales >= _SMALLEST, scales, _IDLE_SCALE).astype(np.float32)
    return found


def scales_of(model: Model) -> dict[str, Floats]:
    """The scales that a model of one of the scaled types was made with, by the name of the tensor they scale."""
    return {
        name.removesuffix(".scale"): tensor.data.view(np.float32)
        for name, tensor in model.items()
        if name.endswith(".scale")
    }


def _scaled(
    tensors: Mapping[str, Floats], scales: Mapping[str, Floats], dtype: str, rounded: Callable[[Floats], NDArray[Any]]
) -> Model:
    made = {}
    for name, tensor in tensors.items():
        scale = scales.get(name)
        if scale is None:
            made[name] = _weights("BF16", tensor.astype(ml_dtypes.bfloat16))
            continue
        # NumPy divides in F32, as every device that has the two F32 can.
        ratio = tensor / scale.reshape(-1, *[1] * (tensor.ndim - 1))
        made[name] = _weights(dtype, rounded(ratio))
        made[f"{name}.scale"] = _weights("F32", scale)
    return made


def _weights(dtype: str, array: NDArray[Any]) -> Weights:
    return Weights(dtype, array.shape, np.ascontiguousarray(array).reshape(-1).view(np.uint8))
