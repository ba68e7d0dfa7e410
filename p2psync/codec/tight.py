"""Hides the smallest delta: differences sorted by what the base says about their size, then packed class by class.

An optimiser moves every weight by about the same step, while the distance between neighbouring floats doubles with
each exponent: the exponent of the base tells the size of a difference. Sorting by it, which the reader can do as well
because it holds the base, does what a coder with a model per exponent does, and leaves the coding to a fast one without
any model. Blocks in which more or less happens than their exponents promise are told by a byte each; untouched blocks
are left out. A dtype without exponents is sorted by block alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from p2psync.codec import pco, sparse
from p2psync.codec.difference import Data, differences, elements, signed
from p2psync.codec.layout import Layout
from p2psync.codec.tight_context import UNTOUCHED, Context, choose, keys
from p2psync.errors import MalformedError

# Keys are put in order so many at a time: the C library maps the memory of larger orders anew each time.
_SPAN: Final = 1 << 18
_LENGTH_BYTES: Final = 3
_HEAD_BYTES: Final = 2
_BLOCK_MAX: Final = 16


def encode(new: Data, base: Data, layout: Layout) -> bytes | None:
    """The body: head, activity of blocks, bounds of classes, and a packed vector for each. See ``docs/format.md``.

    None where there is no whole element, or where sorting promises nothing over the plain difference.
    """
    change = differences(new, base, layout)
    if change is None:
        return None
    old = elements(base, layout)
    context = choose(old, change, layout)
    return None if context is None else _write(old, change, layout, context)


def _write(old: NDArray[Any], change: NDArray[Any], layout: Layout, context: Context) -> bytes:
    told, activity = b"", context.activity
    if activity is not None:
        live = activity != UNTOUCHED
        told = pco.pack(activity)
        told = len(told).to_bytes(_LENGTH_BYTES, "little") + told
        old, change = (array.reshape(live.size, -1)[live].ravel() for array in (old, change))
        activity = activity[live]
    key = keys(old, layout, activity)
    rows = change.reshape(key.size, -1) if key.size < change.size else change
    strays, kept = b"", _kept(key, context.bounds, context.moving)
    if kept is not None:
        key, moved = key[kept], rows[kept]
        rows[kept] = 0
        strays = sparse.write(change) if change.any() else b""
        rows = moved
    orders, cuts = _orders(key, context.bounds)
    spans = [span[order] for order, span in zip(orders, _spans(rows), strict=True)]
    streams = []
    for number, moves in enumerate(context.moving):
        runs = [span[cut[number] : cut[number + 1]] for span, cut in zip(spans, cuts, strict=True)]
        streams.append(pco.pack(np.concatenate(runs).ravel()) if moves else b"")
    head = bytes((context.block, len(streams))) + told + bytes(context.bounds)
    lengths = b"".join(len(s).to_bytes(_LENGTH_BYTES, "little") for s in streams)
    return head + lengths + b"".join(streams) + strays


def decode(body: Data, base: Data, layout: Layout) -> bytearray:
    """The chunk whose body and base these are, as long as ``base``.

    Raises:
        MalformedError: the body is none for this base.
    """
    old, body = elements(base, layout), memoryview(body)
    if len(body) < _HEAD_BYTES or not old.size:
        raise MalformedError("a tight delta ends in its head, or has an empty base")
    block, classes = body[:_HEAD_BYTES]
    body = body[_HEAD_BYTES:]
    if not block:
        new = bytearray(len(base))
        change = np.frombuffer(new, signed(layout))
        _read(body, keys(old, layout, None), classes, change)
        change.view(old.dtype)[...] += old
        return new
    activity, body = _activity(body, old.size, block)
    live = activity != UNTOUCHED
    rows = old.reshape(live.size, -1)[live]
    change = np.zeros(rows.size, signed(layout))
    _read(body, keys(rows.ravel(), layout, activity[live]), classes, change)
    rows += change.view(old.dtype).reshape(rows.shape)
    new = bytearray(base)
    elements(new, layout).reshape(live.size, -1)[live] = rows
    return new


def _activity(body: memoryview, size: int, block: int) -> tuple[NDArray[np.uint8], memoryview]:
    """The activity of each block, and what follows it."""
    if block > _BLOCK_MAX or size % (1 << block):
        raise MalformedError(f"a tight delta of {size} elements in blocks of 2^{block}")
    end = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES], "little")
    activity = np.empty(size >> block, np.uint8)
    pco.unpack(bytes(body[_LENGTH_BYTES:end]), activity)
    return activity, body[end:]


def _read(body: memoryview, key: NDArray[np.uint8], classes: int, out: NDArray[Any]) -> None:
    """Fill ``out``, which is zero, in the order of elements, from all that follows the activity in a body."""
    streams = classes - 1 + classes * _LENGTH_BYTES
    if not classes or len(body) < streams:
        raise MalformedError(f"a tight delta of {classes} classes ends before its streams")
    bounds = tuple(body[: classes - 1])
    if any(a >= b for a, b in pairwise(bounds)):
        raise MalformedError("a tight delta has classes out of order")
    at = range(classes - 1, streams, _LENGTH_BYTES)
    lengths = [int.from_bytes(body[a : a + _LENGTH_BYTES], "little") for a in at]
    strays = streams + sum(lengths)
    if strays > len(body):
        raise MalformedError(f"a tight delta has {len(body) - streams} bytes of streams, and tells of {sum(lengths)}")
    unit = out.size // max(key.size, 1)
    change = out.reshape(key.size, unit) if unit > 1 else out
    kept = _kept(key, bounds, [bool(length) for length in lengths])
    if kept is None:
        _merge(body[streams:strays], lengths, key, bounds, change)
    else:
        part = np.zeros((kept.size, *change.shape[1:]), change.dtype)
        _merge(body[streams:strays], lengths, key[kept], bounds, part)
        change[kept] = part
    if strays < len(body):
        sparse.add(body[strays:], out)


def _merge(
    body: memoryview, lengths: list[int], key: NDArray[np.uint8], bounds: tuple[int, ...], out: NDArray[Any]
) -> None:
    """Unpack the streams and put their numbers, rows of ``out``, back into the order of ``key``."""
    orders, cuts = _orders(key, bounds)
    parts: list[list[NDArray[Any]]] = [[] for _ in orders]
    start = 0
    for number, length in enumerate(lengths):
        counts = [cut[number + 1] - cut[number] for cut in cuts]
        values = np.empty((sum(counts), *out.shape[1:]), out.dtype)
        if values.size and length:
            pco.unpack(bytes(body[start : start + length]), values.reshape(-1))
        elif values.size or length:
            raise MalformedError("a tight delta has a stream for a class without elements")
        start += length
        at = 0
        for part, count in zip(parts, counts, strict=True):
            part.append(values[at : at + count])
            at += count
    for order, part, span in zip(orders, parts, _spans(out), strict=True):
        span[order] = np.concatenate(part)


def _spans(array: NDArray[Any]) -> list[NDArray[Any]]:
    return [array[start : start + _SPAN] for start in range(0, len(array), _SPAN)]


def _kept(key: NDArray[np.uint8], bounds: tuple[int, ...], moving: Sequence[bool]) -> NDArray[np.intp] | None:
    """The places whose class has a stream; None where that is all of them."""
    if all(moving):
        return None
    still = np.zeros(key.size, bool)
    for low, high, moves in zip((-1, *bounds), (*bounds, 255), moving, strict=True):
        if not moves:
            still |= (key > low) & (key <= high) if low >= 0 else key <= high
    return np.flatnonzero(~still)


def _orders(key: NDArray[np.uint8], bounds: tuple[int, ...]) -> tuple[list[NDArray[np.intp]], list[list[int]]]:
    """For each span the stable order of its keys, and where in that order each class begins (and the last one ends)."""
    orders, cuts = [], []
    for span in _spans(key):
        order = np.argsort(span, kind="stable")
        orders.append(order)
        ends = [bisect_right(order, bound, key=span.__getitem__) for bound in bounds]
        cuts.append([0, *ends, order.size])
    return orders, cuts
