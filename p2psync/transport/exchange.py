"""One request and the answer that is due for it, however it travels.

The answer's length is known before it is asked for, so it lands in reused buffers without a copy. It is
made of segments of at most one buffer each: four chunks of 1 MiB that stand side by side in a pack are one
exchange of four segments; many small chunks share one segment.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol

from p2psync.content import Digest
from p2psync.errors import P2PSyncError, RemoteProtocolError, SourceTimeoutError, SourceUnreachableError, WithdrawnError
from p2psync.limits import KIB
from p2psync.manifest import Chunk
from p2psync.transport.buffers import Buffer, BufferPool
from p2psync.transport.endpoint import Endpoint
from p2psync.transport.source import Meter, Timeouts

# "Not here". An S3 bucket that may not be listed answers 403 for a key that it does not have.
GONE: Final = (403, 404, 410)
# An error page up to this is read so that its connection can be kept.
ERROR_PAGE_BYTES_MAX: Final = 4 * KIB


@dataclass(frozen=True, slots=True)
class Segment:
    """Chunks that land in one buffer, in order, and how many bytes they take on the wire."""

    chunks: tuple[Chunk, ...]
    length: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request. ``path`` stands below the source's URL, without a leading slash.

    ``body`` makes it a POST whose answer may be shorter than asked. ``first`` makes it a request for the
    range of bytes that begins there, which must be answered by exactly that range. ``meter`` is raised meanwhile.
    """

    path: str
    segments: tuple[Segment, ...]
    body: bytes | None = None
    first: int | None = None
    meter: Meter | None = None

    @property
    def length(self) -> int:
        """Bytes that the answer may have at most; a GET must have exactly these."""
        return sum(segment.length for segment in self.segments)

    @property
    def range(self) -> str | None:
        """The ``Range`` header's value."""
        return None if self.first is None else f"bytes={self.first}-{self.first + self.length - 1}"


@dataclass(frozen=True, slots=True)
class Landed:
    """A segment whose bytes are here. ``length`` is smaller than the segment's only for a POST."""

    segment: Segment
    buffer: Buffer
    length: int


class Fetcher(Protocol):
    """Carries exchanges. Two do: ``fast`` over plain HTTP, ``http`` over HTTPS and through proxies."""

    def fetch(self, exchanges: Sequence[Exchange], pool: BufferPool) -> AsyncGenerator[Landed]:
        """Run the exchanges and yield every segment, in order. The caller releases the buffers."""

    async def close(self) -> None:
        """Close every connection. Running calls end in ``SourceUnreachableError``."""


