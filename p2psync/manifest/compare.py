"""What differs between two versions of a model: files, tensors, layers, and the bytes that an update needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from p2psync.content import BlobKind
from p2psync.manifest.layers import (
    CHANGES,
    Layer,
    LayerChange,
    Part,
    add_up,
    chunk_layers,
    file_layer,
    tensor_layer,
)
from p2psync.manifest.model import Blob, Chunk, File, Manifest, chunk_table


@dataclass(frozen=True, slots=True)
class FileChange:
    """``change`` is equal, changed, added, removed, or moved (the same bytes under another path)."""

    path: str
    change: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """From ``a`` to ``b``. ``tensors`` counts each change; ``missing_bytes`` is what a holder of ``a`` has to fetch.

    The sums over ``layers`` are these numbers.
    """

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
    owners = chunk_layers(b)
    missing: Counter[Layer] = Counter()
    for chunk in missing_chunks(a, b):
        missing[owners[chunk.index]] += chunk.length
    tensors = list(_tensors(a, b))
    counted = Counter(part.change for part in tensors)
    return Comparison(
        tuple(_files(a, b)),
        {change: counted[change] for change in CHANGES},
        tuple(add_up([*tensors, *_rests(a, b)], missing)),
        b.size,
        missing.total(),
    )


def missing_chunks(a: Manifest, b: Manifest) -> list[Chunk]:
    """The chunks of ``b`` that a holder of ``a`` has not, in manifest order."""
    known = {chunk.digest for chunk in chunk_table(a)}
    return [chunk for chunk in chunk_table(b) if chunk.digest not in known]


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


def _tensors(a: Manifest, b: Manifest) -> Iterator[Part]:
    """Every tensor of either version.

    Tensors of several files may share a name, as those of two experts do, so each name stands for all of them.
    """
    before = {(blob.name, blob.chunks.digests) for _, blob in _placed(a)}
    names, contents = {name for name, _ in before}, {digests for _, digests in before}
    after = {blob.name for _, blob in _placed(b)}
    for _, blob in _placed(b):
        if (blob.name, blob.chunks.digests) in before:
            change = "equal"
        elif blob.chunks.digests in contents:
            change = "moved"
        else:
            change = "changed" if blob.name in names else "added"
        yield Part(tensor_layer(blob.name), change, blob.length)
    for _, blob in _placed(a):
        if blob.name not in after:
            yield Part(tensor_layer(blob.name), "removed", 0)


def _rests(a: Manifest, b: Manifest) -> Iterator[Part]:
    """What is no tensor, of each file of either version that has any."""
    before, after = ({file.path: _rest(file) for file in version.files} for version in (a, b))
    contents, nothing = {digests for digests, _ in before.values()}, (b"", 0)
    for path, (digests, length) in after.items():
        old, old_length = before.get(path, nothing)
        if old == digests:
            change = "equal"
        elif digests in contents:
            change = "moved"
        else:
            change = "changed" if old_length else "added"
        if length:
            yield Part(file_layer(path), change, length)
    for path, (_, length) in before.items():
        if length and not after.get(path, nothing)[1]:
            yield Part(file_layer(path), "removed", 0)


def _rest(file: File) -> tuple[bytes, int]:
    """Digests and bytes of what is no tensor."""
    blobs = [blob for blob in file.blobs if blob.kind is not BlobKind.TENSOR]
    return b"".join(blob.chunks.digests for blob in blobs), sum(blob.length for blob in blobs)


def _placed(manifest: Manifest) -> Iterator[tuple[str, Blob]]:
    """Every tensor, with the path of its file."""
    return ((file.path, blob) for file in manifest.files for blob in file.blobs if blob.kind is BlobKind.TENSOR)


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
