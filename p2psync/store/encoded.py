"""The encoded chunks of versions, one pack each: those that a publish made, and those that a pull passes on.

A pack that a publish made holds all encoded chunks in the order of their numbers, so the signed rows say where each
one stands. One that a pull fills holds them as they came, each behind a record of what it is; it is not synced, so it
is proved when the home is opened again, and it goes after a day: it is for the time in which a version spreads.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from p2psync import disk
from p2psync.content import Digest
from p2psync.errors import NotFoundError, P2PSyncError
from p2psync.limits import CHUNK_BYTES, PART_KEEP_S, PART_PROVED_BYTES_MAX
from p2psync.manifest import Encoded, FormSet, FormsReader, Manifest, chunk_count
from p2psync.store.descriptors import Descriptors
from p2psync.store.home import BUSY, READ_FLAGS, Home, Identity, disk_errors
from p2psync.store.locate import Located
from p2psync.store.manifests import Manifests

# Before each encoded chunk that a pull kept: its number, its length, its digest.
_RECORD = struct.Struct("<II32s")


@dataclass
class _Pack:
    """One version's pack. ``places`` are (offset, length) of what is here, by number."""

    path: Path
    numbers: dict[Digest, int] = field(default_factory=dict)
    places: dict[int, tuple[int, int]] = field(default_factory=dict)
    identity: Identity | None = None
    size: int = 0


