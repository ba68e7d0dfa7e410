"""Write a version to a static tree that any web server, bucket or USB stick can serve.

What is named is written first: packs, then the index, then the head of the version, then the tag. A crash between any
two leaves a tree that is what it was, with files that nothing names. Packs that older versions wrote are used again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from p2psync import disk
from p2psync.content import Digest
from p2psync.errors import DamagedError, P2PSyncError
from p2psync.limits import HEAD_BYTES_MAX, PACK_INDEX_BYTES_MAX, PACK_TARGET_BYTES
from p2psync.manifest import (
    Extent,
    Head,
    Manifest,
    PackIndex,
    Spot,
    Tree,
    chunk_table,
    decode_index,
    encode_index,
    peek_head,
    read_tree,
)
from p2psync.store.home import disk_errors
from p2psync.store.locate import locate_installed
from p2psync.store.opened import OpenHome

# Where something stands in the tree: pack, offset and length in bytes.
_Stand = tuple[Digest, int, int]


def highest_version(tree: Path, name: str, tag: str) -> int:
    """The version number that a tag of an origin tree names; 0 when there is none.

    Raises:
        MalformedError: what stands there is no head.
    """
    path = tree / "v1" / "heads" / name / "tags" / tag
    try:
        with open(path, "rb") as file:
            return peek_head(file.read(HEAD_BYTES_MAX + 1)).version
    except (FileNotFoundError, NotADirectoryError):
        return 0


def write(opened: OpenHome, to: Path, manifest: Manifest, tree: Tree, head: Head, envelope: bytes) -> dict[str, int]:
    """Add an installed version to the origin tree at ``to``; returns how many packs and bytes that took.

    Raises:
        StoreFullError: its disk is full; the tree serves what it served.
        StoreError: its disk refuses.
        DamagedError: a file of the version changed while it was read.
    """
    top = to / "v1"
    with disk_errors(to, needed_bytes=manifest.size):
        packs = _Packs(top / "packs", _known(opened, top))
        for digest, node in tree.nodes.items():
            packs.add(digest, partial(bytes, node))
        chunks = [digest for digest, _ in _numbered(opened, manifest)]
        for digest in chunks:
            packs.add(digest, partial(_read, opened, digest))
        packs.flush()
        stands = packs.stands
        used = dict.fromkeys(stands[digest][0] for digest in (*tree.nodes, *chunks))
        order = {pack: number for number, pack in enumerate(used)}
        index = encode_index(
            list(order),
            {d: Extent(order[stands[d][0]], stands[d][1], stands[d][2]) for d in tree.nodes},
            [Spot(order[stands[digest][0]], stands[digest][1]) for digest in chunks],
        )
        disk.write_durably(top / "index" / head.root.hex(), index)
        disk.write_durably(top / "heads" / head.name / "digests" / head.root.hex(), envelope)
        disk.write_durably(top / "heads" / head.name / "tags" / head.tag, envelope)
    return {"packs": packs.count, "bytes": packs.bytes}


def _numbered(opened: OpenHome, manifest: Manifest) -> list[tuple[Digest, int]]:
    """(digest, length) of every chunk and then of every encoded chunk of a version, by number."""
    numbered = [(chunk.digest, chunk.length) for chunk in chunk_table(manifest)]
    if manifest.forms is not None:
        numbered += [(row.digest, row.length) for _, _, row in opened.packs.reader(manifest).rows()]
    return numbered


def _read(opened: OpenHome, digest: Digest) -> bytes:
    located = locate_installed(opened, digest) or opened.packs.locate(digest)
    if located is not None:
        try:
            data = located.read()
            if Digest.of(data) == digest:
                return data
        finally:
            located.release()
    raise DamagedError(
        f"chunk {digest} changed after it was published; the origin tree was left as it was",
        hint="p2psync verify, then publish again",
    )


class _Packs:
    """Gathers new nodes and chunks into packs. ``stands`` says where everything is, once ``flush`` was called."""

    def __init__(self, folder: Path, stands: dict[Digest, _Stand]) -> None:
        self._folder = folder
        self._buffer = bytearray()
        self._open: dict[Digest, tuple[int, int]] = {}
        self.stands = stands
        self.count = 0
        self.bytes = 0

    def add(self, digest: Digest, read: Callable[[], bytes]) -> None:
        """Put what ``read`` gives into a pack, unless it is in one already."""
        if digest in self.stands or digest in self._open:
            return
        data = read()
        if self._buffer and len(self._buffer) + len(data) > PACK_TARGET_BYTES:
            self.flush()
        self._open[digest] = (len(self._buffer), len(data))
        self._buffer += data

    def flush(self) -> None:
        """Write the open pack."""
        if not self._buffer:
            return
        name = Digest.of(self._buffer)
        disk.write_durably(self._folder / f"{name.hex()}.pack", self._buffer)
        self.stands.update({digest: (name, offset, length) for digest, (offset, length) in self._open.items()})
        self.count += 1
        self.bytes += len(self._buffer)
        self._open.clear()
        self._buffer = bytearray()


def _known(opened: OpenHome, top: Path) -> dict[Digest, _Stand]:
    """What older versions in the tree put into packs that are there."""
    try:
        names = sorted(os.listdir(top / "index"))
    except FileNotFoundError:
        return {}
    stands: dict[Digest, _Stand] = {}
    for name in names:
        try:
            root = Digest.parse(f"b3:{name}")
            with open(top / "index" / name, "rb") as file:
                index = decode_index(file.read(PACK_INDEX_BYTES_MAX + 1))
            manifest = opened.manifests.get(root) or read_tree(root, partial(_node, top, index))
            numbered = [(chunk.digest, chunk.length) for chunk in chunk_table(manifest)]
            # Forms that are not in this home are written anew.
            with suppress(P2PSyncError):
                numbered = _numbered(opened, manifest)
        except P2PSyncError:
            # What cannot be read is of no use here; those who pull it find out by themselves.
            continue
        found = [(digest, *extent) for digest, extent in index.nodes.items()]
        found += [(digest, *spot, length) for (digest, length), spot in zip(numbered, index, strict=False)]
        sizes = [_size(top / "packs" / f"{pack.hex()}.pack") for pack in index.packs]
        short = {pack for _, pack, offset, length in found if offset + length > sizes[pack]}
        stands.update((d, (index.packs[pack], o, n)) for d, pack, o, n in found if pack not in short)
    return stands


def _node(top: Path, index: PackIndex, digest: Digest) -> bytes | None:
    extent = index.nodes.get(digest)
    if extent is None:
        return None
    try:
        with open(top / "packs" / f"{index.packs[extent.pack].hex()}.pack", "rb") as file:
            return os.pread(file.fileno(), extent.length, extent.offset)
    except OSError:
        return None


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
