"""Hides the full form of F32 elements that were widened from BF16 or F16: the planes of what they were.

Many models are published as F32 whose values were trained or stored in half of the bits. The widened element is exact,
so the narrow one tells it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from p2psync.codec import planes
from p2psync.codec.difference import Data, elements
from p2psync.codec.layout import LAYOUTS, Layout
from p2psync.errors import MalformedError

_BF16: Final = LAYOUTS["BF16"]
_F16: Final = LAYOUTS["F16"]
_F16_EXPONENT: Final = 0x7C00
_SAMPLE: Final = 64


def encode(raw: Data, layout: Layout) -> bytes | None:
    """The body: the code of the narrow dtype, and the body of its planes.

    None where the elements are no F32, or one of them does not fit the narrow dtypes.
    """
    if layout is not LAYOUTS["F32"] or not planes.fits(len(raw), layout):
        return None
    wide = elements(raw, layout)
    for narrow in (_BF16, _F16):
        found = _narrowed(wide, narrow)
        if found is not None:
            body = planes.encode(found.tobytes(), narrow)
            return None if body is None else bytes((narrow.code,)) + body
    return None


def decode(body: Data, layout: Layout, raw_bytes: int) -> bytearray:
    """The chunk of ``raw_bytes`` bytes of F32 whose body this is.

    Raises:
        MalformedError: the body is none of so many bytes.
    """
    if layout is not LAYOUTS["F32"] or not planes.fits(raw_bytes, layout) or not body:
        raise MalformedError(f"narrowed elements of {raw_bytes} bytes of a dtype that is no F32, or an empty body")
    narrow = next((known for known in (_BF16, _F16) if known.code == body[0]), None)
    if narrow is None:
        raise MalformedError(f"elements narrowed to the dtype {body[0]}")
    found = elements(planes.decode(memoryview(body)[1:], narrow, raw_bytes // 2), narrow)
    raw = bytearray(raw_bytes)
    if narrow is _BF16:
        np.left_shift(found, 16, out=elements(raw, layout), dtype=np.uint32)
    else:
        if not _all_finite(found):
            raise MalformedError("elements narrowed to F16 that are not finite")
        np.frombuffer(raw, "<f4")[...] = found.view("<f2")
    return raw


def _narrowed(wide: NDArray[Any], narrow: Layout) -> NDArray[Any] | None:
    """The bit patterns of ``wide`` in a narrow dtype, None where that loses anything."""
    # Most chunks fail in their first elements.
    for part in (wide[:_SAMPLE], wide):
        if narrow is _BF16:
            found = (part >> 16).astype("<u2")
            same = not (part & np.uint32(0xFFFF)).any()
        else:
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                found = part.view("<f4").astype("<f2").view("<u2")
            # Processors differ in what they make of a NaN, and infinities are as rare.
            same = _all_finite(found) and np.array_equal(found.view("<f2").astype("<f4").view("<u4"), part)
        if not same:
            return None
    return found


def _all_finite(found: NDArray[Any]) -> bool:
    return not ((found & np.uint16(_F16_EXPONENT)) == _F16_EXPONENT).any()
