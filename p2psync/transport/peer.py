"""A node that runs p2psync, as a source."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing

from p2psync.content import Digest
from p2psync.errors import MalformedError, ModelNotFoundError, RemoteProtocolError, WithdrawnError
from p2psync.limits import BATCH_BYTES_MAX, BATCH_CHUNK_BYTES_MAX, BATCH_DIGESTS_MAX, NODE_BYTES_MAX
from p2psync.manifest import Chunk
from p2psync.transport.buffers import Buffer, BufferPool
from p2psync.transport.exchange import Client, Exchange, Fetcher, Landed, Segment, read_part
from p2psync.transport.frames import ABSENT, LATER, LENGTH, encode_digests, read_frames
from p2psync.transport.heads import fetch_head
from p2psync.transport.source import HeadReply, Meter, SourceKind, Wire


class PeerSource:
    """Reads from the resources of ``server``. See ``Source`` for what each method promises."""

    def __init__(self, url: str, kind: SourceKind, wire: Wire, http: Client, fetcher: Fetcher) -> None:
        self.url = url
        self.kind = kind
        self.wire = wire
        self._http = http
        self._fetcher = fetcher

    async def head(self, name: str, selector: str, etag: str | None = None) -> HeadReply:
        """See ``Source.head``."""
        return (await fetch_head(self._http, self.url, name, selector, etag))[0]

    async def open(self, root: Digest) -> None:
        """A peer needs no preparation."""

    async def nodes(self, digests: Sequence[Digest]) -> dict[Digest, bytes]:
        """See ``Source.nodes``."""
        found: dict[Digest, bytes] = {}
        for start in range(0, len(digests), BATCH_DIGESTS_MAX):
            wanted = list(digests[start : start + BATCH_DIGESTS_MAX])
            while wanted:
                wanted = await self._some_nodes(wanted, found)
        return found

    async def _some_nodes(self, wanted: list[Digest], found: dict[Digest, bytes]) -> list[Digest]:
        """One batch request. Returns the digests that have to be asked for again."""
        bytes_max = max(BATCH_BYTES_MAX, NODE_BYTES_MAX) + LENGTH.size * len(wanted)
        reply = await self._http.post("v1/nodes", encode_digests(wanted), bytes_max)
        if reply.status != 200:
            raise RemoteProtocolError(f"{self.url} answered v1/nodes with status {reply.status}")
        later = []
        try:
            for digest, (place, length) in zip(wanted, read_frames(reply.body, len(wanted)), strict=True):
                if length == LATER:
                    later.append(digest)
                elif length != ABSENT:
                    found[digest] = reply.body[place : place + length]
        except MalformedError as error:
            raise RemoteProtocolError(f"{self.url} answered v1/nodes wrongly: {error}") from error
        if len(later) == len(wanted):
            raise RemoteProtocolError(f"{self.url} put off every node of a batch")
        return later

    async def inventory(self, root: Digest, count: int) -> bytes | None:
        """See ``Source.inventory``."""
        size = (count + 7) // 8
        reply = await self._http.get(f"v1/have/{root.hex()}", size)
        if reply.status != 200:
            raise ModelNotFoundError(f"{self.url} does not know the version {root}")
        spare = -count % 8
        if len(reply.body) != size or (spare and reply.body[-1] >> (8 - spare)):
            raise RemoteProtocolError(f"{self.url} sent an inventory that does not fit {count} chunks")
        return reply.body

    async def part(self, chunk: Chunk, start: int, length: int, pool: BufferPool, meter: Meter | None = None) -> Buffer:
        """See ``Source.part``."""
        path = f"v1/chunks/{chunk.digest.hex()}"
        return await read_part(
            self._fetcher, Exchange(path, (Segment((chunk,), length),), first=start, meter=meter), pool
        )

    async def chunks(
        self, batch: Sequence[Chunk], pool: BufferPool, meter: Meter | None = None
    ) -> AsyncGenerator[tuple[Chunk, Buffer]]:
        """See ``Source.chunks``. Small chunks that follow each other travel in one answer."""
        async with aclosing(self._fetcher.fetch(list(_plan(batch, pool.size, meter)), pool)) as landings:
            async for landed in landings:
                if len(landed.segment.chunks) == 1:
                    yield landed.segment.chunks[0], landed.buffer
                    continue
                try:
                    for chunk, place in self._unpack(landed):
                        yield chunk, landed.buffer.part(place)
                finally:
                    landed.buffer.release()

    def _unpack(self, landed: Landed) -> Iterator[tuple[Chunk, int]]:
        """The chunks of a batch answer and where each begins in the buffer."""
        chunks = landed.segment.chunks
        try:
            frames = read_frames(landed.buffer.view(landed.length), len(chunks))
            for chunk, (place, length) in zip(chunks, frames, strict=True):
                if length == ABSENT:
                    raise WithdrawnError(f"{self.url} no longer has {chunk.digest}")
                if length != chunk.length:
                    raise RemoteProtocolError(f"{self.url} sent {length} bytes for {chunk.digest}, not {chunk.length}")
                yield chunk, place
        except MalformedError as error:
            raise RemoteProtocolError(f"{self.url} answered v1/chunks wrongly: {error}") from error

    async def close(self) -> None:
        """See ``Source.close``."""
        await self._http.close()


def _plan(batch: Sequence[Chunk], buffer_bytes: int, meter: Meter | None = None) -> Iterator[Exchange]:
    """One GET for each big or lonely chunk, one POST for each run of small ones that fits a buffer."""
    run: list[Chunk] = []
    run_bytes = 0
    for chunk in batch:
        framed = LENGTH.size + chunk.length
        small = chunk.length < BATCH_CHUNK_BYTES_MAX
        if run and (not small or run_bytes + framed > buffer_bytes or len(run) == BATCH_DIGESTS_MAX):
            yield _exchange(run, run_bytes, meter)
            run, run_bytes = [], 0
        run.append(chunk)
        run_bytes += framed
        if not small:
            yield _exchange(run, run_bytes, meter)
            run, run_bytes = [], 0
    if run:
        yield _exchange(run, run_bytes, meter)


def _exchange(run: list[Chunk], run_bytes: int, meter: Meter | None) -> Exchange:
    if len(run) == 1:
        return Exchange(f"v1/chunks/{run[0].digest.hex()}", (Segment((run[0],), run[0].length),), meter=meter)
    digests = encode_digests([chunk.digest for chunk in run])
    return Exchange("v1/chunks", (Segment(tuple(run), run_bytes),), body=digests, meter=meter)
