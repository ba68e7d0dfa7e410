"""Form 1: elements rotated and taken apart by bytes. Form 3: the same of a narrower type that was widened."""

from __future__ import annotations

import numpy as np

from tests.reference.cursor import Cursor, require
from tests.reference.element import ELEMENTS, Array, Element
from tests.reference.frame import unpack


def planes(body: bytes, dtype: int, raw_bytes: int) -> bytes:
    """The chunk of a body of form 1.

    Raises:
        RefusedError: It is none.
    """
    require(dtype in (1, 2, 3), "planes of this dtype")
    element = ELEMENTS[dtype]
    require(raw_bytes % element.width == 0, "a length inside an element")
    return _elements(Cursor(body), element, raw_bytes // element.width).tobytes()


def narrow(body: bytes, dtype: int, raw_bytes: int) -> bytes:
    """The chunk of a body of form 3.

    Raises:
        RefusedError: It is none.
    """
    require(dtype == 3, "narrow of this dtype")
    require(raw_bytes % 4 == 0, "a length inside an element")
    cursor = Cursor(body)
    inner = cursor.number(1)
    require(inner in (1, 2), "narrowed to this dtype")
    found = _elements(cursor, ELEMENTS[inner], raw_bytes // 4)
    if inner == 1:
        return (found.astype("<u4") << 16).tobytes()
    require(np.all(found >> 10 & 31 != 31), "narrowed F16 that is infinite or no number")
    return found.view("<f2").astype("<f4").tobytes()


def _elements(cursor: Cursor, element: Element, count: int) -> Array:
    packed = cursor.number(1)
    require(packed >> element.width == 0, "a bit of a plane that is not there")
    rotated = np.zeros(count, element.unsigned)
    for plane in range(element.width):
        data = unpack(cursor.take(cursor.number(3)), count) if packed >> plane & 1 else cursor.take(count)
        shift = 8 * (element.width - 1 - plane)
        rotated |= np.frombuffer(data, np.uint8).astype(element.unsigned) << shift
    cursor.end()
    return (rotated >> 1 | rotated << element.bits - 1).astype(element.unsigned)
