"""Nodes of files, groups and chunk lists, each read alone: what its digest does not already say is checked."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from tests.reference import values
from tests.reference.cbor import decode_map
from tests.reference.cursor import require

NODE_MAX = 16 << 20
GRID = 1 << 20
_NODES_MAX = 1 << 20
_NODES_BYTES_MAX = 256 << 20
FILE_MAX = 1 << 46
_BLOB_CHUNKS_MAX = 262_144
_GROUP_MAX = 256
_BYTES, _TENSOR = 0, 2

Fetch = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Chunk:
    """A digest, and how many bytes have it."""

    digest: bytes
    length: int


@dataclass(frozen=True)
class Blob:
    """What a part of a file holds: ``kind`` is 0 bytes, 1 header, 2 tensor, 3 gap."""

    kind: int
    length: int
    chunks: tuple[Chunk, ...]
    name: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()


class Nodes:
    """Nodes by their digests, from anybody: each is proved, and counted against the bounds of a version."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._kinds: dict[bytes, int] = {}
        self._bytes: dict[bytes, int] = {}

    def get(self, digest: bytes, kind: int, keys: Collection[int]) -> dict[int, Any]:
        """The map of a node of one kind, which has no other keys than these besides 0."""
        data = self._fetch(digest)
        require(blake3(data).digest() == digest, "a node that is another")
        require(len(data) <= NODE_MAX, "a node over 16 MiB")
        self._bytes[digest] = len(data)
        require(len(self._bytes) <= _NODES_MAX and sum(self._bytes.values()) <= _NODES_BYTES_MAX, "too many nodes")
        require(self._kinds.setdefault(digest, kind) == kind, "a digest in places of two kinds")
        found = decode_map(data)
        found_kind = found.pop(0, None)
        require(type(found_kind) is int and found_kind == kind, "a node of another kind")
        require(kind == 0 or set(found) <= set(keys), "another key")
        return found


def file_groups(nodes: Nodes, digest: bytes) -> list[bytes]:
    """The digests of a file node's groups."""
    return values.digests(nodes.get(digest, 1, {1}).get(1))


def group_rows(nodes: Nodes, digest: bytes) -> list[Any]:
    """The blobs of a group, as arrays."""
    rows = values.listed(nodes.get(digest, 2, {1}).get(1))
    require(1 <= len(rows) <= _GROUP_MAX, "1 to 256 blobs")
    return rows


def read_blob(nodes: Nodes, row: Any) -> Blob:
    """The blob that an array is.

    Raises:
        RefusedError: It is none.
    """
    row = values.listed(row)
    require(len(row) in (3, 6), "a blob of 3 or 6 values")
    kind, length = values.whole(row[0], 3), values.whole(row[1], FILE_MAX)
    require((len(row) == 6) == (kind == _TENSOR), "a name, dtype and shape of tensors alone")
    require(length or kind == _TENSOR, "an empty blob that is no tensor")
    chunks = _chunks(nodes, row[2], length, by_content=kind == _BYTES)
    if kind != _TENSOR:
        return Blob(kind, length, chunks)
    shape = values.listed(row[5])
    require(len(shape) <= 64, "over 64 dimensions")
    sides = tuple(values.whole(side, 2**63 - 1) for side in shape)
    return Blob(kind, length, chunks, values.tensor_name(row[3]), values.dtype(row[4]), sides)


def _chunks(nodes: Nodes, value: Any, length: int, *, by_content: bool) -> tuple[Chunk, ...]:
    if isinstance(value, bytes):
        require(len(value) == (32 if length else 0), "one digest, or none")
        require(length <= GRID, "one chunk over 1 MiB")
        return (Chunk(value, length),) if length else ()
    listed = values.listed(value)
    require(len(listed) == 1, "one chunk list")
    node = nodes.get(values.digest(listed[0]), 3, {1, 2})
    found = values.digests(node.get(1), 2)
    require(len(found) <= _BLOB_CHUNKS_MAX, "too many chunks of a blob")
    lengths = _lengths(node, length, by_content=by_content)
    require(len(lengths) == len(found) and sum(lengths) == length, "chunks that are not the blob's length")
    return tuple(map(Chunk, found, lengths))


def _lengths(node: dict[int, Any], length: int, *, by_content: bool) -> list[int]:
    grid = [min(GRID, length - at) for at in range(0, length, GRID)]
    if 2 not in node:
        return grid
    found = values.numbers(node[2])
    require(by_content, "lengths of a blob that the grid cuts")
    require(all(1 <= count <= GRID for count in found), "a chunk of no bytes, or over 1 MiB")
    require(found != grid, "lengths that are the grid's")
    return found


def check_groups(groups: list[list[Blob]]) -> None:
    """Groups end where names say, and nowhere else.

    Raises:
        RefusedError: They do not.
    """
    for number, group in enumerate(groups):
        ends = [_ends(blob) for blob in group]
        require(not any(ends[:-1]), "a group that goes on behind its end")
        last = number == len(groups) - 1
        require(last or ends[-1] or len(group) == _GROUP_MAX, "a group that ends early")


def _ends(blob: Blob) -> bool:
    return blob.kind == _TENSOR and blake3(blob.name.encode()).digest()[0] < 8
