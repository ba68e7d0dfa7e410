"""How an origin tree's packs are asked for: what stands side by side in one range, and never too much of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.content import Digest
from p2psync.errors import ModelNotFoundError, RemoteProtocolError
from p2psync.limits import CHUNK_BYTES, RANGE_BYTES_MAX
from p2psync.manifest import Chunk, Extent, Spot, encode_index
from p2psync.transport import BufferPool, SourceKind, Wire
from p2psync.transport.exchange import Exchange, Landed, Reply
from p2psync.transport.origin import OriginSource

ROOT = Digest.of(b"root")


class FakeTree:
    """One index, and a record of the ranges that were read."""

    def __init__(self, index: bytes) -> None:
        self.index = index
        self.ranges: list[tuple[int, int]] = []

    async def get(self, path: str, bytes_max: int, headers: Mapping[str, str] | None = None) -> Reply:
        return Reply(200, self.index, None, None) if path == f"v1/index/{ROOT.hex()}" else Reply(404, b"", None, None)

    async def get_range(self, path: str, first: int, length: int) -> bytes | None:
        self.ranges.append((first, length))
        return bytes(length)

    async def fetch(self, exchanges: Sequence[Exchange], pool: BufferPool) -> AsyncGenerator[Landed]:
        for _ in exchanges:
            raise AssertionError("nothing here fetches a chunk")
            yield

    async def close(self) -> None:
        return


def source_of(index: bytes) -> tuple[OriginSource, FakeTree]:
    tree = FakeTree(index)
    return OriginSource("http://h", SourceKind.WAN, Wire(), tree, tree), tree


def digests(count: int) -> list[Digest]:
    return [Digest.of(number.to_bytes(4, "big")) for number in range(count)]


PLACED = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 40), st.sampled_from([1, 70_000, 300_000, CHUNK_BYTES])),
    min_size=1,
    max_size=40,
)


@given(PLACED, st.booleans())
def test_ranges_cover_exactly_the_chunks(placed: list[tuple[int, int, int]], side_by_side: bool) -> None:
    """Every chunk lands from its own place, whatever stands beside what; no range is over its cap."""
    spots, chunks, end = [], [], 0
    for index, (pack, gap, length) in enumerate(placed):
        offset = end if side_by_side else end + gap
        end = (offset + length) % (40 << 20)
        spots.append(Spot(pack // 3 if side_by_side else pack, offset))
        chunks.append(Chunk(index, Digest(index.to_bytes(32, "big")), length, ()))
    source, _ = source_of(b"")
    packs = digests(3)

    source._tree.index = encode_index(packs, {}, spots)  # type: ignore[attr-defined]
    asyncio.run(source.open(ROOT))
    landed = []
    for exchange in source._plan(chunks, CHUNK_BYTES):
        assert exchange.length <= RANGE_BYTES_MAX
        place = exchange.first or 0
        for segment in exchange.segments:
            assert segment.length == sum(chunk.length for chunk in segment.chunks) <= CHUNK_BYTES
            for chunk in segment.chunks:
                landed.append((chunk.index, exchange.path, place))
                place += chunk.length
    assert landed == [
        (index, f"v1/packs/{packs[spot.pack].hex()}.pack", spot.offset) for index, spot in enumerate(spots)
    ]


async def test_adjacent_chunks_share_a_range() -> None:
    """Sixteen chunks in a row are four requests of four chunks."""
    spots = [Spot(0, number * CHUNK_BYTES) for number in range(16)]
    source, _ = source_of(encode_index(digests(1), {}, spots))
    await source.open(ROOT)
    chunks = [Chunk(index, Digest(index.to_bytes(32, "big")), CHUNK_BYTES, ()) for index in range(16)]
    assert [len(exchange.segments) for exchange in source._plan(chunks, CHUNK_BYTES)] == [4, 4, 4, 4]


async def test_adjacent_nodes_share_a_range() -> None:
    """Nodes that stand side by side are read at once, and each comes back as its own bytes."""
    names = digests(6)
    nodes = {name: Extent(0, 100 + 10 * place, 10) for place, name in enumerate(names[:5])}
    nodes[names[5]] = Extent(0, 9000, 7)
    source, tree = source_of(encode_index(digests(1), nodes, []))
    await source.open(ROOT)
    got = await source.nodes([*names, ROOT])
    assert {name: len(node) for name, node in got.items()} == {name: extent.length for name, extent in nodes.items()}
    assert sorted(tree.ranges) == [(100, 50), (9000, 7)]


async def test_what_was_not_opened_is_not_there() -> None:
    """Nothing can be read before a version is opened."""
    source, _ = source_of(b"")
    with pytest.raises(ModelNotFoundError):
        await source.nodes([ROOT])


@pytest.mark.parametrize("index", [b"", b"P2PX", b"P2PX\x02" + bytes(12), b"<html>not found</html>"])
async def test_broken_index_breaks_the_protocol(index: bytes) -> None:
    """An index that is none, or of another version, is the origin's fault."""
    source, _ = source_of(index)
    with pytest.raises(RemoteProtocolError):
        await source.open(ROOT)


async def test_chunk_beyond_the_index_breaks_the_protocol() -> None:
    """An index that places fewer chunks than the manifest has is the origin's fault."""
    source, _ = source_of(encode_index(digests(1), {}, [Spot(0, 0)]))
    await source.open(ROOT)
    with pytest.raises(RemoteProtocolError):
        list(source._plan([Chunk(1, ROOT, 5, ())], CHUNK_BYTES))
    with pytest.raises(RemoteProtocolError):
        await source.inventory(ROOT, 2)
    assert await source.inventory(ROOT, 1) is None
