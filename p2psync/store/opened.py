"""An opened home: what the parts of the store share, and the rule by which a file counts as proved.

A file is what was proved as long as its identity (device, inode, size, mtime, ctime) is the recorded one. It is
compared before bytes are served or reused; where it differs the file is withdrawn until it is proved again. What we
ourselves do to an inode (link, unlink, chmod, rename) changes its ctime: that happens inside ``changing``, which
records the new identity under a lock, and whoever sees a difference looks once more under the same lock. That lock
(``inodes``) is only ever held for moments, since the event loop may wait for it; ``own`` is held for whole commits.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from p2psync import disk
from p2psync.content import Digest
from p2psync.store.descriptors import Descriptors, Kept
from p2psync.store.heads import Heads
from p2psync.store.home import BUSY, READ_FLAGS, Home, Identity, disk_errors
from p2psync.store.index import FileRow, Index, InstallRow
from p2psync.store.manifests import Manifests

if TYPE_CHECKING:
    from p2psync.store.encoded import EncodedPacks
    from p2psync.store.incoming import Incoming

# Names that are changed under one hold of the lock.
_BATCH = 64


@dataclass
class OpenHome:
    """The shared parts.

    ``withdrawn`` holds row ids of files whose identity differs from the recorded one, ``busy`` the roots that are
    being brought or are about to be, ``running`` those whose chunks can be read meanwhile.
    """

    home: Home
    index: Index
    heads: Heads
    manifests: Manifests
    write: bool
    descriptors: Descriptors
    packs: EncodedPacks
    own: threading.RLock = field(default_factory=threading.RLock)
    inodes: threading.RLock = field(default_factory=threading.RLock)
    withdrawn: set[int] = field(default_factory=set)
    running: dict[Digest, Incoming] = field(default_factory=dict)
    busy: set[Digest] = field(default_factory=set)

    def folder(self, install: InstallRow) -> Path:
        """Where a version stands: its own directory, or where its publisher keeps it."""
        return Path(install.source) if install.source else self.home.version(install.name, install.root)

    def path(self, file: FileRow) -> Path:
        """Where an installed file stands."""
        return self.folder(file.install) / file.path

    def borrow(self, file: FileRow) -> Kept | None:
        """The open file, if it is the one that was proved; None, and withdrawn, if it is not. Release it later.

        Raises:
            StoreError: this process can open no more; that says nothing about the file.
        """
        if file.id in self.withdrawn or not file.good:
            return None
        key = (file.id, file.identity.dev, file.identity.ino)
        try:
            kept = self.descriptors.acquire(key, lambda: os.open(self.path(file), READ_FLAGS))
        except OSError as error:
            if error.errno in BUSY:
                with disk_errors(self.path(file)):
                    raise
            self.withdrawn.add(file.id)
            return None
        if self.still(file, kept.fd):
            return kept
        self.descriptors.release(kept)
        self.descriptors.drop(key)
        return None

    def still(self, file: FileRow, fd: int) -> bool:
        """Whether an open file is what was proved; withdraws it if not."""
        if Identity.of(os.fstat(fd)) == file.identity:
            return True
        with self.inodes:
            fresh = self.index.file(file.id)
            if fresh is not None and fresh.good and Identity.of(os.fstat(fd)) == fresh.identity:
                return True
            self.withdrawn.add(file.id)
        return False

    def withdraw_changed(self) -> None:
        """Compare every file with its record: what changed while nobody looked is not served from now on."""
        for file in self.index.all_files():
            if file.good and self.identity_on_disk(file) != file.identity:
                self.withdrawn.add(file.id)

    def identity_on_disk(self, file: FileRow) -> Identity | None:
        """What stands at a file's path now; None when that is no regular file."""
        try:
            facts = os.lstat(self.path(file))
        except OSError:
            return None
        return Identity.of(facts) if stat.S_ISREG(facts.st_mode) else None

    def proved(self, file: FileRow) -> bool:
        """Whether a file is recorded as good and has not been seen to change."""
        return file.good and file.id not in self.withdrawn

    def seems_whole(self, file: FileRow) -> bool:
        """For people: whether a file is recorded as good and at most its ctime differs.

        A chmod, or a crash between a link of ours and its record, changes no more. It is proved again before it is
        served or reused.
        """
        if not file.good or file.id not in self.withdrawn:
            return file.good
        now = self.identity_on_disk(file)
        return now is not None and now.same_bytes(file.identity)

    def is_ghost(self, install: InstallRow) -> bool:
        """Whether a removal of a version was cut short: nothing names it, and its directory is gone."""
        gone = install.source is None and not self.folder(install).exists()
        return gone and not self.heads.kept(install.name, install.root)

    @contextmanager
    def changing(self) -> Iterator[Changes]:
        """Hold the lock for a few metadata changes of our own, then record the identities that they gave."""
        with self.inodes:
            changes = Changes()
            try:
                yield changes
            finally:
                if changes.pairs:
                    self.index.reidentify(changes.pairs)

    def link(self, file: FileRow, fd: int, target: Path) -> Identity | None:
        """Hard link a proved file, which is open as ``fd``, to ``target``.

        Returns the identity that it has with its new link; None where it is not what was proved, and nothing was
        linked.

        Raises:
            OSError: the file system refused the link.
        """
        with self.changing() as changes:
            fresh = self.index.file(file.id)
            if fresh is None or not fresh.good or Identity.of(os.fstat(fd)) != fresh.identity:
                return None
            disk.link(self.path(file), target)
            after = Identity.of(os.fstat(fd))
            # The name may have been given to another file just before: then the link is to that one.
            if not after.same_bytes(fresh.identity) or Identity.of(os.lstat(target)) != after:
                disk.unlink(target)
                return None
            changes.pairs.append((fresh.identity, after))
            return after

    def delete_folder(self, folder: Path) -> None:
        """Remove a directory of ours and all in it. Other names of its files stay proved."""
        paths = files_below(folder)
        for start in range(0, len(paths), _BATCH):
            with self.changing() as changes:
                for path in paths[start : start + _BATCH]:
                    changes.unlink(path)
        disk.remove_tree(folder)


def files_below(folder: Path) -> list[Path]:
    """Everything in a directory, at any depth, that is no directory."""
    return [Path(top) / name for top, _, names in os.walk(folder) for name in names]


class Changes:
    """Collects what our own calls did to inodes."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Identity, Identity]] = []

    def unlink(self, path: Path) -> None:
        """Remove one name of a file. Its other names stay proved."""
        with suppress(FileNotFoundError), self._watching(path):
            disk.unlink(path)

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file over another. The other names of both stay proved."""
        with self._watching(source), self._watching(target):
            disk.replace(source, target)

    @contextmanager
    def _watching(self, path: Path) -> Iterator[None]:
        """Record what happens to the inode behind a name that other names share."""
        try:
            shared = os.lstat(path).st_nlink > 1
            fd = os.open(path, READ_FLAGS) if shared else None
        except OSError:
            fd = None
        if fd is None:
            yield
            return
        try:
            before = Identity.of(os.fstat(fd))
            yield
            self.pairs.append((before, Identity.of(os.fstat(fd))))
        finally:
            os.close(fd)
