"""What differs between two versions of a model: files, tensors, layers, and the bytes that an update needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from p2psync.content import BlobKind
from p2psync.manifest.model import Blob, Manifest, chunk_table

# "blocks.12.attn1.to_q.weight" belongs to the layer "blocks.12"; a name without a number is its first part.
_LAYER: Final = re.compile(r"(.*?\.\d+)(?:\.|$)")


@dataclass(frozen=True, slots=True)
class FileChange:
    """``change`` is equal, changed, added, removed, or moved (the same bytes under another path)."""

    path: str
    change: str


@dataclass(frozen=True, slots=True)
class LayerChange:
    """``change`` is changed, added or removed; ``length`` counts bytes of its tensors that have to be fetched."""

    name: str
    change: str
    length: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """From ``a`` to ``b``. ``tensors`` counts each change; ``missing_bytes`` is what a holder of ``a`` has to fetch."""

    files: tuple[FileChange, ...]
    tensors: dict[str, int]
    layers: tuple[LayerChange, ...]
    total_bytes: int
    missing_bytes: int


def compare(a: Manifest, b: Manifest) -> Comparison:
    """Compare two versions, in the order of ``b``.

    A tensor is equal when its name and bytes are those of ``a``, moved when only its bytes are (another name, file
    or order), and changed when only its name is.
    """
    known = {c.digest for c in chunk_table(a)}
    missing = sum(c.length for c in chunk_table(b) if c.digest not in known)
    changes = list(_tensors(a, b))
    counts = dict.fromkeys(("equal", "moved", "changed", "added", "removed"), 0)
    for _name, change, _length in changes:
        counts[change] += 1
    return Comparison(tuple(_files(a, b)), counts, tuple(_layers(changes)), b.size, missing)


def layer_of(tensor: str) -> str:
    """The layer that a tensor belongs to, by its name."""
    match = _LAYER.match(tensor)
    return match[1] if match else tensor.partition(".")[0]


def _files(a: Manifest, b: Manifest) -> Iterator[FileChange]:
    before = {f.path: f.sha256 for f in a.files}
    contents = set(before.values())
    after = {f.path for f in b.files}
    for file in b.files:
        if before.get(file.path) == file.sha256:
            change = "equal"
        elif file.path in before:
            change = "changed"
        else:
            change = "moved" if file.sha256 in contents else "added"
        yield FileChange(file.path, change)
    for path in before:
        if path not in after:
            yield FileChange(path, "removed")


def _tensors(a: Manifest, b: Manifest) -> Iterator[tuple[str, str, int]]:
    """(name, change, bytes) of every tensor of either version."""
    before = {blob.name: blob.chunks.digests for blob in _blobs(a)}
    contents = set(before.values())
    after = set()
    for blob in _blobs(b):
        after.add(blob.name)
        if before.get(blob.name) == blob.chunks.digests:
            yield blob.name, "equal", blob.length
        elif blob.chunks.digests in contents:
            yield blob.name, "moved", blob.length
        else:
            yield blob.name, "changed" if blob.name in before else "added", blob.length
    for blob in _blobs(a):
        if blob.name not in after:
            yield blob.name, "removed", blob.length


def _blobs(manifest: Manifest) -> Iterator[Blob]:
    return (blob for file in manifest.files for blob in file.blobs if blob.kind is BlobKind.TENSOR)


def _layers(changes: list[tuple[str, str, int]]) -> Iterator[LayerChange]:
    """One row per layer that is not just equal or moved; a layer is added or removed when all of it is."""
    seen: dict[str, set[str]] = {}
    lengths: dict[str, int] = {}
    for name, change, length in changes:
        layer = layer_of(name)
        seen.setdefault(layer, set()).add(change)
        lengths[layer] = lengths.get(layer, 0) + (length if change in ("changed", "added") else 0)
    for layer, kinds in seen.items():
        if kinds <= {"equal", "moved"}:
            continue
        change = next(iter(kinds)) if kinds in ({"added"}, {"removed"}) else "changed"
        yield LayerChange(layer, change, lengths[layer])


def match_tensors(new: Manifest, base: Manifest) -> Iterator[tuple[Blob, Blob]]:
    """Each tensor of ``new`` with the one of ``base`` that it most likely came from.

    That is the tensor of the same name, dtype and shape; where there is none, one of the same dtype and shape that has
    another name and is not the like of any other, in the order in which they stand. Tensors without bytes are left out.
    """
    named = {(b.name, b.dtype, b.shape): b for b in _blobs(base)}
    taken = {key for blob in _blobs(new) if (key := (blob.name, blob.dtype, blob.shape)) in named}
    spare: dict[tuple[str, tuple[int, ...]], list[Blob]] = {}
    for key, blob in named.items():
        if key not in taken:
            spare.setdefault((blob.dtype, blob.shape), []).append(blob)
    for blob in _blobs(new):
        if not blob.length:
            continue
        before = named.get((blob.name, blob.dtype, blob.shape))
        if before is None:
            left = spare.get((blob.dtype, blob.shape))
            before = left.pop(0) if left else None
        if before is not None and before.length == blob.length:
            yield blob, before
