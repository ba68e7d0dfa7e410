"""Form 7: what a quantised copy of the same weights leaves unsaid."""

from __future__ import annotations

import numpy as np

from tests.reference.cursor import Cursor, require
from tests.reference.element import ELEMENTS, Array
from tests.reference.vector import numbers


def residual(body: bytes, dtype: int, codes: bytes, scales: bytes, raw_bytes: int) -> bytes:
    """The chunk of a body of form 7.

    Raises:
        RefusedError: It is none for these bases.
    """
    require(dtype in (1, 2), "a residual of this dtype")
    require(raw_bytes % 2 == 0, "a length inside an element")
    count = raw_bytes // 2
    require(len(codes) == count, "another number of codes than of elements")
    require(scales and len(scales) % 4 == 0, "scales")
    cursor = Cursor(body)
    run, first = cursor.number(4), cursor.number(8)
    require(run >= 1, "rows of 0 elements")
    signed = np.frombuffer(codes, np.int8)
    every = np.frombuffer(scales, "<u4")
    exponent, mantissa = every >> 23 & 255, every & 0x7FFFFF
    require(np.all((exponent != 0) | (mantissa == 0)) and np.all(exponent != 255), "scales that are not normal")
    # Python's integers have no bound, as the page's have none.
    scale = every[[(first + i) // run % len(every) for i in range(count)]]
    product = _product(signed, scale, dtype)
    keys = _keys(signed, scale, product, dtype)
    present = sorted(set(keys.tolist()))
    lengths = [cursor.number(3) for _ in present]
    found = product.copy()
    for key, length in zip(present, lengths, strict=True):
        at = np.flatnonzero(keys == key)
        found[at] += numbers(cursor.take(length), len(at), "<i2").view("<u2")
    cursor.end()
    return found.tobytes()


def _product(codes: Array, scale: Array, dtype: int) -> Array:
    """Bit patterns of code times scale, rounded to F32 and then to the dtype."""
    with np.errstate(over="ignore", under="ignore"):
        exact: Array = codes.astype("<f4") * scale.view("<f4")
        half: Array = exact.astype("<f2")
    if dtype == 2:
        return half.view("<u2")
    bits = exact.view("<u4").astype(np.uint64)
    rounded: Array = bits + 0x7FFF + (bits >> 16 & 1) >> 16
    return rounded.astype("<u2")


def _keys(codes: Array, scale: Array, product: Array, dtype: int) -> Array:
    exponent = ELEMENTS[dtype].exponents(product.tobytes()).astype(int)
    if dtype == 2:
        exponent = np.maximum(exponent, 1)
    keys = (4 * exponent - (scale >> 21).astype(int) + 8) % 256
    return np.where(codes == 0, 128, keys)
