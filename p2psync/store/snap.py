"""Let tensors of a snapshot keep the bytes of a base that they hardly differ from, before they are hashed and signed.

Only the copy in the home is touched, never the publisher's own file. A tensor is compared chunk by chunk with the one
of its name, dtype and shape in the first base that has one; what cannot be compared stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from p2psync import disk
from p2psync.codec.snap import DTYPES, Change, measure, snapped
from p2psync.content import BlobKind, Digest, Layout
from p2psync.errors import DamagedError, ModelNotFoundError
from p2psync.limits import CHUNK_BYTES
from p2psync.manifest import Blob, Manifest, likeness
from p2psync.store.locate import read_installed
from p2psync.store.opened import OpenHome
from p2psync.store.values import Snap, Snapped


class Snapper:
    """Snaps the tensors of one publish. ``done`` says what was left out so far.

    Raises:
        ModelNotFoundError: a base is not here.
    """

    def __init__(self, opened: OpenHome, bases: Sequence[Digest], snap: Snap) -> None:
        self._opened = opened
        self._snap = snap
        self._bases = [_by_kind(_manifest(opened, base)) for base in bases]
        self.done: list[Snapped] = []

    def snap(self, path: str, fd: int, layout: Layout) -> None:
        """Snap what may be snapped in a file of the snapshot, which is open for reading and writing.

        Raises:
            DamagedError: a base changed meanwhile; nothing is published.
            OSError: the disk refused.
        """
        offset = 0
        for span in layout.spans:
            if span.kind is BlobKind.TENSOR and span.dtype in DTYPES and span.length:
                base = self._base(path, span.name, span.dtype, span.shape)
                if base is not None and base.length == span.length:
                    self._snap_tensor(path, fd, offset, base)
            offset += span.length

    def _base(self, path: str, name: str, dtype: str, shape: tuple[int, ...]) -> Blob | None:
        for known in self._bases:
            found = known.get((name, dtype, shape))
            if found:
                return max(found, key=lambda one: likeness(path, one[0]))[1]
        return None

    def _snap_tensor(self, path: str, fd: int, offset: int, base: Blob) -> None:
        change = Change()
        for _, raw, before in self._pairs(fd, offset, base):
            one = measure(raw, before, base.dtype) if before is not None else None
            if one is None:
                return
            change += one
        whole = change.relative < self._snap.threshold
        if not change.changed or not (whole or self._snap.steps):
            return
        kept = 0
        for place, raw, before in self._pairs(fd, offset, base):
            if before is None:
                # Half of a tensor must not be signed as if somebody had meant it.
                raise DamagedError(
                    f"{base.name} of the base changed while {path} was compared with it", hint="p2psync verify --repair"
                )
            data, count = (before, 0) if whole else snapped(raw, before, base.dtype, self._snap.steps)
            kept += count
            disk.write_at(fd, data, place)
        if whole or kept:
            left = change.changed if whole else kept
            self.done.append(
                Snapped(path, base.name, whole, change.elements, change.changed, left, change.relative, change.largest)
            )

    def _pairs(self, fd: int, offset: int, base: Blob) -> Iterator[tuple[int, bytes, bytes | None]]:
        """(place in the file, bytes there, the base's bytes) of each chunk of a tensor."""
        for number, (digest, length) in enumerate(base.chunks.walk(base.length)):
            place = offset + number * CHUNK_BYTES
            yield place, os.pread(fd, length, place), self._read(digest)

    def _read(self, digest: Digest) -> bytes | None:
        return read_installed(self._opened, digest)


def _by_kind(manifest: Manifest) -> dict[tuple[str, str, tuple[int, ...]], list[tuple[str, Blob]]]:
    """The tensors of a version, each with the path of its file, by name, dtype and shape."""
    found: dict[tuple[str, str, tuple[int, ...]], list[tuple[str, Blob]]] = {}
    for file in manifest.files:
        for blob in file.blobs:
            if blob.kind is BlobKind.TENSOR:
                found.setdefault((blob.name, blob.dtype, blob.shape), []).append((file.path, blob))
    return found


def _manifest(opened: OpenHome, base: Digest) -> Manifest:
    found = opened.manifests.get(base)
    if found is None:
        raise ModelNotFoundError(f"the base {base} is not in this home", hint="p2psync ls")
    return found
