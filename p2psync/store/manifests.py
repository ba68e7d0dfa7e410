"""The nodes of each version in one file each: what proves its files, and what is given to others who pull it."""

from __future__ import annotations

import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Mapping

from p2psync import disk
from p2psync.content import Digest
from p2psync.errors import P2PSyncError
from p2psync.manifest import Manifest, Tree, read_tree
from p2psync.store.home import Home, disk_errors, read_file
from p2psync.store.index import Index

_MAGIC = b"P2PN\x01"
_LENGTH = struct.Struct("<I")
# Parsed manifests kept: the one that is installed, the one that is pulled, and what show or diff looked at.
_KEPT = 4


class Manifests:
    """The manifests of one home. ``get`` proves every node that it reads; ``node`` too, one at a time."""

    def __init__(self, home: Home, index: Index) -> None:
        self._home = home
        self._index = index
        self._lock = threading.Lock()
        self._adding = threading.Lock()
        self._parsed: OrderedDict[Digest, Manifest] = OrderedDict()

    def put(self, tree: Tree, manifest: Manifest) -> None:
        """Keep the nodes of a version, durably. ``manifest`` is what they say; what is there and proves stays."""
        if self.read(tree.root) is not None:
            return
        parts = [_MAGIC]
        for digest in (tree.root, *(d for d in tree.nodes if d != tree.root)):
            parts += (_LENGTH.pack(len(tree.nodes[digest])), tree.nodes[digest])
        data = b"".join(parts)
        with disk_errors(self._home.manifests, needed_bytes=len(data)):
            disk.write_durably(self._home.nodes(tree.root), data)
        self.record(tree.root)
        self._keep(tree.root, manifest)

    def add(self, root: Digest, nodes: Mapping[Digest, bytes]) -> None:
        """Keep more nodes of a version whose tree is here: those of its forms."""
        with self._adding:
            data = read_file(self._home.nodes(root))
            if data is None:
                return
            here = {Digest.of(data[offset : offset + length]) for offset, length in _walk(data)}
            fresh = [node for digest, node in nodes.items() if digest not in here]
            if not fresh:
                return
            data += b"".join(_LENGTH.pack(len(node)) + node for node in fresh)
            with disk_errors(self._home.manifests, needed_bytes=len(data)):
                disk.write_durably(self._home.nodes(root), data)
            self.record(root)

    def record(self, root: Digest) -> None:
        """Enter the nodes of a version into the index, from its file."""
        data = read_file(self._home.nodes(root)) or b""
        self._index.add_nodes(root, ((Digest.of(data[o : o + n]), o, n) for o, n in _walk(data)))

    def read(self, root: Digest) -> Tree | None:
        """The nodes of a version; None when it is unknown or its file does not prove."""
        data = read_file(self._home.nodes(root))
        if data is None:
            return None
        nodes = {}
        for offset, length in _walk(data):
            node = data[offset : offset + length]
            nodes[Digest.of(node)] = node
        tree = Tree(root, nodes)
        try:
            manifest = read_tree(root, nodes.get)
        except P2PSyncError:
            return None
        self._keep(root, manifest)
        return tree

    def get(self, root: Digest) -> Manifest | None:
        """What a version holds; None when it is unknown or its nodes do not prove."""
        with self._lock:
            if root in self._parsed:
                self._parsed.move_to_end(root)
                return self._parsed[root]
        if self.read(root) is None:
            return None
        with self._lock:
            return self._parsed.get(root)

    def node(self, digest: Digest) -> bytes | None:
        """One node, proved; None when no version here has it."""
        for root, offset, length in self._index.node(digest):
            try:
                with open(self._home.nodes(root), "rb") as file:
                    data = os.pread(file.fileno(), length, offset)
            except OSError:
                continue
            if Digest.of(data) == digest:
                return data
        return None

    def _keep(self, root: Digest, manifest: Manifest) -> None:
        with self._lock:
            self._parsed[root] = manifest
            while len(self._parsed) > _KEPT:
                self._parsed.popitem(last=False)

    def remove(self, root: Digest) -> None:
        """Forget a version's nodes."""
        with self._lock:
            self._parsed.pop(root, None)
        self._index.drop_nodes(root)
        with disk_errors(self._home.manifests):
            disk.remove_durably(self._home.nodes(root))

    def roots(self) -> list[Digest]:
        """The versions that have a file of nodes, whether it proves or not."""
        try:
            names = os.listdir(self._home.manifests)
        except FileNotFoundError:
            return []
        stems = [name.removesuffix(".nodes") for name in sorted(names) if name.endswith(".nodes")]
        return [Digest(bytes.fromhex(stem)) for stem in stems if _is_hex_digest(stem)]


def _is_hex_digest(text: str) -> bool:
    return len(text) == 64 and all(c in "0123456789abcdef" for c in text)


def _walk(data: bytes) -> list[tuple[int, int]]:
    """(offset, length) of each node in a file, as far as it is whole."""
    found: list[tuple[int, int]] = []
    if not data.startswith(_MAGIC):
        return found
    position = len(_MAGIC)
    while position + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, position)
        position += _LENGTH.size
        if position + length > len(data):
            break
        found.append((position, length))
        position += length
    return found