async def read_part(fetcher: Fetcher, exchange: Exchange, pool: BufferPool) -> Buffer:
    """The bytes of an exchange that has one segment, in a buffer that the caller releases."""
    async with aclosing(fetcher.fetch((exchange,), pool)) as landings:
        async for landed in landings:
            return landed.buffer
    raise SourceUnreachableError(f"nothing came for {exchange.path}")


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """What the head of an answer says, whoever parsed it.

    Header values are None when absent. ``coded``: it has a transfer coding. ``closing``: no answer follows.
    ``protocol`` is what a peer says it speaks.
    """

    status: int
    length: int | None
    content_range: str | None = None
    location: str | None = None
    coded: bool = False
    closing: bool = False
    etag: str | None = None
    protocol: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. ``status`` is 200, 304 or one of ``GONE``; ``body`` is empty unless it is 200."""

    status: int
    body: bytes
    etag: str | None
    protocol: str | None


class Client(Protocol):
    """Reads whole resources. Two do: ``plain`` over plain HTTP, ``http`` over HTTPS and through proxies."""

    async def get(self, path: str, bytes_max: int, headers: Mapping[str, str] | None = None) -> Reply:
        """Read a resource of at most ``bytes_max`` bytes. 200, 304 and ``GONE`` are answers, the rest errors."""

    async def post(self, path: str, body: bytes, bytes_max: int) -> Reply:
        """Send ``body`` and read an answer of at most ``bytes_max`` bytes."""

    async def get_range(self, path: str, first: int, length: int) -> bytes | None:
        """Exactly those bytes of a resource; None for a 404."""

    async def close(self) -> None:
        """Close every connection. Running calls end in ``SourceUnreachableError``."""


def body_length(url: str, path: str, head: AnswerHead, bytes_max: int) -> int:
    """How much of an answer's body is to be read, in bytes: all of a 200, a short error page, nothing of a 304.

    Raises:
        RemoteProtocolError: it is too long, or no answer that ``Client`` may give.
        SourceUnreachableError: the source said that it cannot answer now (429 or 5xx).
    """
    if head.status == 304:
        return 0
    if head.status in GONE:
        small = not head.coded and head.length is not None and head.length <= ERROR_PAGE_BYTES_MAX
        return head.length or 0 if small else 0
    if head.status != 200:
        raise refused_status(url, path, head.status, head.location)
    length = length_of(url, path, head)
    if length > bytes_max:
        raise RemoteProtocolError(f"{url} answered {path} with {length} bytes, not at most {bytes_max}")
    return length


def encode_request(endpoint: Endpoint, exchange: Exchange, headers: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a request for a plain HTTP/1.1 server. ``headers`` are ASCII without control characters."""
    lines = [
        f"{'GET' if exchange.body is None else 'POST'} {endpoint.path}{exchange.path} HTTP/1.1",
        f"Host: {endpoint.authority}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    if exchange.range is not None:
        lines.append(f"Range: {exchange.range}")
    if exchange.body is not None:
        lines.append(f"Content-Length: {len(exchange.body)}")
    return "\r\n".join([*lines, "\r\n"]).encode("ascii") + (exchange.body or b"")


def check_answer(url: str, exchange: Exchange, head: AnswerHead) -> int:
    """Hold an answer's head against its request. Returns the length of its body in bytes.

    Raises:
        WithdrawnError: the source answered that it is not there.
        RemoteProtocolError: it is not the answer that is due.
        SourceUnreachableError: the source said that it cannot answer now (429 or 5xx).
    """
    expected = 200 if exchange.first is None else 206
    if head.status in GONE:
        raise WithdrawnError(f"{url} no longer has {name_of(exchange)}")
    if head.status != expected:
        raise refused_status(url, exchange.path, head.status, head.location)
    length = length_of(url, exchange.path, head)
    if length > exchange.length or (exchange.body is None and length != exchange.length):
        raise RemoteProtocolError(f"{url} answered {exchange.path} with {length} bytes, not {exchange.length}")
    if exchange.first is not None:
        wanted = f"bytes {exchange.first}-{exchange.first + exchange.length - 1}/"
        if not (head.content_range or "").startswith(wanted):
            raise RemoteProtocolError(f"{url} answered {exchange.path} with {head.content_range!r}, not {wanted}*")
    return length


def length_of(url: str, path: str, head: AnswerHead) -> int:
    """The length of a body that is due, in bytes.

    Raises:
        RemoteProtocolError: it is framed by anything but a length.
    """
    if head.coded:
        raise RemoteProtocolError(f"{url} answered {path} with a transfer coding where a length is due")
    if head.length is None:
        raise RemoteProtocolError(f"{url} answered {path} without a Content-Length")
    return head.length


def refused_status(url: str, path: str, status: int, location: str | None) -> P2PSyncError:
    """The error for a status that is not the one due. No redirect is ever followed."""
    if 300 <= status < 400 and location is not None:
        return RemoteProtocolError(
            f"{url} redirects {path} to {location[:200]}",
            hint="redirects are not followed; name the final URL if you trust it",
        )
    if status == 429 or status >= 500:
        return SourceUnreachableError(f"{url} answered {path} with status {status}")
    return RemoteProtocolError(f"{url} answered {path} with status {status}")


def name_of(exchange: Exchange) -> Digest | str:
    """What an exchange asks for, for an error message."""
    chunks = exchange.segments[0].chunks if exchange.segments else ()
    return chunks[0].digest if chunks else exchange.path


class Watch:
    """Judges how fast one answer arrives. No clock of its own: every call brings the time.

    ``expires_s`` is the moment by which ``saw`` must have moved it, on the clock that the calls use.
    """

    __slots__ = ("_mark", "_mark_s", "_received", "_timeouts", "_total_s", "expires_s")

    def __init__(self, timeouts: Timeouts, length: int, now_s: float) -> None:
        self._timeouts = timeouts
        self._received = 0
        self._mark = 0
        self._mark_s: float | None = None
        self._total_s = now_s + timeouts.total_s(length)
        self.expires_s = min(self._total_s, now_s + timeouts.response_s)

    def saw(self, received: int, now_s: float) -> None:
        """Take note that ``received`` bytes of the answer are here, counted from its begin."""
        self._received = received
        if not received:
            return
        needed = self._timeouts.rate_min_bytes_per_s * self._timeouts.window_s
        if self._mark_s is None or received - self._mark >= needed:
            self._mark, self._mark_s = received, now_s
        self.expires_s = min(self._total_s, self._mark_s + self._timeouts.window_s)

    def error(self, url: str, path: str) -> SourceTimeoutError:
        """The error for an answer that did not make it."""
        if self._mark_s is None:
            return SourceTimeoutError(f"{url} sent no byte of {path} within {self._timeouts.response_s:g} s")
        return SourceTimeoutError(
            f"{url} sent {path} slower than {self._timeouts.rate_min_bytes_per_s:g} B/s ({self._received} bytes came)"
        )