@dataclass
class EncodedPacks:
    """The packs of one home. Safe from any thread."""

    home: Home
    manifests: Manifests
    descriptors: Descriptors
    _packs: dict[Digest, _Pack] = field(default_factory=dict)
    _by_digest: dict[Digest, tuple[Digest, int]] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def open(self, *, write: bool) -> None:
        """Find the packs of the home. What pulls kept is taken up again by the owner while it is young."""
        with suppress(FileNotFoundError, NotADirectoryError):
            for name in sorted(os.listdir(self.home.forms)):
                path = self.home.forms / name
                if name.endswith(".part") and write:
                    if not self._resume(path):
                        disk.unlink(path)
                elif name.endswith(".pack") and write and not (self.home.manifests / f"{path.stem}.nodes").exists():
                    # A publish was cut short between its pack and its nodes.
                    disk.unlink(path)
                elif name.endswith(".pack"):
                    self._load(path)

    def _load(self, path: Path) -> None:
        """Enter a whole pack. One that is not what its version's rows say is passed over: it is of no use."""
        with suppress(P2PSyncError, ValueError, OSError):
            root = Digest(bytes.fromhex(path.stem))
            manifest = self.manifests.get(root)
            if manifest is None or manifest.forms is None:
                return
            pack = _Pack(path, identity=Identity.of(os.lstat(path)))
            for number, _, row in self.reader(manifest).rows():
                pack.numbers[row.digest] = number
                pack.places[number] = pack.size, row.length
                pack.size += row.length
            if pack.identity is not None and pack.identity.size == pack.size:
                self._enter(root, pack)

    def _resume(self, path: Path) -> bool:
        """Enter what a pull kept, as far as it proves. False where it is of no use any more.

        Nothing of it was synced, and whoever gives out what does not prove loses its name with others.
        """
        with suppress(ValueError, OSError):
            root = Digest(bytes.fromhex(path.stem))
            facts = os.stat(path)
            if time.time() - facts.st_mtime > PART_KEEP_S or facts.st_size > PART_PROVED_BYTES_MAX:
                return False
            if self.manifests.get(root) is None:
                return False
            pack = _Pack(path)
            with open(path, "rb") as file:
                while len(head := file.read(_RECORD.size)) == _RECORD.size:
                    number, length, name = _RECORD.unpack(head)
                    data = file.read(min(length, CHUNK_BYTES))
                    digest = Digest(name)
                    if len(data) != length or Digest.of(data) != digest:
                        break
                    pack.places[number] = pack.size + _RECORD.size, length
                    pack.numbers[digest] = number
                    pack.size += _RECORD.size + length
            self._enter(root, pack)
            return bool(pack.places)
        return False

    def _enter(self, root: Digest, pack: _Pack) -> None:
        with self._lock:
            self._packs[root] = pack
            self._by_digest.update({digest: (root, number) for digest, number in pack.numbers.items()})

    def reader(self, manifest: Manifest, wants: Callable[[FormSet, int, int], bool] | None = None) -> FormsReader:
        """All forms of a version, or those in the nodes that ``wants`` names, from the nodes that are here.

        Raises:
            NotFoundError: a node is not here.
            MalformedError: one is not what it must be.
        """
        if manifest.forms is None:
            raise NotFoundError("the version has no forms")
        reader = FormsReader(manifest.forms, manifest.encoded, chunk_count(manifest), wants)
        while wanted := reader.missing():
            for digest in wanted:
                node = self.manifests.node(digest)
                if node is None:
                    raise NotFoundError(f"node {digest} of the forms is not here")
                reader.feed(digest, node)
        return reader

    # A publish.

    def publish(self, scratch: Path, root: Digest) -> None:
        """Give the pack that a publish wrote, synced, its name. ``admit`` it once the nodes are here."""
        self.forget(root)
        disk.make_folder(self.home.forms)
        disk.replace(scratch, self._whole(root))
        disk.sync_folder(self.home.forms)

    def admit(self, root: Digest) -> None:
        """Begin to give out the pack of a version that was just published."""
        if root not in self._packs:
            self._load(self._whole(root))

    # A pull.

    def keep(self, root: Digest, number: int, row: Encoded, data: bytes | memoryview) -> bool:
        """Keep an encoded chunk that proved, for others. Returns whether it can be given out now."""
        with self._lock:
            pack = self._packs.get(root)
            if pack is not None and number in pack.places:
                return True
            if pack is None:
                pack = _Pack(self.home.forms / f"{root.hex()}.part")
            elif pack.identity is not None:
                return False
            try:
                disk.make_folder(self.home.forms)
                fd = os.open(pack.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                try:
                    disk.write_at(fd, _RECORD.pack(number, row.length, row.digest), pack.size)
                    disk.write_at(fd, data, pack.size + _RECORD.size)
                finally:
                    os.close(fd)
            except OSError:
                # Passing on is a favour: a full disk ends it, not the pull.
                return False
            pack.places[number] = pack.size + _RECORD.size, row.length
            pack.numbers[row.digest] = number
            pack.size += _RECORD.size + row.length
            self._packs[root] = pack
            self._by_digest[row.digest] = root, number
            return True

    def finish(self, root: Digest, manifest: Manifest) -> bool:
        """Make a pack that pulls filled one like a publish makes, if nothing is missing. Returns whether it is whole.

        Raises:
            StoreError: the disk refuses.
        """
        if self.is_whole(root):
            return True
        scratch = self.home.staging / f"{root.hex()}.forms"
        rows = [row for _, _, row in self.reader(manifest).rows()]
        with disk_errors(scratch, needed_bytes=sum(row.length for row in rows)):
            try:
                with open(scratch, "xb", buffering=0) as out:
                    for row in rows:
                        data = self._read(row)
                        if data is None:
                            return False
                        disk.write_all(out.fileno(), data)
                    disk.sync(out.fileno())
                old = self.files(root)
                self.publish(scratch, root)
                for path in old:
                    disk.remove_durably(path)
            finally:
                with suppress(FileNotFoundError):
                    disk.unlink(scratch)
        self.admit(root)
        return self.is_whole(root)

    def _read(self, row: Encoded) -> bytes | None:
        located = self.locate(row.digest)
        if located is None:
            return None
        try:
            data = located.read()
        finally:
            located.release()
        return data if Digest.of(data) == row.digest else None

    def is_whole(self, root: Digest) -> bool:
        """Whether a version's pack is here for good."""
        pack = self._packs.get(root)
        return pack is not None and pack.identity is not None

    # Giving out.

    def locate(self, digest: Digest) -> Located | None:
        """Where an encoded chunk can be read.

        Raises:
            StoreError: this process can open no more.
        """
        found = self._by_digest.get(digest)
        pack = self._packs.get(found[0]) if found is not None else None
        if found is None or pack is None:
            return None
        offset, length = pack.places[found[1]]
        try:
            kept = self.descriptors.acquire(("forms", pack.path), lambda: os.open(pack.path, READ_FLAGS))
        except OSError as error:
            if error.errno in BUSY:
                with disk_errors(pack.path):
                    raise
            return None
        located = Located(self.descriptors, kept, offset, length, partial(_intact, kept.fd, pack.identity))
        if located.intact():
            return located
        located.release()
        self.forget(found[0])
        return None

    def numbers(self, root: Digest) -> tuple[int, ...]:
        """The numbers of the encoded chunks of a version that are here."""
        pack = self._packs.get(root)
        return () if pack is None else tuple(pack.places)

    def forget(self, root: Digest) -> None:
        """Give out nothing of a version any more."""
        with self._lock:
            pack = self._packs.pop(root, None)
            if pack is None:
                return
            for digest in pack.numbers:
                if self._by_digest.get(digest, (None, 0))[0] == root:
                    del self._by_digest[digest]
        self.descriptors.drop(("forms", pack.path))

    def files(self, root: Digest) -> list[Path]:
        """The files of a version's encoded chunks."""
        return [path for path in (self._whole(root), self.home.forms / f"{root.hex()}.part") if path.exists()]

    def remove(self, root: Digest) -> None:
        """Remove a version's encoded chunks."""
        self.forget(root)
        for path in self.files(root):
            disk.remove_durably(path)

    def _whole(self, root: Digest) -> Path:
        return self.home.forms / f"{root.hex()}.pack"


def _intact(fd: int, identity: Identity | None) -> bool:
    """Whether a whole pack is what it was when it was entered; one that is being filled changes all the time."""
    return identity is None or Identity.of(os.fstat(fd)) == identity
