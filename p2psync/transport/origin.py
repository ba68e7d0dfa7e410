"""An origin tree as a source: plain files behind any web server, or in a folder, with no code of ours there.

Chunks and nodes stand in packs; the index of a version says where. Adjacent chunks are asked for in one range of
bytes, and never several ranges in one request: some servers answer those with the whole file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Protocol

from p2psync.content import Digest
from p2psync.errors import MalformedError, ModelNotFoundError, RemoteProtocolError, UnsupportedVersionError
from p2psync.limits import NODE_LANES, PACK_INDEX_BYTES_MAX, RANGE_BYTES_MAX
from p2psync.manifest import Chunk, Extent, PackIndex, Spot, decode_index
from p2psync.transport.buffers import Buffer, BufferPool
from p2psync.transport.exchange import Exchange, Fetcher, Segment, read_part
from p2psync.transport.heads import Resources, fetch_head
from p2psync.transport.source import HeadReply, Meter, SourceKind, Wire

# Where a node stands, and which node it is.
_Placed = tuple[Extent, Digest]


class Tree(Resources, Protocol):
    """Whatever holds an origin tree's files."""

    async def get_range(self, path: str, first: int, length: int) -> bytes | None:
        """Exactly those bytes of a file; None where it is not there."""

    async def close(self) -> None:
        """Close what is open."""


class OriginSource:
    """Reads an origin tree. See ``Source`` for what each method promises."""

    def __init__(self, url: str, kind: SourceKind, wire: Wire, tree: Tree, fetcher: Fetcher) -> None:
        self.url = url
        self.kind = kind
        self.wire = wire
        self._tree = tree
        self._fetcher = fetcher
        self._index: PackIndex | None = None
        self._root: Digest | None = None

    async def head(self, name: str, selector: str, etag: str | None = None) -> HeadReply:
        """See ``Source.head``."""
        return (await fetch_head(self._tree, self.url, name, selector, etag))[0]

    async def open(self, root: Digest) -> None:
        """Load the index of a version. What was opened before is closed."""
        if root == self._root:
            return
        reply = await self._tree.get(f"v1/index/{root.hex()}", PACK_INDEX_BYTES_MAX)
        if reply.status != 200:
            raise ModelNotFoundError(f"{self.url} has no index of the version {root}")
        try:
            self._index = await asyncio.to_thread(decode_index, reply.body)
        except (MalformedError, UnsupportedVersionError) as error:
            raise RemoteProtocolError(f"{self.url} has a broken index of {root}: {error}", hint=error.hint) from error
        self._root = root

    async def nodes(self, digests: Sequence[Digest]) -> dict[Digest, bytes]:
        """See ``Source.nodes``."""
        index = self._opened()
        places = sorted((index.nodes[digest], digest) for digest in set(digests) if digest in index.nodes)
        turns = asyncio.Semaphore(NODE_LANES)
        reads = [asyncio.ensure_future(self._read(index, group, turns)) for group in _joined(places)]
        try:
            return {digest: node for part in await asyncio.gather(*reads) for digest, node in part.items()}
        finally:
            for read in reads:
                read.cancel()

    async def _read(self, index: PackIndex, group: list[_Placed], turns: asyncio.Semaphore) -> dict[Digest, bytes]:
        """The nodes of one range, or none of them where the pack is gone."""
        pack, first, _ = group[0][0]
        length = sum(extent.length for extent, _ in group)
        async with turns:
            body = await self._tree.get_range(_pack_path(index.packs[pack]), first, length)
        if body is None:
            return {}
        return {digest: body[extent.offset - first : extent.offset - first + extent.length] for extent, digest in group}

    async def inventory(self, root: Digest, count: int) -> bytes | None:
        """None: an origin tree has every chunk of a version that it has an index of."""
        await self.open(root)
        placed = len(self._opened())
        if placed != count:
            raise RemoteProtocolError(f"{self.url} has an index of {placed} chunks, not {count}")
        return None

    async def part(self, chunk: Chunk, start: int, length: int, pool: BufferPool, meter: Meter | None = None) -> Buffer:
        """See ``Source.part``."""
        index = self._opened()
        spot = self._spot(index, chunk)
        path, first = _pack_path(index.packs[spot.pack]), spot.offset + start
        return await read_part(
            self._fetcher, Exchange(path, (Segment((chunk,), length),), first=first, meter=meter), pool
        )

    async def chunks(
        self, batch: Sequence[Chunk], pool: BufferPool, meter: Meter | None = None
    ) -> AsyncGenerator[tuple[Chunk, Buffer]]:
        """See ``Source.chunks``."""
        async with aclosing(self._fetcher.fetch(list(self._plan(batch, pool.size, meter)), pool)) as landings:
            async for landed in landings:
                if len(landed.segment.chunks) == 1:
                    yield landed.segment.chunks[0], landed.buffer
                    continue
                try:
                    place = 0
                    for chunk in landed.segment.chunks:
                        yield chunk, landed.buffer.part(place)
                        place += chunk.length
                finally:
                    landed.buffer.release()

    def _plan(self, batch: Sequence[Chunk], buffer_bytes: int, meter: Meter | None = None) -> Iterator[Exchange]:
        index = self._opened()
        segments: list[list[Chunk]] = []
        start = end = Spot(0, 0)
        for chunk in batch:
            place = self._spot(index, chunk)
            if segments and (place != end or end.offset + chunk.length - start.offset > RANGE_BYTES_MAX):
                yield _exchange(index, start, segments, meter)
                segments = []
            if not segments:
                start = place
            if segments and _bytes_of(segments[-1]) + chunk.length <= buffer_bytes:
                segments[-1].append(chunk)
            else:
                segments.append([chunk])
            end = Spot(place.pack, place.offset + chunk.length)
        if segments:
            yield _exchange(index, start, segments, meter)

    def _spot(self, index: PackIndex, chunk: Chunk) -> Spot:
        if chunk.index >= len(index):
            raise RemoteProtocolError(f"the index of {self.url} has no chunk {chunk.index}")
        return index.spot(chunk.index)

    def _opened(self) -> PackIndex:
        if self._index is None:
            raise ModelNotFoundError(f"no version of {self.url} was opened")
        return self._index

    async def close(self) -> None:
        """See ``Source.close``."""
        await self._tree.close()


def _pack_path(pack: Digest) -> str:
    return f"v1/packs/{pack.hex()}.pack"


def _bytes_of(chunks: Sequence[Chunk]) -> int:
    return sum(chunk.length for chunk in chunks)


def _exchange(index: PackIndex, start: Spot, segments: list[list[Chunk]], meter: Meter | None) -> Exchange:
    parts = tuple(Segment(tuple(chunks), _bytes_of(chunks)) for chunks in segments)
    return Exchange(_pack_path(index.packs[start.pack]), parts, first=start.offset, meter=meter)


def _joined(places: Sequence[_Placed]) -> Iterator[list[_Placed]]:
    """Group nodes that touch into ranges of up to ``RANGE_BYTES_MAX``. ``places`` are sorted."""
    group: list[_Placed] = []
    first = end = Spot(0, 0)
    for extent, digest in places:
        pack, offset, length = extent
        if group and ((pack, offset) != end or offset + length - first.offset > RANGE_BYTES_MAX):
            yield group
            group = []
        if not group:
            first = Spot(pack, offset)
        group.append((extent, digest))
        end = Spot(pack, offset + length)
    if group:
        yield group
