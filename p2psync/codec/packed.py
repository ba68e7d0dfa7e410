"""Hides the full form of everything that is no float of two or four bytes: its bytes in one frame.

Quantised weights and floats of one byte have a distribution and nothing else, which the order-0 coder takes. Of what
has no layout of its own, tables of indexes or the formats of other projects, repetitions are tried as well.
"""

from __future__ import annotations

from p2psync.codec import zstd
from p2psync.codec.difference import Data
from p2psync.codec.layout import Layout


def encode(raw: Data, layout: Layout | None) -> bytes | None:
    """The body: one frame. None where ``raw`` is empty."""
    if not raw:
        return None
    frame = zstd.pack(raw)
    return frame if layout is not None else min(frame, zstd.pack_repeats(raw), key=len)


def decode(body: Data, raw_bytes: int) -> bytearray:
    """The chunk of ``raw_bytes`` bytes, 1 or more, whose body this is.

    Raises:
        MalformedError: the body is none of so many bytes.
    """
    return bytearray(zstd.unpack(memoryview(body), raw_bytes))
