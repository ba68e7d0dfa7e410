"""Operators that compute value by value, or along axes, in torch. Semantics: ONNX Operators, sets 17 to 20.

Each function takes the operator's inputs by position and its attributes by name, with the defaults that ONNX gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, Final

import torch
from torch import Tensor

_DTYPES: Final[Mapping[int, torch.dtype]] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}


def cast(values: Tensor, *, to: int) -> Tensor:
    """Cast."""
    return values.to(_DTYPES[to])


def divide(left: Tensor, right: Tensor) -> Tensor:
    """Div: integers are cut towards zero."""
    return torch.div(left, right, rounding_mode=None if left.is_floating_point() else "trunc")


def power(base: Tensor, exponent: Tensor) -> Tensor:
    """Pow: the type of the base. An exponent that is one number here takes the kernel for it: a square is a product."""
    if exponent.numel() == 1 and exponent.dim() <= base.dim() and not exponent.is_cuda:
        number = exponent.item()
        return base * base if number == 2 else torch.pow(base, number).to(base.dtype)
    return torch.pow(base, exponent).to(base.dtype)


def clip(values: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Clip."""
    above = values if low is None else torch.maximum(values, low)
    return above if high is None else torch.minimum(above, high)


def mean(*several: Tensor) -> Tensor:
    """Mean."""
    return reduce(torch.add, several) / len(several)


def gelu(values: Tensor, *, approximate: str = "none") -> Tensor:
    """Gelu."""
    return torch.nn.functional.gelu(values, approximate=approximate)


def softmax(values: Tensor, *, axis: int = -1) -> Tensor:
    """Softmax."""
    return torch.softmax(values, axis)


def reduce_mean(
    values: Tensor,
    given: Tensor | None = None,
    /,
    *,
    axes: Sequence[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """ReduceMean: axes are an input from set 18 on, an attribute before."""
    over = _axes(values, given, axes, noop_with_empty_axes)
    return values if over is None else values.mean(over, keepdim=bool(keepdims))


def reduce_l2(
    values: Tensor,
    given: Tensor | None = None,
    /,
    *,
    axes: Sequence[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """ReduceL2."""
    over = _axes(values, given, axes, noop_with_empty_axes)
    return values.abs() if over is None else (values * values).sum(over, keepdim=bool(keepdims)).sqrt()


def _axes(values: Tensor, given: Tensor | None, said: Sequence[int] | None, noop: int) -> list[int] | None:
    """The axes to reduce over; None where nothing is reduced."""
    over = list(said or []) if given is None else given.tolist()
    return over or (None if noop else list(range(values.dim())))


OPERATORS: Final[Mapping[str, Callable[..., Any]]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "And": torch.logical_and,
    "Cast": cast,
    "Clip": clip,
    "Cos": torch.cos,
    "Div": divide,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Gelu": gelu,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "Max": lambda *several: reduce(torch.maximum, several),
    "Mean": mean,
    "Min": lambda *several: reduce(torch.minimum, several),
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Pow": power,
    "Reciprocal": torch.reciprocal,
    "ReduceL2": reduce_l2,
    "ReduceMean": reduce_mean,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Sin": torch.sin,
    "Softmax": softmax,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
    "Where": torch.where,
}
