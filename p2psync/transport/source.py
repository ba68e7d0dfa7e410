"""What a pull may ask of any source of chunks, and which faults a source can have.

A source is a peer that runs p2psync or an origin tree of plain files. Nothing that a source says is
trusted here: heads are proved by ``trust``, nodes by ``manifest`` and chunks by the node that asked.

Every method ends in one of five errors or in an answer: ``SourceUnreachableError`` (no connection, or it
broke), ``SourceTimeoutError`` (silent, or slower than the lowest rate), ``RemoteProtocolError`` (an answer that
the protocol forbids), ``WithdrawnError`` (a chunk that is no longer there), ``ModelNotFoundError``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from p2psync import limits
from p2psync.content import Digest
from p2psync.manifest import Chunk
from p2psync.transport.buffers import Buffer, BufferPool


class SourceKind(StrEnum):
    """On which side of the outside link a source stands. Only ``WAN`` sources may go through a proxy."""

    LAN = "lan"
    WAN = "wan"


class Meter(Protocol):
    """Counts the bytes of a body while they arrive, for whoever must tell a slow answer from a dead one."""

    received: int


@dataclass(slots=True)
class Wire:
    """Bytes that crossed a source's sockets, HTTP heads and TLS records included, TCP and IP headers not.

    A ``file://`` origin has no wire: its bytes are those read from the files.
    """

    received: int = 0
    sent: int = 0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a source may take. Tests shrink these; everything else uses the limits.

    An answer must begin within ``response_s``, bring ``rate_min_bytes_per_s`` over each ``window_s``, and end within
    ``response_s`` plus its size at the lowest rate.
    """

    connect_s: float = limits.CONNECT_TIMEOUT_S
    response_s: float = limits.RESPONSE_TIMEOUT_S
    rate_min_bytes_per_s: float = limits.RATE_MIN_BYTES_PER_S
    window_s: float = limits.RATE_WINDOW_S

    def total_s(self, length: int) -> float:
        """The longest that an answer of ``length`` bytes may take, in seconds."""
        return self.response_s + length / self.rate_min_bytes_per_s


@dataclass(frozen=True, slots=True)
class HeadReply:
    """The answer to ``Source.head``. ``envelope`` is None when the head still has the etag that was sent."""

    envelope: bytes | None
    etag: str | None


class Source(Protocol):
    """One place that chunks come from. Safe for many concurrent calls of one event loop."""

    @property
    def url(self) -> str:
        """The URL that it was connected with."""

    @property
    def kind(self) -> SourceKind:
        """LAN or WAN."""

    @property
    def wire(self) -> Wire:
        """What crossed its sockets so far."""

    async def head(self, name: str, selector: str, etag: str | None = None) -> HeadReply:
        """The signed envelope of ``name``, unproved. ``selector`` is a tag or ``b3:`` and 64 hex digits.

        Raises:
            ModelNotFoundError: the source does not know it.
        """

    async def open(self, root: Digest) -> None:
        """Get ready to read the version with this root. An origin tree loads its index; a peer does nothing.

        Raises:
            ModelNotFoundError: an origin tree has no index of that version.
        """

    async def nodes(self, digests: Sequence[Digest]) -> dict[Digest, bytes]:
        """Those of the manifest nodes that the source has, unproved. Needs ``open`` before."""

    async def inventory(self, root: Digest, count: int) -> bytes | None:
        """Which of the ``count`` chunks of a version it has: a bitset, LSB first, manifest order. None: all.

        Raises:
            ModelNotFoundError: the source does not know the version.
        """

    async def part(self, chunk: Chunk, start: int, length: int, pool: BufferPool, meter: Meter | None = None) -> Buffer:
        """``length`` bytes of a chunk from its byte ``start`` on, unproved. Needs ``open`` before.

        ``meter`` is raised while they arrive. The caller releases the buffer.

        Raises:
            WithdrawnError: the source no longer has the chunk.
        """

    def chunks(
        self, batch: Sequence[Chunk], pool: BufferPool, meter: Meter | None = None
    ) -> AsyncGenerator[tuple[Chunk, Buffer]]:
        """Read chunks, in the order of ``batch``. Needs ``open`` before.

        Each buffer begins with ``chunk.length`` raw bytes, unproved; the caller releases it. An error concerns
        the first chunk of the batch that was not yielded; nothing after it was yielded either. Close the
        iterator (``contextlib.aclosing``) when leaving it early. ``meter`` is raised while bytes arrive.

        Raises:
            WithdrawnError: the source no longer has the chunk.
        """

    async def close(self) -> None:
        """Close every connection. Running calls end in ``SourceUnreachableError``."""
