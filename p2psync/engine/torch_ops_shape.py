"""Operators that move values and change shapes, in torch. Semantics: ONNX Operators, sets 17 to 20.

Shapes, axes and starts are tensors in ONNX. Here they lie in this machine's memory, also where the data is on a GPU, so
that reading them waits for nothing. Most results are views.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor


def shape(values: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """Shape."""
    return torch.tensor(list(values.shape)[start:end], dtype=torch.int64)


def reshape(values: Tensor, sizes: Tensor, *, allowzero: int = 0) -> Tensor:
    """Reshape: a zero takes the size that stands there, unless it is allowed to mean zero."""
    wanted = sizes.tolist()
    if not allowzero:
        wanted = [values.shape[at] if size == 0 else size for at, size in enumerate(wanted)]
    return values.reshape(wanted)


def expand(values: Tensor, sizes: Tensor) -> Tensor:
    """Expand: broadcasting both ways."""
    return values.expand(torch.broadcast_shapes(values.shape, sizes.tolist()))


def squeeze(values: Tensor, axes: Tensor | None = None) -> Tensor:
    """Squeeze."""
    return values.squeeze() if axes is None else values.squeeze(axes.tolist())


def unsqueeze(values: Tensor, axes: Tensor) -> Tensor:
    """Unsqueeze: axes of the result."""
    rank = values.dim() + axes.numel()
    for axis in sorted(axis % rank for axis in axes.tolist()):
        values = values.unsqueeze(axis)
    return values


def transpose(values: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    """Transpose."""
    return values.permute(*(perm or range(values.dim() - 1, -1, -1)))


def concat(*several: Tensor, axis: int) -> Tensor:
    """Concat."""
    return torch.cat(several, axis)


def split(values: Tensor, sizes: Tensor | None = None, *, axis: int = 0, num_outputs: int = 1) -> tuple[Tensor, ...]:
    """Split. ``num_outputs`` is what the node gives; the last piece is the smaller one."""
    length = -(-values.shape[axis] // num_outputs)
    return tuple(torch.split(values, length if sizes is None else sizes.tolist(), axis))


def slice_(
    values: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    """Slice. ONNX clamps as Python does; torch has no negative steps, so those are gathered."""
    begin, stop = starts.tolist(), ends.tolist()
    over = range(len(begin)) if axes is None else axes.tolist()
    by = [1] * len(begin) if steps is None else steps.tolist()
    for axis, first, last, step in zip(over, begin, stop, by, strict=True):
        places = range(values.shape[axis])[first:last:step]
        if step < 0:
            values = values.index_select(axis, torch.tensor(list(places), device=values.device, dtype=torch.int64))
        else:
            index = slice(places.start, max(places.start, places.stop), step)
            values = values[(slice(None),) * (axis % values.dim()) + (index,)]
    return values


def gather(values: Tensor, places: Tensor, *, axis: int = 0) -> Tensor:
    """Gather. One place that is known here is a view."""
    size = values.shape[axis]
    if places.numel() == 1 and not places.is_cuda:
        place = int(places.item())
        if not -size <= place < size:
            raise IndexError(f"{place} is no place on an axis of {size}")
        chosen = values.narrow(axis, place % size, 1)
    else:
        flat = places.reshape(-1).to(torch.int64)
        chosen = values.index_select(axis, torch.where(flat < 0, flat + size, flat))
    at = axis % values.dim()
    return chosen.reshape(*values.shape[:at], *places.shape, *values.shape[at + 1 :])


def gather_nd(values: Tensor, places: Tensor) -> Tensor:
    """GatherND, of no batch dimensions."""
    return values[places.unbind(-1)]


def range_(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Range."""
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def constant(*, value: Tensor) -> Tensor:
    """Constant."""
    return value


def constant_of_shape(sizes: Tensor, *, value: Tensor | None = None) -> Tensor:
    """ConstantOfShape."""
    filling = torch.zeros(1) if value is None else value
    return torch.full(sizes.tolist(), filling.item(), dtype=filling.dtype)


def pad(values: Tensor, pads: Tensor, filling: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    """Pad with a constant. ONNX has all begins and then all ends, torch pairs from the last axis on."""
    amounts = pads.tolist()
    over = list(range(values.dim())) if axes is None else [axis % values.dim() for axis in axes.tolist()]
    pairs = dict(zip(over, zip(amounts[: len(over)], amounts[len(over) :], strict=True), strict=True))
    flat = [amount for axis in range(values.dim() - 1, -1, -1) for amount in pairs.get(axis, (0, 0))]
    return torch.nn.functional.pad(values, flat, value=0 if filling is None else filling.item())


def resize(
    values: Tensor,
    _region: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    """Resize by whole numbers to the nearest value: every value is repeated.

    So say both ways of rounding that are allowed, floor without an offset and half down with one.
    """
    if scales is not None and scales.numel():
        factors = scales.tolist()
    else:
        factors = [] if sizes is None else [new / old for new, old in zip(sizes.tolist(), values.shape, strict=True)]
    if len(factors) != values.dim() or any(factor < 1 or factor != int(factor) for factor in factors):
        raise ValueError(f"Resize by {factors}, which are not whole numbers")
    times = [int(factor) for factor in factors]
    apart = values.reshape([size for old in values.shape for size in (old, 1)])
    wide = apart.expand([size for old, n in zip(values.shape, times, strict=True) for size in (old, n)])
    return wide.reshape([old * n for old, n in zip(values.shape, times, strict=True)])


OPERATORS: Final[Mapping[str, Callable[..., Any]]] = {
    "Concat": concat,
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "Expand": expand,
    "Gather": gather,
    "GatherND": gather_nd,
    "Identity": lambda values: values,
    "Pad": pad,
    "Range": range_,
    "Reshape": reshape,
    "Resize": resize,
    "Shape": shape,
    "Slice": slice_,
    "Split": split,
    "Squeeze": squeeze,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
# Inputs that are read here, by place: they stay in this machine's memory.
READ_HERE: Final[Mapping[str, frozenset[int]]] = {
    "ConstantOfShape": frozenset({0}),
    "Expand": frozenset({1}),
    "Pad": frozenset({1, 2, 3}),
    "Range": frozenset({0, 1, 2}),
    "Reshape": frozenset({1}),
    "Resize": frozenset({1, 2, 3}),
    "ReduceL2": frozenset({1}),
    "ReduceMean": frozenset({1}),
    "Slice": frozenset({1, 2, 3, 4}),
    "Split": frozenset({1}),
    "Squeeze": frozenset({1}),
    "Unsqueeze": frozenset({1}),
}
