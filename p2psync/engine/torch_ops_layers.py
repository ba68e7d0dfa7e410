"""Operators that are layers: products, convolutions, norms, attention and quantisation, in torch.

Semantics: ONNX Operators, sets 17 to 20, and the contrib operators of ONNX Runtime (domain ``com.microsoft``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional


def gemm(  # noqa: PLR0913 - as ONNX has it
    left: Tensor,
    right: Tensor,
    bias: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803 - the name in ONNX
    transB: int = 0,  # noqa: N803 - the same
) -> Tensor:
    """Gemm."""
    product = (left.t() if transA else left) @ (right.t() if transB else right)
    scaled = product if alpha == 1 else product * alpha
    return scaled if bias is None else scaled + bias * beta


def conv(  # noqa: PLR0913 - as ONNX has it
    values: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    group: int = 1,
    pads: Sequence[int] = (),
    strides: Sequence[int] = (),
    dilations: Sequence[int] = (),
) -> Tensor:
    """Conv over one to three axes. Padding that differs at the two ends of an axis, as causal ones do, goes first."""
    axes = values.dim() - 2
    begins, ends = tuple(pads[:axes]) or (0,) * axes, tuple(pads[axes:]) or (0,) * axes
    if begins != ends:
        pairs = zip(reversed(begins), reversed(ends), strict=True)
        values = functional.pad(values, [amount for pair in pairs for amount in pair])
        begins = (0,) * axes
    stride, dilation = tuple(strides) or (1,) * axes, tuple(dilations) or (1,) * axes
    if axes == 3 and not values.is_cuda and (stride[0], dilation[0], group) == (1, 1, 1):
        return _conv_by_frame(values, weight, bias, stride, begins, dilation)
    kernel = (functional.conv1d, functional.conv2d, functional.conv3d)[axes - 1]
    return kernel(values, weight, bias, stride, begins, dilation, group)


def _conv_by_frame(
    values: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """A convolution over time and space as one over space, of the frames that each result sees, side by side.

    On processors torch has a fast kernel for two axes and a slow one for three: this is eight times faster.
    """
    padded = functional.pad(values, (0, 0, 0, 0, padding[0], padding[0])) if padding[0] else values
    seen = padded.unfold(2, weight.shape[2], 1).permute(0, 2, 1, 5, 3, 4)
    batch, frames = seen.shape[:2]
    made = functional.conv2d(
        seen.flatten(2, 3).flatten(0, 1), weight.flatten(1, 2), bias, stride[1:], padding[1:], dilation[1:]
    )
    return made.unflatten(0, (batch, frames)).transpose(1, 2)


def layer_norm(
    values: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
) -> Tensor:
    """LayerNormalization; torch sums in float32, as ONNX asks."""
    sizes = values.shape[axis % values.dim() :]
    wide = None if bias is None else bias.expand(sizes)
    return functional.layer_norm(values, sizes, scale.expand(sizes), wide, epsilon)


def rms_norm(values: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5) -> Tensor:
    """SimplifiedLayerNormalization of ONNX Runtime."""
    return functional.rms_norm(values, values.shape[axis % values.dim() :], scale, epsilon)


def attention(query: Tensor, key: Tensor, value: Tensor, *, num_heads: int, scale: float = 0.0) -> Tensor:
    """MultiHeadAttention without masks: [batch, tokens, heads x channels], all to all."""
    heads = [part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in (query, key, value)]
    mixed = functional.scaled_dot_product_attention(*heads, scale=scale or None)
    return mixed.transpose(1, 2).flatten(2)


def rotate(
    values: Tensor,
    places: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    interleaved: int = 0,
) -> Tensor:
    """RotaryEmbedding: turns pairs of the channels of each head by the angles of its place.

    A row of the tables is half a head wide. ``places`` is that of the first token, or those of all: [batch, tokens].
    """
    if places.numel() == 1:
        first = int(places.item())
        angles = [table.narrow(0, first, values.shape[1]) for table in (cos, sin)]
    else:
        angles = [table[places] for table in (cos, sin)]
    c, s = (table.unsqueeze(-2) for table in angles)
    heads = values.unflatten(-1, (-1, 2 * cos.shape[-1]))
    left, right = heads.unflatten(-1, (-1, 2)).unbind(-1) if interleaved else heads.chunk(2, -1)
    turned = left * c - right * s, left * s + right * c
    return (torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)).flatten(-2)


def quantize(values: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 1) -> Tensor:
    """QuantizeLinear: half to even, then the zero point, then the bounds of the type."""
    kind = torch.uint8 if zero is None else zero.dtype
    bounds = torch.iinfo(kind)
    codes = torch.round(values / _along(scale, values, axis))
    moved = codes if zero is None else codes + _along(zero, values, axis).to(codes.dtype)
    return moved.clamp(bounds.min, bounds.max).to(kind)


def dequantize(codes: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 1) -> Tensor:
    """DequantizeLinear: the type of the scale."""
    wide = codes.to(scale.dtype)
    moved = wide if zero is None else wide - _along(zero, codes, axis).to(scale.dtype)
    return moved * _along(scale, codes, axis)


def _along(parameter: Tensor, values: Tensor, axis: int) -> Tensor:
    """A parameter of one value per place on ``axis``, so that it broadcasts; one for all stays one."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    sizes = [1] * values.dim()
    sizes[axis] = -1
    return parameter.reshape(sizes)


OPERATORS: Final[Mapping[str, Callable[..., Any]]] = {
    "Conv": conv,
    "DequantizeLinear": dequantize,
    "Gemm": gemm,
    "LayerNormalization": layer_norm,
    "MatMul": torch.matmul,
    "QuantizeLinear": quantize,
    "SimplifiedLayerNormalization": rms_norm,
    "com.microsoft:MultiHeadAttention": attention,
    "com.microsoft:RotaryEmbedding": rotate,
}
