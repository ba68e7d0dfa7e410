"""Sources that a test steers: what they say, which chunks they spoil, and where they wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from p2psync.content import Digest
from p2psync.errors import ModelNotFoundError
from p2psync.manifest import Chunk
from p2psync.store import Store
from p2psync.transport import Buffer, BufferPool, HeadReply, SourceKind, Wire
from p2psync.transport.source import Meter


async def nothing(_chunk: Chunk) -> None:
    """Let a chunk pass."""


async def for_ever(_chunk: Chunk | None = None) -> None:
    """A source that never answers."""
    await asyncio.Event().wait()


@dataclass
class FakeSource:
    """Says what it was told to. ``before`` is awaited before each chunk: it may wait or raise.

    ``asked`` are the chunks it was asked for, ``stopped`` is set once a running request of it was cancelled.
    """

    url: str
    store: Store | None = None
    kind: SourceKind = SourceKind.LAN
    envelope: bytes | None = None
    etag: str | None = None
    known: dict[Digest, bytes] = field(default_factory=dict)
    held: bytes | None = None
    spoiled: Callable[[Chunk], bool] = lambda _chunk: False
    before: Callable[[Chunk], Awaitable[None]] = nothing
    wait_s: float = 0.0
    error: Exception | None = None
    wire: Wire = field(default_factory=Wire)
    asked: list[int] = field(default_factory=list)
    etags: list[str | None] = field(default_factory=list)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False

    async def head(self, name: str, selector: str, etag: str | None = None) -> HeadReply:
        self.etags.append(etag)
        await self._answer()
        if self.envelope is None:
            raise ModelNotFoundError(f"{self.url} does not know {name}:{selector}")
        return HeadReply(None if etag and etag == self.etag else self.envelope, self.etag)

    async def open(self, root: Digest) -> None:
        await self._answer()

    async def nodes(self, digests: Sequence[Digest]) -> dict[Digest, bytes]:
        await self._answer()
        return {digest: self.known[digest] for digest in digests if digest in self.known}

    async def inventory(self, root: Digest, count: int) -> bytes | None:
        await self._answer()
        return self.held

    async def part(self, chunk: Chunk, start: int, length: int, pool: BufferPool, meter: Meter | None = None) -> Buffer:
        return await self._give(chunk, start, length, pool)

    async def chunks(
        self, batch: Sequence[Chunk], pool: BufferPool, meter: Meter | None = None
    ) -> AsyncGenerator[tuple[Chunk, Buffer]]:
        for chunk in batch:
            yield chunk, await self._give(chunk, 0, chunk.length, pool)

    async def _give(self, chunk: Chunk, start: int, length: int, pool: BufferPool) -> Buffer:
        self.asked.append(chunk.index)
        buffer = await pool.acquire()
        try:
            await self.before(chunk)
            data = bytearray(read_chunk(self.store, chunk))
            if self.spoiled(chunk):
                data[-1] ^= 1
            buffer.view(length)[:] = data[start : start + length]
        except BaseException as error:
            buffer.release()
            if isinstance(error, asyncio.CancelledError):
                self.stopped.set()
            raise
        return buffer

    async def close(self) -> None:
        self.closed = True

    async def _answer(self) -> None:
        await asyncio.sleep(self.wait_s)
        if self.error is not None:
            raise self.error


def read_chunk(store: Store | None, chunk: Chunk) -> bytes:
    """The true bytes of a chunk that ``store`` has."""
    assert store is not None
    located = store.locate(chunk.digest)
    assert located is not None
    try:
        return bytes(located.read())
    finally:
        located.release()
