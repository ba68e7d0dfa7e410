"""Hides what turns quantised weights back into the ones they were made from: the distance to what a code stands for.

A code times its scale, in F32 and rounded to the nearest BF16 or F16, is near the element it was made from: half a step
of the grid away at most, where plain rounding made it. How many floats lie in half a step is told by the exponent of
the product and by the scale. So the differences of bit patterns, sorted by these two, fall into classes of nearly
uniform numbers, which need hardly more bits than the codes left out.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from p2psync.codec import pco
from p2psync.codec.difference import Data, elements, signed
from p2psync.codec.form import Form
from p2psync.codec.layout import LAYOUTS, Layout
from p2psync.errors import MalformedError
from p2psync.limits import CHUNK_BYTES

_LENGTH_BYTES: Final = 3
_ROW_BYTES: Final = 4
_FIRST_BYTES: Final = 8
_HEAD_BYTES: Final = _ROW_BYTES + _FIRST_BYTES
_F32_NORMAL_MIN: Final = np.float32(2.0**-126)
# Orders of this many keys stay in the second-level cache.
_SPAN: Final = 1 << 17
# Quarter octaves of the width of a step: finer ones gain 0.02 bit an element and lose it to their tables.
_OCTAVE_BITS: Final = 2
_F32_MANTISSA_BITS: Final = 23
# The key of code 0, whose distance is the element itself; those of others lie in a few octaves above this one.
_ZERO_KEY: Final = 128
_USUAL_KEY: Final = 8


def encode_residual(
    raw: Data, codes: Data, scales: Data, row_elements: int, first_element: int, dtype: str
) -> bytes | None:
    """See ``p2psync.codec.encode_residual``."""
    layout = LAYOUTS.get(dtype)
    if layout is None or not 0 < len(raw) <= CHUNK_BYTES:
        return None
    try:
        head = row_elements.to_bytes(_ROW_BYTES, "little") + first_element.to_bytes(_FIRST_BYTES, "little")
        products, key = _expect(codes, scales, head, layout, len(raw))
    except (MalformedError, OverflowError):
        return None
    change = (elements(raw, layout) - products).view(signed(layout))
    orders, classes = _sort(key)
    spans = [span[order] for span, order in zip(_spans(change), orders, strict=True)]
    streams = [pco.pack(np.concatenate([spans[n][run] for n, run in runs])) for runs in classes]
    lengths = b"".join(len(stream).to_bytes(_LENGTH_BYTES, "little") for stream in streams)
    encoded = bytes((Form.RESIDUAL, layout.code)) + head + lengths + b"".join(streams)
    return encoded if len(encoded) < len(raw) else None


def decode(body: Data, codes: Data, scales: Data, layout: Layout, raw_bytes: int) -> bytearray:
    """The chunk of ``raw_bytes`` bytes whose body, codes and scales these are.

    Raises:
        MalformedError: the body is none for these codes and scales.
    """
    view = memoryview(body)
    products, key = _expect(codes, scales, view[:_HEAD_BYTES], layout, raw_bytes)
    raw = bytearray(raw_bytes)
    change = np.frombuffer(raw, signed(layout))
    _merge(view[_HEAD_BYTES:], key, change)
    change.view(products.dtype)[...] += products
    return raw


def _expect(
    codes: Data, scales: Data, head: Data, layout: Layout, raw_bytes: int
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """What the codes stand for, as bit patterns of the dtype, and the key of each element, shape (elements,)."""
    if layout not in (LAYOUTS["BF16"], LAYOUTS["F16"]) or len(codes) * 2 != raw_bytes or not raw_bytes:
        raise MalformedError(f"a residual of {raw_bytes} bytes to {len(codes)} codes, or of a dtype that has none")
    if len(head) < _HEAD_BYTES or not scales or len(scales) % 4:
        raise MalformedError(f"a residual ends in its head, or has scales of {len(scales)} bytes")
    row = int.from_bytes(head[:_ROW_BYTES], "little")
    first = int.from_bytes(head[_ROW_BYTES:_HEAD_BYTES], "little")
    step = np.frombuffer(scales, "<f4")
    # Zero or normal, the product is the same on processors that flush what is not; of infinity and zero it is not.
    size = np.abs(step)
    if not row or not (np.isfinite(step) & ((step == 0) | (size >= _F32_NORMAL_MIN))).all():
        raise MalformedError("a residual has rows of no elements, or scales that are neither zero nor normal")
    step = _spread(step, row, first, len(codes))
    code = np.frombuffer(codes, np.int8)
    with np.errstate(over="ignore", under="ignore"):
        product = code * step
        bits = _rounded(product, layout)
    return bits, _keys(code, step, bits, layout)


def _spread(step: NDArray[np.float32], row: int, first: int, count: int) -> NDArray[np.float32]:
    """The scale of each of ``count`` elements."""
    place, inside = divmod(first, row)
    rows = -(-(inside + count) // row)
    index = (place % step.size + np.arange(rows)) % step.size
    if row == 1:
        return step[index]
    lengths = np.full(rows, min(row, count))
    lengths[0] = min(row - inside, count)
    lengths[-1] = count - int(lengths[:-1].sum())
    return np.repeat(step[index], lengths)


def _rounded(product: NDArray[np.float32], layout: Layout) -> NDArray[Any]:
    """Bit patterns of finite or infinite numbers, rounded to the nearest of the dtype, ties to even."""
    if layout is LAYOUTS["F16"]:
        return product.astype("<f2").view("<u2")
    bits = product.view(np.uint32)
    odd = bits >> 16
    odd &= 1
    odd += 0x7FFF
    odd += bits
    odd >>= 16
    return odd.astype("<u2")


def _keys(code: NDArray[np.int8], step: NDArray[np.float32], bits: NDArray[Any], layout: Layout) -> NDArray[np.uint8]:
    """Quarter octaves between the scale and the distance of floats around the product, modulo 256."""
    key = (bits >> np.uint16(layout.mantissa_bits - _OCTAVE_BITS)).astype(np.uint8)
    key &= np.uint8((1 << layout.exponent_bits + _OCTAVE_BITS) - (1 << _OCTAVE_BITS) & 0xFF)
    if layout.exponent_bits < 6:
        # Below the normal floats the distance stays what it is at the smallest one.
        np.maximum(key, np.uint8(1 << _OCTAVE_BITS), out=key)
    key -= (step.view(np.uint32) >> np.uint32(_F32_MANTISSA_BITS - _OCTAVE_BITS)).astype(np.uint8)
    key += np.uint8(_USUAL_KEY)
    # Without a branch, a tenth of the time.
    zero = (code == 0).view(np.uint8)
    key &= zero - np.uint8(1)
    zero *= np.uint8(_ZERO_KEY)
    key |= zero
    return key


def _merge(body: memoryview, key: NDArray[np.uint8], out: NDArray[Any]) -> None:
    """Fill ``out`` with what lengths and streams of the classes tell, which are all of ``body``."""
    orders, classes = _sort(key)
    at = len(classes) * _LENGTH_BYTES
    lengths = [int.from_bytes(body[i : i + _LENGTH_BYTES], "little") for i in range(0, at, _LENGTH_BYTES)]
    if at + sum(lengths) != len(body):
        raise MalformedError(f"a residual has {len(body)} bytes of streams, and tells of {at + sum(lengths)}")
    moved = [np.empty(order.size, out.dtype) for order in orders]
    for runs, length in zip(classes, lengths, strict=True):
        values = np.empty(sum(run.stop - run.start for _, run in runs), out.dtype)
        pco.unpack(bytes(body[at : at + length]), values)
        at += length
        start = 0
        for number, run in runs:
            end = start + run.stop - run.start
            moved[number][run] = values[start:end]
            start = end
    for span, order, part in zip(_spans(out), orders, moved, strict=True):
        span[order] = part


def _spans(array: NDArray[Any]) -> list[NDArray[Any]]:
    return [array[start : start + _SPAN] for start in range(0, array.size, _SPAN)]


def _sort(key: NDArray[np.uint8]) -> tuple[list[NDArray[np.intp]], list[list[tuple[int, slice]]]]:
    """The stable order of the keys of each span, and for each class where it stands in the orders of which spans."""
    orders = [np.argsort(span, kind="stable") for span in _spans(key)]
    classes: dict[int, list[tuple[int, slice]]] = {}
    for number, (span, order) in enumerate(zip(_spans(key), orders, strict=True)):
        start = 0
        while start < order.size:
            of = int(span[order[start]])
            end = bisect_right(order, of, lo=start, key=span.__getitem__)
            classes.setdefault(of, []).append((number, slice(start, end)))
            start = end
    return orders, [classes[of] for of in sorted(classes)]
