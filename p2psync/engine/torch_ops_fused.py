"""What ``torch_rewrite`` makes of several operators: products with their bias, in halves and in integers, attention.

A GPU multiplies float16 with float32 sums many times faster than float32. Weights that are stored as float16 lose
nothing by it; activations are rounded to 11 bits, as TF32 does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

# What the integer kernel of CUDA asks: more rows than this, and the other sides in multiples.
INTEGER_ROWS_MIN: Final = 17
INTEGER_STEP: Final = 8
# Products of fewer rows wait for their weights, not for their sums: they are computed in full.
_HALF_ROWS_MIN: Final = 32


def codes(values: Tensor, scale: Tensor) -> Tensor:
    """QuantizeLinear to int8 around zero, by one scale."""
    return torch.round(values / scale.reshape(())).clamp(-128, 127).to(torch.int8)


def linear(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``values @ weight + bias`` over the last axis; weight [in, out]."""
    if bias is None:
        return values @ weight
    rows = values.reshape(-1, values.shape[-1])
    return torch.addmm(bias, rows, weight).reshape(*values.shape[:-1], weight.shape[1])


def half_product(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``linear`` of float32 values and a float16 weight on CUDA: float16 factors, float32 sums and result."""
    rows = values.reshape(-1, values.shape[-1])
    if rows.shape[0] < _HALF_ROWS_MIN:
        return linear(values, weight.to(values.dtype), bias)
    product = torch.mm(rows.to(weight.dtype), weight, out_dtype=values.dtype)
    summed = product if bias is None else product.add_(bias)
    return summed.reshape(*values.shape[:-1], weight.shape[1])


def integer_product(values: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """INT8 codes times INT8 weights, exact in INT32, then one scale per output channel.

    Args:
        values: int8, [..., in], zero point 0.
        weight: int8, [in, out], by columns: the kernel is five times slower by rows.
        scale: float32, [out]: the scale of the codes times that of the weight's column.
        bias: float32, [out].
    """
    rows = values.reshape(-1, values.shape[-1])
    missing = INTEGER_ROWS_MIN - rows.shape[0]
    if missing > 0:
        rows = functional.pad(rows, (0, 0, 0, missing))
    sums = torch._int_mm(rows.contiguous(), weight)  # noqa: SLF001 - it has no public name
    if missing > 0:
        sums = sums[:-missing]
    wide = sums * scale if bias is None else torch.addcmul(bias, sums.to(scale.dtype), scale)
    return wide.reshape(*values.shape[:-1], weight.shape[1])


def attention(query: Tensor, key: Tensor, value: Tensor, *, half: int = 0) -> Tensor:
    """``softmax(query @ key) @ value`` without keeping the scores.

    Args:
        query: [..., tokens, channels], scaled already.
        key: [..., channels, other tokens].
        value: [..., other tokens, channels].
        half: Compute in float16.
    """
    if query.dim() != 4 or query.shape[:-2] != key.shape[:-2] or query.shape[:-2] != value.shape[:-2]:
        return torch.softmax(query @ key, -1) @ value
    parts = (query, key.transpose(-1, -2), value)
    if half:
        parts = tuple(part.to(torch.float16) for part in parts)
    return functional.scaled_dot_product_attention(*parts, scale=1.0).to(query.dtype)


OPERATORS: Final[Mapping[str, Callable[..., Any]]] = {
    "torch:Attention": attention,
    "torch:Codes": codes,
    "torch:HalfProduct": half_product,
    "torch:IntegerProduct": integer_product,
    "torch:Linear": linear,
}
