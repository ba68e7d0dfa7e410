"""One suite for every kind of source: a peer and an origin tree, over each way of carrying bytes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2psync.content import Digest
from p2psync.errors import ModelNotFoundError, RemoteProtocolError, SourceUnreachableError, WithdrawnError
from p2psync.limits import CHUNK_BYTES
from p2psync.manifest import Chunk
from p2psync.transport import BufferPool, Server, Source, SourceKind, connect
from tests.library import FolderLibrary, Version, bitset, make_version, write_origin_tree
from tests.web import NGINX, nginx, static

SIZES = [
    1,
    CHUNK_BYTES,
    3,
    70_000,
    65_536,
    200_000,
    262_144,
    262_143,
    CHUNK_BYTES,
    CHUNK_BYTES,
    5,
    CHUNK_BYTES,
    900_001,
]
UNKNOWN = Digest.of(b"nobody has this")


@dataclass
class Place:
    """A running source, what it holds, and how to make it lose a chunk."""

    source: Source
    version: Version
    forget: Callable[[Chunk], None]

    async def ready(self) -> Source:
        await self.source.open(self.version.root)
        return self.source


@asynccontextmanager
async def peer(tmp_path: Path, version: Version, *, fast: bool) -> AsyncIterator[Place]:
    library = FolderLibrary(tmp_path)
    library.add(version)
    server = Server(library, node_id="n1")
    source = connect(await server.start("127.0.0.1", 0), SourceKind.LAN, fast=fast)
    try:
        yield Place(source, version, lambda chunk: library.places.pop(chunk.digest))
        assert library.held == 0
    finally:
        await source.close()
        await server.stop(1.0)
        library.close()


@asynccontextmanager
async def origin(tmp_path: Path, version: Version, *, by: str, fast: bool = True) -> AsyncIterator[Place]:
    tree = tmp_path / "tree"
    write_origin_tree(tree / "a b", version)
    if by == "file":
        web = _just((tmp_path / "tree").as_uri())
    else:
        web = nginx(tree, tmp_path / "nginx") if by == "nginx" else static(tree)

    def forget(chunk: Chunk) -> None:
        for pack in (tree / "a b" / "v1" / "packs").iterdir():
            if version.bytes_of(chunk) in pack.read_bytes():
                pack.unlink()

    async with web as url:
        source = connect(f"{url}/a%20b/", SourceKind.WAN, fast=fast)
        try:
            yield Place(source, version, forget)
        finally:
            await source.close()


@asynccontextmanager
async def _just(url: str) -> AsyncIterator[str]:
    yield url


KINDS = {
    "peer, fast": lambda path, version: peer(path, version, fast=True),
    "peer, aiohttp": lambda path, version: peer(path, version, fast=False),
    "origin, nginx, fast": lambda path, version: origin(path, version, by="nginx"),
    "origin, nginx, aiohttp": lambda path, version: origin(path, version, by="nginx", fast=False),
    "origin, static, fast": lambda path, version: origin(path, version, by="static"),
    "origin, file": lambda path, version: origin(path, version, by="file"),
}


@pytest.fixture(
    params=[
        pytest.param(kind, marks=pytest.mark.nginx) if "nginx" in kind else kind
        for kind in KINDS
        if NGINX is not None or "nginx" not in kind
    ]
)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    async with KINDS[request.param](tmp_path, make_version(SIZES, nodes=40)) as running:
        yield running


async def read(source: Source, batch: list[Chunk], pool: BufferPool) -> list[tuple[int, bytes]]:
    got = []
    async with aclosing(source.chunks(batch, pool)) as chunks:
        async for chunk, buffer in chunks:
            got.append((chunk.index, bytes(buffer.view(chunk.length))))
            buffer.release()
    return got


def truth(version: Version, batch: list[Chunk]) -> list[tuple[int, bytes]]:
    return [(chunk.index, version.bytes_of(chunk)) for chunk in batch]


async def test_head_is_found_by_tag_and_by_digest(place: Place) -> None:
    """A source gives the signed envelope of a name, whichever way it is asked for."""
    version = place.version
    assert (await place.source.head(version.name, "latest")).envelope == version.envelope
    assert (await place.source.head(version.name, str(version.root))).envelope == version.envelope


async def test_unchanged_head_is_not_sent_again(place: Place) -> None:
    """A source that is shown its own etag answers without the envelope, and keeps the etag."""
    first = await place.source.head(place.version.name, "latest")
    assert first.etag is not None
    again = await place.source.head(place.version.name, "latest", first.etag)
    assert (again.envelope, again.etag) == (None, first.etag)


async def test_unknown_model_is_not_found(place: Place) -> None:
    """An unknown name, tag or digest ends in ModelNotFoundError."""
    for name, selector in [("acme/other", "latest"), ("acme/model", "v9"), ("acme/model", str(UNKNOWN))]:
        with pytest.raises(ModelNotFoundError):
            await place.source.head(name, selector)


async def test_nodes_are_those_that_it_has(place: Place) -> None:
    """A source gives the nodes it has and leaves out the others."""
    source = await place.ready()
    wanted = [*place.version.nodes, UNKNOWN]
    random.Random(3).shuffle(wanted)
    assert await source.nodes(wanted) == place.version.nodes
    assert await source.nodes([]) == {}


async def test_inventory_says_everything(place: Place) -> None:
    """A complete source offers every chunk."""
    count = len(place.version.chunks)
    assert await place.source.inventory(place.version.root, count) in (None, bitset(count, range(count)))


async def test_inventory_of_an_unknown_version_is_not_found(place: Place) -> None:
    """A version that the source does not know ends in ModelNotFoundError."""
    with pytest.raises(ModelNotFoundError):
        await place.source.inventory(UNKNOWN, 3)


async def test_inventory_that_does_not_fit_is_refused(place: Place) -> None:
    """A source whose inventory has another number of chunks than the manifest breaks the protocol."""
    with pytest.raises(RemoteProtocolError):
        await place.source.inventory(place.version.root, 4)


@pytest.mark.parametrize("order", ["manifest order", "backwards", "shuffled", "every third"])
async def test_chunks_come_in_batch_order(place: Place, order: str) -> None:
    """Chunks of all sizes come whole, in the order they were asked for, and every buffer comes back."""
    source = await place.ready()
    batch = list(place.version.chunks)
    if order == "backwards":
        batch.reverse()
    elif order == "shuffled":
        random.Random(5).shuffle(batch)
    elif order == "every third":
        batch = batch[::3]
    pool = BufferPool(4)
    assert await read(source, batch, pool) == truth(place.version, batch)
    assert pool.free == 4


async def test_empty_batch_yields_nothing(place: Place) -> None:
    """Asking for nothing gives nothing."""
    assert await read(await place.ready(), [], BufferPool(1)) == []


async def test_lanes_share_a_pool_of_one_buffer(place: Place) -> None:
    """However few buffers there are, several lanes all get their chunks."""
    source = await place.ready()
    pool = BufferPool(1)
    batches = [place.version.chunks[start::3] for start in range(3)]
    got = await asyncio.gather(*(read(source, batch, pool) for batch in batches))
    assert got == [truth(place.version, batch) for batch in batches]
    assert pool.free == 1


async def test_leaving_early_gives_everything_back(place: Place) -> None:
    """A reader that stops after one chunk leaves no buffer behind, and the source goes on working."""
    source = await place.ready()
    pool = BufferPool(3)
    async with aclosing(source.chunks(place.version.chunks, pool)) as chunks:
        async for _, buffer in chunks:
            buffer.release()
            break
    assert pool.free == 3
    assert await read(source, place.version.chunks, pool) == truth(place.version, place.version.chunks)


async def test_cancelling_gives_everything_back(place: Place) -> None:
    """A lane that is cancelled at any moment leaves no buffer behind."""
    source = await place.ready()
    pool = BufferPool(2)
    for pause_s in (0.0, 0.001, 0.003, 0.01, 0.03):
        lane = asyncio.ensure_future(read(source, place.version.chunks, pool))
        await asyncio.sleep(pause_s)
        lane.cancel()
        await asyncio.gather(lane, return_exceptions=True)
        assert pool.free == 2
    assert await read(source, place.version.chunks, pool) == truth(place.version, place.version.chunks)


async def test_withdrawn_chunk_is_named(place: Place) -> None:
    """A chunk that is gone ends in WithdrawnError after all that stood before it; others are still served."""
    source = await place.ready()
    gone = place.version.chunks[8]
    place.forget(gone)
    pool = BufferPool(4)
    got = []
    with pytest.raises(WithdrawnError):
        async with aclosing(source.chunks([place.version.chunks[0], gone, place.version.chunks[11]], pool)) as chunks:
            async for chunk, buffer in chunks:
                got.append(chunk.index)
                buffer.release()
    assert got == [0]
    assert pool.free == 4
    assert await read(source, place.version.chunks[:2], pool) == truth(place.version, place.version.chunks[:2])


async def test_wire_counts_what_came(place: Place) -> None:
    """The wire counter holds the chunk bytes, and not much more."""
    source = await place.ready()
    before = source.wire.received
    await read(source, place.version.chunks, BufferPool(4))
    came = source.wire.received - before
    assert len(place.version.data) <= came <= len(place.version.data) * 1.01


async def test_closed_source_is_unreachable(place: Place) -> None:
    """Nothing comes from a source that was closed."""
    source = await place.ready()
    if source.url.startswith("file:"):
        return
    await source.close()
    with pytest.raises(SourceUnreachableError):
        await read(source, place.version.chunks, BufferPool(1))
    with pytest.raises(SourceUnreachableError):
        await source.head(place.version.name, "latest")
