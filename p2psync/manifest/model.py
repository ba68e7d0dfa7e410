"""What one version of a model is: files, blobs, chunks and variants, as values.

These are the parsed facts; ``manifest.nodes`` turns them into signed bytes and back. Offsets are never
stored: the blobs of a file stand in file order and touch, so an offset is the sum of the lengths before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from p2psync.content import BlobKind, Digest, FileFormat
from p2psync.content.digest import DIGEST_BYTES
from p2psync.limits import CHUNK_BYTES


@dataclass(frozen=True, slots=True)
class ChunkList:
    """The chunks of one blob, in order.

    ``digests`` holds 32 bytes per chunk. ``lengths`` is empty for the grid (``CHUNK_BYTES`` each, the last
    one short) and has one length per chunk for content-defined cutting.
    """

    digests: bytes
    lengths: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.digests) // DIGEST_BYTES

    def walk(self, blob_bytes: int) -> Iterator[tuple[Digest, int]]:
        """Yield (digest, length in bytes) of each chunk of a blob of ``blob_bytes``."""
        for i in range(len(self)):
            length = self.lengths[i] if self.lengths else min(CHUNK_BYTES, blob_bytes - i * CHUNK_BYTES)
            yield Digest(self.digests[i * DIGEST_BYTES : (i + 1) * DIGEST_BYTES]), length


@dataclass(frozen=True, slots=True)
class Blob:
    """The bytes of one tensor, of a header, of a padding gap, or of a file without tensors.

    ``name``, ``dtype`` and ``shape`` are empty unless ``kind`` is TENSOR. A shape counts elements.
    """

    kind: BlobKind
    length: int
    chunks: ChunkList
    name: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class File:
    """One file of a version. ``external`` marks ONNX external data, which must never be a hard link.

    ``mode`` bits are not kept: every installed file is 0444.
    """

    path: str
    size: int
    sha256: bytes
    format: FileFormat
    blobs: tuple[Blob, ...]
    external: bool = False


@dataclass(frozen=True, slots=True)
class Variant:
    """A named subset of files with what it needs. ``files`` are indexes into ``Manifest.files``, ascending.

    Files that no variant names belong to all of them.
    """

    name: str
    files: tuple[int, ...]
    default: bool = False
    backend: str = ""
    precision: str = ""
    memory_bytes: int = 0
    probe: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One version of a model. ``files`` are sorted by the bytes of their path.

    ``bases`` are the versions that deltas exist from. ``forms`` names the node that lists the version's ``encoded``
    encoded chunks (see ``manifest.forms``). ``recipe`` and ``probes`` name nodes that later parts sign into the root;
    they are kept as they are. ``extra`` keeps fields that a newer minor version wrote, so that they stay signed.
    """

    files: tuple[File, ...]
    variants: tuple[Variant, ...] = ()
    bases: tuple[Digest, ...] = ()
    forms: Digest | None = None
    recipe: Digest | None = None
    probes: Digest | None = None
    encoded: int = 0
    extra: Mapping[int, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(f.size for f in self.files)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk stands: which file, and at which offset in bytes."""

    file: int
    offset: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """One distinct chunk of a version. ``index`` is its number in manifest order (first appearance)."""

    index: int
    digest: Digest
    length: int
    places: tuple[Place, ...]


def chunk_table(manifest: Manifest) -> list[Chunk]:
    """All distinct chunks in manifest order, each with every place where it stands.

    Manifest order is the order of first appearance in files, blobs and chunk lists. It depends on the
    manifest alone (never on a variant), so every node numbers chunks alike.
    """
    order: dict[Digest, tuple[int, list[Place]]] = {}
    for number, file in enumerate(manifest.files):
        offset = 0
        for blob in file.blobs:
            for digest, length in blob.chunks.walk(blob.length):
                order.setdefault(digest, (length, []))[1].append(Place(number, offset))
                offset += length
    return [
        Chunk(index, digest, length, tuple(places)) for index, (digest, (length, places)) in enumerate(order.items())
    ]


def chunk_count(manifest: Manifest) -> int:
    """How many distinct chunks a version has: the number of its first encoded chunk."""
    return len(
        {digest for file in manifest.files for blob in file.blobs for digest, _ in blob.chunks.walk(blob.length)}
    )


def files_of(manifest: Manifest, variant: Variant | None) -> tuple[int, ...]:
    """Indexes of the files that ``variant`` installs: its own and those in no variant. None means all."""
    if variant is None:
        return tuple(range(len(manifest.files)))
    claimed = {index for other in manifest.variants for index in other.files}
    own = set(variant.files)
    return tuple(i for i in range(len(manifest.files)) if i in own or i not in claimed)
