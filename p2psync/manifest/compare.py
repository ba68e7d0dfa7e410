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
    """(name, change, bytes) of every tensor of either version.

    Tensors of several files may share a name, as those of two experts do, so each name stands for all of them.
    """
    before = {(blob.name, blob.chunks.digests) for _, blob in _placed(a)}
    names, contents = {name for name, _ in before}, {digests for _, digests in before}
    after = {blob.name for _, blob in _placed(b)}
    for _, blob in _placed(b):
        if (blob.name, blob.chunks.digests) in before:
            yield blob.name, "equal", blob.length
        elif blob.chunks.digests in contents:
            yield blob.name, "moved", blob.length
        else:
            yield blob.name, "changed" if blob.name in names else "added", blob.length
    for _, blob in _placed(a):
        if blob.name not in after:
            yield blob.name, "removed", blob.length


def _placed(manifest: Manifest) -> Iterator[tuple[str, Blob]]:
    """Every tensor, with the path of its file."""
    return ((file.path, blob) for file in manifest.files for blob in file.blobs if blob.kind is BlobKind.TENSOR)


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

    That is the tensor of the same file, name, dtype and shape. Where there is none, it is one of the same name, dtype
    and shape in the file whose path is most like, and at last one of the same dtype and shape that has another name and
    is not the like of any other, in the order in which they stand. Tensors without bytes are left out.
    """
    left: dict[_Kind, dict[str, Blob]] = {}
    for path, blob in _placed(base):
        left.setdefault(_kind(blob), {})[path] = blob
    named = {kind: dict(found) for kind, found in left.items()}
    exact = {}
    for path, blob in _placed(new):
        if blob.length and path in left.get(_kind(blob), {}):
            exact[path, blob.name] = left[_kind(blob)].pop(path)
    kinds = {_kind(blob) for _, blob in _placed(new)}
    spare: dict[tuple[str, tuple[int, ...]], list[Blob]] = {}
    for kind, found in left.items():
        if kind not in kinds:
            spare.setdefault(kind[1:], []).extend(found.values())
    for path, blob in _placed(new):
        if not blob.length:
            continue
        before = exact.get((path, blob.name))
        if before is None:
            # One that nobody else came from; else, of two copies, both came from the one that there was.
            found = left.get(_kind(blob)) or named.get(_kind(blob), {})
            if found:
                nearest = max(sorted(found), key=lambda other: likeness(path, other))
                before = found.pop(nearest) if found is left.get(_kind(blob)) else found[nearest]
            elif others := spare.get((blob.dtype, blob.shape)):
                before = others.pop(0)
        if before is not None and before.length == blob.length:
            yield blob, before


_Kind = tuple[str, str, tuple[int, ...]]


def _kind(blob: Blob) -> _Kind:
    return blob.name, blob.dtype, blob.shape


def likeness(path: str, other: str) -> tuple[int, int]:
    """How alike two paths are: equal parts from the end, then from the start."""
    mine, theirs = path.split("/"), other.split("/")
    return _common(mine[::-1], theirs[::-1]), _common(mine, theirs)


def _common(mine: list[str], theirs: list[str]) -> int:
    pairs = zip(mine, theirs, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(mine), len(theirs)))
