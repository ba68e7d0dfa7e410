"""Form 6: differences sorted by what the base foretells of their size, class by class."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from tests.reference.cursor import Cursor, require
from tests.reference.deltas import added, elements_of
from tests.reference.element import Element
from tests.reference.sparse import changes
from tests.reference.vector import numbers

_SPAN = 262_144
_ACTIVITY = 64
_BLOCK_BITS_MAX = 16


def tight(body: bytes, element: Element, base: bytes) -> bytes:
    """The chunk of a body of form 6.

    Raises:
        RefusedError: It is none for this base.
    """
    count = elements_of(base, element)
    cursor = Cursor(body)
    block = 1 << (bits := cursor.number(1))
    classes = cursor.number(1)
    require(bits <= _BLOCK_BITS_MAX and count % block == 0, "blocks of this size")
    require(classes >= 1, "no class")
    activity = np.full(count, _ACTIVITY, np.uint8)
    if bits:
        activity = numbers(cursor.take(cursor.number(3)), count // block, "u1")
    lasts = list(cursor.take(classes - 1))
    require(all(low < high for low, high in pairwise(lasts)), "last keys that do not ascend")
    lengths = [cursor.number(3) for _ in range(classes)]
    live = np.flatnonzero(np.repeat(activity, block) != 0) if bits else np.arange(count)
    # A unit is what is sorted: an element where dtypes have exponents, else a whole block.
    if element.exponent_bits:
        unit = 1
        spread = np.repeat(activity, block)[live] if bits else activity
        keys = (2 * element.exponents(base)[live].astype(int) + spread) % 256
    else:
        unit = block
        keys = activity[activity != 0].astype(int)
    found = np.zeros(len(live), element.signed)
    places = _order(np.searchsorted(lasts, keys).tolist(), keys.tolist(), lengths)
    for length, units in zip(lengths, places, strict=True):
        if length:
            require(units, "a class without elements that has a vector")
            at = np.repeat(np.array(units) * unit, unit) + np.tile(np.arange(unit), len(units))
            found[at] = numbers(cursor.take(length), len(at), element.signed)
    if cursor.left:
        found += changes(cursor.rest(), element, len(live))
    every = np.zeros(count, element.signed)
    every[live] = found
    return added(base, element, every)


def _order(classes: list[int], keys: list[int], lengths: list[int]) -> list[list[int]]:
    """For each class its units, in the order of its vector."""
    told = [unit for unit, name in enumerate(classes) if lengths[name]]
    places: list[list[int]] = [[] for _ in lengths]
    for start in range(0, len(told), _SPAN):
        # Python's sort keeps the order of units of one key.
        for unit in sorted(told[start : start + _SPAN], key=lambda unit: keys[unit]):
            places[classes[unit]].append(unit)
    return places
