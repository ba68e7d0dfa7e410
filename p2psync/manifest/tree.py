"""The Merkle tree of one version: manifest to nodes, and nodes from anybody to a manifest that is proved.

Theory of operation: the reader starts from one trusted digest. It says which nodes it wants next, takes them in any
order, and believes a node only when its bytes hash to a digest that a believed node holds. Every other promise (sums,
counts, order, safe paths) is checked here too, so whoever gets a ``Manifest`` has nothing left to check. Rule: whatever
is built here is read back here before it is returned, so nobody signs what a reader would refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from p2psync.content import DIGEST_BYTES, BlobKind, Digest, FileFormat, grid_lengths
from p2psync.errors import DigestMismatchError, MalformedError, NotFoundError
from p2psync.limits import (
    BLOBS_PER_VERSION_MAX,
    CHUNK_BYTES,
    CHUNKS_PER_VERSION_MAX,
    GROUP_BLOBS_MAX,
    GROUP_TENSORS_AVG,
    MANIFEST_BYTES_MAX,
    NODES_PER_VERSION_MAX,
)
from p2psync.manifest.model import Blob, ChunkList, File, Manifest
from p2psync.manifest.nodes import (
    BlobRow,
    FileRow,
    NodeKind,
    Root,
    decode_chunks,
    decode_file,
    decode_group,
    decode_root,
    encode_chunks,
    encode_file,
    encode_group,
    encode_root,
)

_GROUP_ENDS_BELOW: Final = 256 // GROUP_TENSORS_AVG


@dataclass(frozen=True, slots=True)
class Tree:
    """The nodes of one version. ``nodes[root]`` is the root; each node stands under the digest of its bytes."""

    root: Digest
    nodes: dict[Digest, bytes]

    @property
    def size(self) -> int:
        """Bytes of all nodes."""
        return sum(map(len, self.nodes.values()))


def build_tree(manifest: Manifest) -> Tree:
    """Write the nodes of ``manifest``. The same manifest always gives the same bytes.

    Lengths of chunks that are those of the grid are not stored: a reader returns such a list without lengths.

    Raises:
        MalformedError: it does not add up, passes a bound, or says something that no node can hold.
        UnsafePathError: a path is not safe, or two of them could be one.
    """
    manifest = replace(manifest, files=tuple(_canonical(f) for f in manifest.files))
    nodes: dict[Digest, bytes] = {}

    def put(node: bytes) -> Digest:
        digest = Digest.of(node)
        nodes[digest] = node
        return digest

    def row(blob: Blob) -> BlobRow:
        digests = blob.chunks.digests
        listed = len(digests) > DIGEST_BYTES
        ref = put(encode_chunks(blob.chunks)) if listed else Digest(digests) if digests else None
        return BlobRow(blob.kind, blob.length, ref, listed, blob.name, blob.dtype, blob.shape)

    def file_row(file: File) -> FileRow:
        rows = tuple(row(blob) for blob in file.blobs)
        content: Digest | tuple[BlobRow, ...] = rows
        if len(rows) > 1:
            content = put(encode_file([put(encode_group(group)) for group in _groups(rows)]))
        return FileRow(file.path, file.size, file.sha256, file.format, content, file.external)

    files = tuple(file_row(file) for file in manifest.files)
    named = (manifest.forms, manifest.recipe, manifest.probes, manifest.encoded)
    root = put(encode_root(Root(files, manifest.variants, manifest.bases, *named, manifest.extra)))
    if read_tree(root, nodes.get) != manifest:
        raise MalformedError("the manifest says something that its nodes cannot hold")
    return Tree(root, nodes)


class TreeReader:
    """Collects the nodes of one version from anybody, with no I/O of its own.

    Ask ``missing`` which nodes are wanted, ``feed`` them in any order, until ``missing`` is empty; then ``manifest``.
    """

    def __init__(self, root: Digest) -> None:
        self._root = root
        self._wanted: dict[Digest, NodeKind] = {root: NodeKind.ROOT}
        self._kinds: dict[Digest, NodeKind] = {root: NodeKind.ROOT}
        self._nodes: dict[Digest, bytes] = {}
        self._node_bytes = 0
        self._roots: dict[Digest, Root] = {}
        self._files: dict[Digest, tuple[Digest, ...]] = {}
        self._groups: dict[Digest, tuple[BlobRow, ...]] = {}
        self._chunks: dict[Digest, ChunkList] = {}

    def missing(self) -> list[Digest]:
        """The nodes that are wanted next, nearest to the root first. Empty when the tree is complete."""
        return list(self._wanted)

    def feed(self, digest: Digest, data: bytes) -> None:
        """Take one wanted node. A node that is here already is ignored.

        Raises:
            DigestMismatchError: ``data`` does not hash to ``digest``: whoever sent it is at fault. Still wanted.
            MalformedError: nobody wants it, or it is not what a node must be.
            UnsupportedVersionError: another major version wrote it.
            UnsafePathError: a path is not safe, or two of them could be one.
        """
        if digest in self._nodes:
            return
        kind = self._wanted.get(digest)
        if kind is None:
            raise MalformedError(f"node {digest} is not wanted in version {self._root}")
        if Digest.of(data) != digest:
            raise DigestMismatchError(f"these {len(data)} bytes are not node {digest}")
        self._node_bytes += len(data)
        if self._node_bytes > MANIFEST_BYTES_MAX:
            raise MalformedError(f"the nodes of version {self._root} have more than {MANIFEST_BYTES_MAX} bytes")
        self._parse(kind, digest, data)
        del self._wanted[digest]
        self._nodes[digest] = bytes(data)

    def tree(self) -> Tree:
        """The nodes that were fed."""
        return Tree(self._root, dict(self._nodes))

    def manifest(self) -> Manifest:
        """What the complete tree says.

        Raises:
            MalformedError: sums or counts do not add up, or a node is not where the format puts it.
            ValueError: nodes are missing.
        """
        if self._wanted:
            raise ValueError(f"{len(self._wanted)} nodes are missing")
        root = self._roots[self._root]
        budget = _Budget()
        files = tuple(self._file(row, budget) for row in root.files)
        _check_lengths(files)
        named = (root.forms, root.recipe, root.probes, root.encoded)
        return Manifest(files, root.variants, root.bases, *named, root.extra)

    def _parse(self, kind: NodeKind, digest: Digest, data: bytes) -> None:
        if kind is NodeKind.ROOT:
            root = self._roots[digest] = decode_root(data)
            for file in root.files:
                if isinstance(file.content, tuple):
                    self._want_lists(file.content)
                else:
                    self._want(NodeKind.FILE, (file.content,))
        elif kind is NodeKind.FILE:
            groups = self._files[digest] = decode_file(data)
            self._want(NodeKind.GROUP, groups)
        elif kind is NodeKind.GROUP:
            rows = self._groups[digest] = decode_group(data)
            self._want_lists(rows)
        else:
            self._chunks[digest] = decode_chunks(data)

    def _want_lists(self, rows: Iterable[BlobRow]) -> None:
        self._want(NodeKind.CHUNKS, (row.ref for row in rows if row.listed and row.ref is not None))

    def _want(self, kind: NodeKind, digests: Iterable[Digest]) -> None:
        for digest in digests:
            if self._kinds.setdefault(digest, kind) is not kind:
                raise MalformedError(f"node {digest} stands in two places of different kinds")
            if digest not in self._nodes:
                self._wanted[digest] = kind
        if len(self._kinds) > NODES_PER_VERSION_MAX:
            raise MalformedError(f"version {self._root} has more than {NODES_PER_VERSION_MAX} nodes")

    def _file(self, row: FileRow, budget: _Budget) -> File:
        if isinstance(row.content, tuple):
            budget.spend(blobs=len(row.content))
            rows = row.content
        else:
            groups = [self._groups[digest] for digest in self._files[row.content]]
            budget.spend(blobs=sum(map(len, groups)))
            rows = tuple(blob for group in groups for blob in group)
            if len(rows) < 2 or [len(group) for group in groups] != [len(group) for group in _groups(rows)]:
                raise MalformedError(f"the blobs of {row.path!r} are not grouped as the format says")
        blobs = tuple(self._blob(blob, budget) for blob in rows)
        _check_file(row, blobs)
        return File(row.path, row.size, row.sha256, row.format, blobs, row.external)

    def _blob(self, row: BlobRow, budget: _Budget) -> Blob:
        if row.listed and row.ref is not None:
            chunks = self._chunks[row.ref]
            _check_list(row, chunks)
        else:
            chunks = ChunkList(b"" if row.ref is None else bytes(row.ref))
        budget.spend(chunks=len(chunks))
        return Blob(row.kind, row.length, chunks, row.name, row.dtype, row.shape)


def read_tree(root: Digest, get: Callable[[Digest], bytes | None]) -> Manifest:
    """Read a whole tree from where its nodes are.

    Args:
        root: The digest of the root node, from a head.
        get: Returns the bytes of a node, or None. They are proved here.

    Raises:
        NotFoundError: ``get`` does not have a node.
        DigestMismatchError: ``get`` returned other bytes.
        MalformedError: the tree is not what it must be.
        UnsupportedVersionError: another major version wrote it.
        UnsafePathError: a path is not safe, or two of them could be one.
    """
    reader = TreeReader(root)
    while wanted := reader.missing():
        for digest in wanted:
            node = get(digest)
            if node is None:
                raise NotFoundError(f"node {digest} of version {root} is not here")
            reader.feed(digest, node)
    return reader.manifest()


class _Budget:
    """What one version may still hold. A few nodes that name each other often could describe without end."""

    def __init__(self) -> None:
        self._blobs = BLOBS_PER_VERSION_MAX
        self._chunks = CHUNKS_PER_VERSION_MAX

    def spend(self, *, blobs: int = 0, chunks: int = 0) -> None:
        self._blobs -= blobs
        self._chunks -= chunks
        if self._blobs < 0:
            raise MalformedError(f"a version has more than {BLOBS_PER_VERSION_MAX} blobs")
        if self._chunks < 0:
            raise MalformedError(f"a version has more than {CHUNKS_PER_VERSION_MAX} chunks")


def _groups(rows: Sequence[BlobRow]) -> Iterator[Sequence[BlobRow]]:
    """Cut the blobs of a file into groups, by the names of its tensors alone.

    So a tensor that changes its bytes moves no boundary, and one that is added or removed only those beside it.
    """
    start = 0
    for end, row in enumerate(rows, 1):
        ends_here = row.kind is BlobKind.TENSOR and Digest.of(row.name.encode())[0] < _GROUP_ENDS_BELOW
        if ends_here or end - start == GROUP_BLOBS_MAX or end == len(rows):
            yield rows[start:end]
            start = end


def _canonical(file: File) -> File:
    """``file`` without chunk lengths that say no more than the grid."""
    if not any(blob.chunks.lengths for blob in file.blobs):
        return file
    return replace(file, blobs=tuple(_without_grid(blob) for blob in file.blobs))


def _without_grid(blob: Blob) -> Blob:
    if blob.chunks.lengths and blob.chunks.lengths == tuple(grid_lengths(blob.length)):
        return replace(blob, chunks=ChunkList(blob.chunks.digests))
    return blob


def _check_list(row: BlobRow, chunks: ChunkList) -> None:
    """A chunk list must cut exactly the blob that refers to it."""
    if not chunks.lengths:
        if len(chunks) != -(-row.length // CHUNK_BYTES):
            raise MalformedError(f"a blob of {row.length} bytes with {len(chunks)} chunks of the grid")
        return
    if row.kind is not BlobKind.BYTES:
        raise MalformedError(f"a {row.kind.name} blob that is not cut by the grid")
    if sum(chunks.lengths) != row.length:
        raise MalformedError(f"a blob of {row.length} bytes whose chunks have {sum(chunks.lengths)}")
    if chunks.lengths == tuple(grid_lengths(row.length)):
        raise MalformedError("a chunk list states the lengths of the grid")


def _check_file(row: FileRow, blobs: tuple[Blob, ...]) -> None:
    """The blobs must fill the file and be of kinds that its format has."""
    if sum(blob.length for blob in blobs) != row.size:
        raise MalformedError(f"{row.path!r} has {row.size} bytes and its blobs {sum(b.length for b in blobs)}")
    if row.format is FileFormat.BYTES and len(blobs) > 1:
        raise MalformedError(f"{row.path!r} is of no known format and has {len(blobs)} blobs")
    if any((blob.kind is BlobKind.BYTES) != (row.format is FileFormat.BYTES) for blob in blobs):
        raise MalformedError(f"{row.path!r} has a blob whose kind its format {row.format.name} does not have")
    if row.format is FileFormat.ONNX_DATA:
        return  # Several skeletons may keep tensors in it, each with its own names.
    names = [blob.name for blob in blobs if blob.kind is BlobKind.TENSOR]
    if len(set(names)) != len(names):
        raise MalformedError(f"{row.path!r} has two tensors of one name")


def _check_lengths(files: tuple[File, ...]) -> None:
    """No digest may name chunks of two lengths: only one of them can be true.

    Two of full length never disagree, and almost all are of full length; so only the others are remembered.
    """
    lists = [(blob.chunks, blob.length) for file in files for blob in file.blobs]
    short: dict[bytes, int] = {}
    for chunks, length in lists:
        for place, size in _short_chunks(chunks, length):
            digest = chunks.digests[place : place + DIGEST_BYTES]
            if short.setdefault(digest, size) != size:
                raise MalformedError(f"chunk {Digest(digest)} has two lengths")
    full = (chunks.digests[i : i + DIGEST_BYTES] for chunks, length in lists for i in _full_chunks(chunks, length))
    clash = next((digest for digest in full if digest in short), None)
    if clash is not None:
        raise MalformedError(f"chunk {Digest(clash)} has two lengths")


def _short_chunks(chunks: ChunkList, length: int) -> Iterator[tuple[int, int]]:
    """Where the digest of each chunk stands that is shorter than a full one, and the chunk's length."""
    if chunks.lengths:
        yield from ((i * DIGEST_BYTES, n) for i, n in enumerate(chunks.lengths) if n < CHUNK_BYTES)
    elif rest := length % CHUNK_BYTES:
        yield len(chunks.digests) - DIGEST_BYTES, rest


def _full_chunks(chunks: ChunkList, length: int) -> Iterable[int]:
    """Where the digest of each full chunk stands."""
    if chunks.lengths:
        return [i * DIGEST_BYTES for i, n in enumerate(chunks.lengths) if n == CHUNK_BYTES]
    return range(0, length // CHUNK_BYTES * DIGEST_BYTES, DIGEST_BYTES)
