"""Hides the plain delta: how an element of the new version differs from the base, as a number, without context.

The difference of two bit patterns, modulo two to the power of their bits and read as a signed number, is exact for
every pattern (both zeros, infinities, every NaN) and small where the values are near each other, whatever the dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from p2psync.codec import pco
from p2psync.codec.layout import Layout
from p2psync.errors import MalformedError

Data = bytes | bytearray | memoryview
_UNSIGNED: Final[Mapping[int, np.dtype[Any]]] = {1: np.dtype("u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4")}
_SIGNED: Final[Mapping[int, np.dtype[Any]]] = {1: np.dtype("i1"), 2: np.dtype("<i2"), 4: np.dtype("<i4")}


def elements(data: Data, layout: Layout) -> NDArray[Any]:
    """The bit patterns of ``data`` as unsigned numbers, shape (elements,); a view, read-only where ``data`` is.

    Raises:
        MalformedError: ``data`` ends inside an element.
    """
    if len(data) % layout.element_bytes:
        raise MalformedError(f"{len(data)} bytes are no whole elements of {layout.element_bytes} bytes")
    return np.frombuffer(data, _UNSIGNED[layout.element_bytes])


def signed(layout: Layout) -> np.dtype[Any]:
    """The dtype of a difference of two elements."""
    return _SIGNED[layout.element_bytes]


def differences(new: Data, base: Data, layout: Layout) -> NDArray[Any] | None:
    """``new`` minus ``base``, shape (elements,), signed; None where they are not as many whole elements, or none."""
    if len(new) != len(base) or len(new) % layout.element_bytes or not len(new):
        return None
    change: NDArray[Any] = elements(new, layout) - elements(base, layout)
    return change.view(signed(layout))


def encode(new: Data, base: Data, layout: Layout) -> bytes | None:
    """The body: one packed vector of all differences. None where there is no whole element."""
    change = differences(new, base, layout)
    return None if change is None else pco.pack(change)


def decode(body: Data, base: Data, layout: Layout) -> bytearray:
    """The chunk whose body and base these are, as long as ``base``.

    Raises:
        MalformedError: the body is none for this base.
    """
    old = elements(base, layout)
    if not old.size:
        raise MalformedError("a difference to an empty base")
    new = bytearray(len(base))
    change = np.frombuffer(new, signed(layout))
    pco.unpack(bytes(body), change)
    change.view(old.dtype)[...] += old
    return new
