"""How one answer carries many nodes or chunks: a length before each. Pure.

A request body is the digests, 32 bytes each. The answer holds, for each digest in order, a 32-bit little-endian
length and then that many bytes; two lengths that nothing can have say why there are no bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from p2psync.content import DIGEST_BYTES, Digest
from p2psync.errors import MalformedError
from p2psync.limits import BATCH_DIGESTS_MAX

LENGTH: Final = struct.Struct("<I")
# Not here.
ABSENT: Final = 0xFFFF_FFFF
# Here, but the answer has no room for it: ask again. Only for nodes, whose sizes the asker does not know.
LATER: Final = 0xFFFF_FFFE


def encode_digests(digests: Sequence[Digest]) -> bytes:
    """The body of a batch request."""
    return b"".join(digests)


def decode_digests(body: bytes) -> list[Digest]:
    """Read the body of a batch request.

    Raises:
        MalformedError: it is empty, holds half a digest, or more than ``BATCH_DIGESTS_MAX``.
    """
    if not body or len(body) % DIGEST_BYTES or len(body) > BATCH_DIGESTS_MAX * DIGEST_BYTES:
        raise MalformedError(f"a batch of {len(body)} bytes is not 1 to {BATCH_DIGESTS_MAX} digests")
    return [Digest(body[place : place + DIGEST_BYTES]) for place in range(0, len(body), DIGEST_BYTES)]


def read_frames(answer: bytes | memoryview, count: int) -> Iterator[tuple[int, int]]:
    """Walk the ``count`` frames of an answer: (offset of the bytes, their length, or ABSENT or LATER).

    Raises:
        MalformedError: it ends early, or goes on after the last frame.
    """
    place = 0
    for _ in range(count):
        if place + LENGTH.size > len(answer):
            raise MalformedError("a batch answer ends within a length", offset=place)
        (length,) = LENGTH.unpack_from(answer, place)
        place += LENGTH.size
        size = 0 if length in (ABSENT, LATER) else length
        if place + size > len(answer):
            raise MalformedError("a batch answer ends within a frame", offset=place)
        yield place, length
        place += size
    if place != len(answer):
        raise MalformedError("a batch answer goes on after its last frame", offset=place)
