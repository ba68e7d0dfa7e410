"""Where the nodes and chunks of a version stand in the packs of an origin tree."""

from __future__ import annotations

from dataclasses import dataclass

from tests.reference.cursor import Cursor, require

_PACKS_MAX = 65_535
_NODE_MAX = 16 << 20
_PACK_MAX = 64 << 20


@dataclass(frozen=True)
class PackIndex:
    """Packs by digest; nodes as (pack, offset, length); chunks by number as (pack, offset)."""

    packs: tuple[bytes, ...]
    nodes: dict[bytes, tuple[int, int, int]]
    chunks: tuple[tuple[int, int], ...]


def read_index(data: bytes) -> PackIndex:
    """The index of one version.

    Raises:
        RefusedError: It is none.
    """
    cursor = Cursor(data)
    require(cursor.take(4) == b"P2PX" and cursor.number(1) == 1, "another file or version")
    packs, nodes, chunks = (cursor.number(4) for _ in range(3))
    require(packs <= _PACKS_MAX and len(cursor.left) == 32 * packs + 42 * nodes + 6 * chunks, "counts")
    digests = tuple(cursor.take(32) for _ in range(packs))
    require(len(set(digests)) == packs, "a pack twice")
    rows = [(cursor.take(32), (cursor.number(2), cursor.number(4), cursor.number(4))) for _ in range(nodes)]
    names = [name for name, _ in rows]
    require(names == sorted(set(names)), "nodes that are not sorted")
    require(all(offset + length <= _PACK_MAX for _, (_, offset, length) in rows), "a node behind 64 MiB")
    require(all(1 <= length <= _NODE_MAX for _, (_, _, length) in rows), "the length of a node")
    spots = tuple((cursor.number(2), cursor.number(4)) for _ in range(chunks))
    used = [place[0] for _, place in rows] + [spot[0] for spot in spots]
    require(all(pack < packs for pack in used), "a pack that is not there")
    require(all(offset < _PACK_MAX for _, offset in spots), "a chunk behind 64 MiB")
    return PackIndex(digests, dict(rows), spots)
