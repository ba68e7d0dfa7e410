"""Hides the delta of a chunk in which few elements changed: where they are, and by how much.

Reading one is a copy of the base and as many additions as elements changed, whatever the dtype.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from p2psync.codec import pco
from p2psync.codec.difference import Data, differences, elements, signed
from p2psync.codec.layout import Layout
from p2psync.errors import MalformedError

_COUNT_BYTES: Final = 4
_LENGTH_BYTES: Final = 4
# Where more than one in so many elements changed, no chunk was found that is smaller this way.
_DENSEST: Final = 4


def encode(new: Data, base: Data, layout: Layout) -> bytes | None:
    """The body: how many elements changed, the packed gaps before them, their packed differences.

    None where there is no whole element, or where too many changed for this form to be worth trying.
    """
    change = differences(new, base, layout)
    if change is None or np.count_nonzero(change) > change.size // _DENSEST:
        return None
    return write(change)


def write(change: NDArray[Any]) -> bytes:
    """The body that tells ``change``, shape (elements,), to whoever holds zeros."""
    places = np.flatnonzero(change)
    count = places.size.to_bytes(_COUNT_BYTES, "little")
    if not places.size:
        return count
    gaps = pco.pack((np.diff(places, prepend=-1) - 1).astype(np.uint32))
    return count + len(gaps).to_bytes(_LENGTH_BYTES, "little") + gaps + pco.pack(change[places])


def decode(body: Data, base: Data, layout: Layout) -> bytearray:
    """The chunk whose body and base these are, as long as ``base``.

    Raises:
        MalformedError: the body is none for this base.
    """
    elements(base, layout)
    new = bytearray(base)
    add(body, np.frombuffer(new, signed(layout)))
    return new


def add(body: Data, out: NDArray[Any]) -> None:
    """Add what ``body`` tells to ``out``, shape (elements,), modulo two to the power of its bits.

    Raises:
        MalformedError: the body is none for so many elements; ``out`` is then as it was.
    """
    count = int.from_bytes(body[:_COUNT_BYTES], "little")
    if len(body) < _COUNT_BYTES or count > out.size:
        raise MalformedError(f"a sparse delta of {count} elements to a base of {out.size}")
    if count:
        start = _COUNT_BYTES + _LENGTH_BYTES
        end = start + int.from_bytes(body[_COUNT_BYTES:start], "little")
        places = _places(bytes(body[start:end]), count, out.size)
        change = np.empty(count, out.dtype)
        pco.unpack(bytes(body[end:]), change)
        out[places] += change
    elif len(body) > _COUNT_BYTES:
        raise MalformedError("a sparse delta without elements goes on")


def _places(stream: bytes, count: int, size: int) -> NDArray[np.int64]:
    gaps = np.empty(count, np.uint32)
    pco.unpack(stream, gaps)
    # A chunk has at most 2^20 elements, so the sum of as many 32-bit numbers stays far below 2^63.
    places = np.cumsum(gaps, dtype=np.int64) + np.arange(count)
    if places[-1] >= size:
        raise MalformedError(f"a sparse delta leaves its base of {size} elements")
    return places
