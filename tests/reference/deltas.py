"""Forms 4 and 5, and how any list of differences is added to a base."""

from __future__ import annotations

from tests.reference.cursor import require
from tests.reference.element import Array, Element
from tests.reference.sparse import changes
from tests.reference.vector import numbers


def sparse(body: bytes, element: Element, base: bytes) -> bytes:
    """The chunk of a body of form 4.

    Raises:
        RefusedError: It is none for this base.
    """
    return added(base, element, changes(body, element, elements_of(base, element)))


def difference(body: bytes, element: Element, base: bytes) -> bytes:
    """The chunk of a body of form 5.

    Raises:
        RefusedError: It is none for this base.
    """
    return added(base, element, numbers(body, elements_of(base, element), element.signed))


def elements_of(base: bytes, element: Element) -> int:
    """How many elements a base has.

    Raises:
        RefusedError: None, or no whole number.
    """
    require(base, "an empty base")
    return len(element.patterns(base))


def added(base: bytes, element: Element, differences: Array) -> bytes:
    """The base with a difference added to each bit pattern, modulo 2 to the power of its bits."""
    found: bytes = (element.patterns(base) + differences.view(element.unsigned)).tobytes()
    return found
