"""The index of one version in an origin tree: which pack holds each node and each chunk, and where.

The index is not signed and need not be: whatever is read by it is proved against digests from the signed tree. It is
bounded and checked all the same, so that a wrong one ends in a named error and never in a wild request.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from p2psync.content import DIGEST_BYTES, Digest
from p2psync.errors import MalformedError, UnsupportedVersionError
from p2psync.limits import (
    CHUNKS_PER_VERSION_MAX,
    NODE_BYTES_MAX,
    NODES_PER_VERSION_MAX,
    PACK_BYTES_MAX,
    PACK_INDEX_BYTES_MAX,
)

INDEX_VERSION: Final = 1
PACKS_PER_INDEX_MAX: Final = 65_535
_MAGIC: Final = b"P2PX"
# Magic, version, and the counts of packs, nodes and chunks. Little endian, like all that follows.
_HEAD: Final = struct.Struct("<4sBIII")
# Digest, number of the pack, offset and length in bytes.
_NODE: Final = struct.Struct(f"<{DIGEST_BYTES}sHII")
# Number of the pack, offset in bytes. The length stands in the manifest.
_CHUNK: Final = struct.Struct("<HI")


class Extent(NamedTuple):
    """Some bytes of a pack: ``pack`` is its number in ``PackIndex.packs``; ``offset`` and ``length`` are in bytes."""

    pack: int
    offset: int
    length: int


class Spot(NamedTuple):
    """Where a chunk starts: in pack number ``pack``, ``offset`` bytes from its start."""

    pack: int
    offset: int


@dataclass(frozen=True, slots=True)
class PackIndex:
    """Where the nodes and the chunks of one version stand.

    ``packs`` are named by the digests of their bytes. ``spots`` are the chunks in manifest order, still packed: four
    million of them as objects would take half a gigabyte.
    """

    packs: tuple[Digest, ...]
    nodes: Mapping[Digest, Extent]
    spots: bytes

    def __len__(self) -> int:
        """How many chunks it places."""
        return len(self.spots) // _CHUNK.size

    def spot(self, index: int) -> Spot:
        """Where chunk number ``index`` of the manifest starts.

        Raises:
            IndexError: there are not so many.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"chunk {index} of {len(self)}")
        return Spot._make(_CHUNK.unpack_from(self.spots, index * _CHUNK.size))

    def __iter__(self) -> Iterator[Spot]:
        """Each chunk's place, in manifest order."""
        return map(Spot._make, _CHUNK.iter_unpack(self.spots))


def encode_index(packs: Sequence[Digest], nodes: Mapping[Digest, Extent], chunks: Sequence[Spot]) -> bytes:
    """Write an index. Nodes are sorted by their digests, so equal indexes have equal bytes.

    Args:
        packs: The digests of the packs.
        nodes: The place of every node of the version.
        chunks: The place of every chunk, in manifest order.

    Raises:
        MalformedError: there are too many packs, or a place is in no pack.
    """
    try:
        index = b"".join(
            (
                _HEAD.pack(_MAGIC, INDEX_VERSION, len(packs), len(nodes), len(chunks)),
                *packs,
                *(_NODE.pack(digest, *nodes[digest]) for digest in sorted(nodes)),
                *(_CHUNK.pack(*spot) for spot in chunks),
            )
        )
    except struct.error as error:
        raise MalformedError(f"a place in a pack that no index can name: {error}") from error
    decode_index(index)
    return index


def decode_index(data: bytes) -> PackIndex:
    """Read an index.

    Raises:
        MalformedError: it is none, or something in it is out of bounds.
        UnsupportedVersionError: another version wrote it.
    """
    if len(data) > PACK_INDEX_BYTES_MAX:
        raise MalformedError(f"a pack index has {len(data)} bytes, more than {PACK_INDEX_BYTES_MAX}")
    if data[: len(_MAGIC)] != _MAGIC:
        raise MalformedError("a pack index does not start with P2PX", offset=0)
    if len(data) > len(_MAGIC) and data[len(_MAGIC)] != INDEX_VERSION:
        text = f"a pack index of version {data[len(_MAGIC)]}, and this p2psync reads version {INDEX_VERSION}"
        raise UnsupportedVersionError(text, hint="update p2psync")
    if len(data) < _HEAD.size:
        raise MalformedError("a pack index ends in its head", offset=len(data))
    _, _, pack_count, node_count, chunk_count = _HEAD.unpack_from(data)
    if pack_count > PACKS_PER_INDEX_MAX or node_count > NODES_PER_VERSION_MAX or chunk_count > CHUNKS_PER_VERSION_MAX:
        raise MalformedError(f"a pack index of {pack_count} packs, {node_count} nodes and {chunk_count} chunks")
    nodes_at = _HEAD.size + pack_count * DIGEST_BYTES
    chunks_at = nodes_at + node_count * _NODE.size
    end = chunks_at + chunk_count * _CHUNK.size
    if len(data) != end:
        raise MalformedError(f"a pack index of {len(data)} bytes whose counts make {end}")
    packs = tuple(Digest(data[i : i + DIGEST_BYTES]) for i in range(_HEAD.size, nodes_at, DIGEST_BYTES))
    if len(set(packs)) != len(packs):
        raise MalformedError("a pack index names one pack twice")
    spots = bytes(data[chunks_at:])
    _check_spots(spots, pack_count)
    return PackIndex(packs, _nodes(data[nodes_at:chunks_at], pack_count), spots)


def _nodes(data: bytes, pack_count: int) -> dict[Digest, Extent]:
    nodes: dict[Digest, Extent] = {}
    for raw, pack, offset, length in _NODE.iter_unpack(data):
        if pack >= pack_count or not 0 < length <= NODE_BYTES_MAX or offset + length > PACK_BYTES_MAX:
            raise MalformedError(f"a pack index places a node of {length} bytes at byte {offset} of pack {pack}")
        nodes[Digest(raw)] = Extent(pack, offset, length)
    if len(nodes) * _NODE.size != len(data) or any(a >= b for a, b in pairwise(nodes)):
        raise MalformedError("the nodes of a pack index are not sorted by their digests")
    return nodes


def _check_spots(spots: bytes, pack_count: int) -> None:
    for pack, offset in _CHUNK.iter_unpack(spots):
        if pack >= pack_count or offset >= PACK_BYTES_MAX:
            raise MalformedError(f"a pack index places a chunk at byte {offset} of pack {pack}")
