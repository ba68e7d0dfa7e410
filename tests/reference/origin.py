"""A version read whole from an origin tree: head, index, nodes, every chunk and every file, each proved."""

from __future__ import annotations

import hashlib
from pathlib import Path

from blake3 import blake3

from tests.reference.cursor import require
from tests.reference.encoded import decode
from tests.reference.forms import Piece, Row, read_forms
from tests.reference.head import Head, read_head
from tests.reference.nodes import Chunk
from tests.reference.pack_index import PackIndex, read_index
from tests.reference.version import File, Version, read_version


class OriginTree:
    """The tree in a folder, as one key signs its heads."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder / "v1"
        self._key = key
        self._packs: dict[bytes, bytes] = {}
        self._chunks: dict[bytes, bytes] = {}

    def head(self, name: str, tag: str) -> Head:
        """The head of a name and tag, which must be for these."""
        found = read_head((self._folder / "heads" / name / "tags" / tag).read_bytes(), self._key)
        require((found.name, found.tag) == (name, tag), "a head for another name or tag")
        return found

    def version(self, root: bytes) -> Version:
        """The manifest of a root, every chunk of which is proved on the way."""
        index = self._index(root)
        found = read_version(root, lambda digest: self._node(index, digest))
        chunks = found.chunks()
        require(len(index.chunks) == len(chunks) + found.encoded, "another number of chunks in the index")
        for chunk, spot in zip(chunks, index.chunks, strict=False):
            self._chunks[chunk.digest] = self._proved(index, spot, chunk)
        return found

    def file(self, file: File) -> bytes:
        """The bytes of a file of a version that was read.

        Raises:
            RefusedError: They are not what was signed.
        """
        data = b"".join(self._chunks[chunk.digest] for blob in file.blobs for chunk in blob.chunks)
        require(len(data) == file.size and hashlib.sha256(data).digest() == file.sha256, "another file")
        return data

    def decoded(self, root: bytes, version: Version) -> list[Row]:
        """Every encoded chunk of a version, decoded to the chunk that it must give; what it needs was read before.

        Raises:
            RefusedError: One gives something else.
        """
        index = self._index(root)
        chunks = version.chunks()
        rows = read_forms(version, lambda digest: self._node(index, digest))
        for row, spot in zip(rows, index.chunks[len(chunks) :], strict=True):
            encoded = self._proved(index, spot, Chunk(row.digest, row.length))
            require(encoded[0] == row.form, "another form than the row's")
            chunk = chunks[row.number]
            found = decode(encoded, [self._piece(piece) for piece in row.needs], chunk.length)
            require(blake3(found).digest() == chunk.digest, "a form that gives another chunk")
        return rows

    def _piece(self, piece: Piece) -> bytes:
        whole = self._chunks[piece.digest]
        end = piece.offset + piece.length if piece.length else len(whole)
        require(end <= len(whole), "a piece behind the end of its chunk")
        return whole[piece.offset : end]

    def _index(self, root: bytes) -> PackIndex:
        return read_index((self._folder / "index" / root.hex()).read_bytes())

    def _node(self, index: PackIndex, digest: bytes) -> bytes:
        require(digest in index.nodes, "a node that the index lacks")
        pack, offset, length = index.nodes[digest]
        return self._pack(index.packs[pack])[offset : offset + length]

    def _proved(self, index: PackIndex, spot: tuple[int, int], chunk: Chunk) -> bytes:
        data = self._pack(index.packs[spot[0]])[spot[1] : spot[1] + chunk.length]
        require(blake3(data).digest() == chunk.digest, "a chunk that is another")
        return data

    def _pack(self, digest: bytes) -> bytes:
        if digest not in self._packs:
            self._packs[digest] = (self._folder / "packs" / f"{digest.hex()}.pack").read_bytes()
            require(blake3(self._packs[digest]).digest() == digest, "a pack that is another")
        return self._packs[digest]
