"""Form 4: which elements of the base changed, and by how much. Form 6 has a body of this kind for its strays."""

from __future__ import annotations

import numpy as np

from tests.reference.cursor import Cursor, require
from tests.reference.element import Array, Element
from tests.reference.vector import numbers


def changes(body: bytes, element: Element, count: int) -> Array:
    """The difference of each of ``count`` elements; of those that did not change it is zero.

    Raises:
        RefusedError: The body is none of so many elements.
    """
    found = np.zeros(count, element.signed)
    cursor = Cursor(body)
    changed = cursor.number(4)
    require(changed <= count, "more changes than elements")
    if changed == 0:
        cursor.end()
        return found
    gaps = numbers(cursor.take(cursor.number(4)), changed, "u4")
    differences = numbers(cursor.rest(), changed, element.signed)
    place = -1
    for gap, difference in zip(gaps.tolist(), differences.tolist(), strict=True):
        place += gap + 1
        require(place < count, "a change behind the last element")
        found[place] = difference
    return found
