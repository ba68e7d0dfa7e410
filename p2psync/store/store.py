"""The store of one home: everything that other rooms may ask of this disk.

Plain code, safe from any thread. What runs in an event loop is said to; everything else may take long and wants a
thread. One process owns a home; others may read it. What only one verb needs is imported by that verb: together it
takes as long as bringing a small model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from p2psync import disk
from p2psync.content import Digest
from p2psync.errors import ModelNotFoundError, StoreLockedError, StoreUnwritableError
from p2psync.manifest import (
    Encoded,
    FormSet,
    FormsReader,
    Head,
    Manifest,
    Reference,
    SigningKey,
    Tree,
    peek_head,
    sign_head,
)
from p2psync.store import linux, locate, records, recovery
from p2psync.store.heads import resolve, selector_digest
from p2psync.store.home import Home, Refusals, disk_errors
from p2psync.store.incoming import Incoming, file_head
from p2psync.store.opened import OpenHome
from p2psync.store.values import (
    Damage,
    Progress,
    Published,
    PublishOptions,
    RemovalReport,
    Usage,
    VerifyReport,
    VersionInfo,
    ignore,
)


class Store:
    """An open home. Close it, or use it as a context manager."""

    def __init__(self, opened: OpenHome, lock_fd: int | None) -> None:
        self._opened = opened
        self._lock_fd = lock_fd
        self._refusals = Refusals.count
        self.home = opened.home.path

    @classmethod
    def open(cls, home: Path, *, write: bool = True, progress: Progress = ignore) -> Store:
        """Open a home, as its owner or only to read.

        The owner makes what is missing, ends what a crash left and proves again what the index lost. A reader takes no
        lock, changes nothing, and also opens a home on a read-only disk; a home that does not exist is empty to it.

        Args:
            home: The directory.
            write: Whether to become its owner.
            progress: Told about hashing, when an index has to be rebuilt.

        Raises:
            StoreLockedError: another process owns it.
            StoreUnwritableError: it refuses writes.
            StoreFullError: its disk is full.
            UnsupportedVersionError: a newer p2psync wrote it.
            StoreError: it is no directory, or its disk refuses otherwise.
        """
        where = Home(Path(os.path.abspath(home)))
        if not write:
            where.require_folder()
            return cls(recovery.open_home(where, write=False, progress=progress), None)
        where.create()
        lock_fd, settled = _lock(where)
        try:
            if not settled:
                where.settle()
            return cls(recovery.open_home(where, write=True, progress=progress), lock_fd)
        except BaseException:
            os.close(lock_fd)
            raise

    def close(self) -> None:
        """End running pulls as if they crashed, and give the home back. May be called again."""
        for incoming in tuple(self._opened.running.values()):
            incoming.close(clean=False)
        self._opened.descriptors.close()
        self._opened.index.close()
        lock_fd, self._lock_fd = self._lock_fd, None
        if lock_fd is not None:
            try:
                if self._refusals == Refusals.count:
                    with suppress(OSError):
                        os.ftruncate(lock_fd, 0)
            finally:
                os.close(lock_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What is here. These take well under a millisecond and may run in an event loop.

    def head(self, name: str, selector: str) -> bytes | None:
        """The envelope that a tag, or ``b3:`` and a digest, names here."""
        digest = selector_digest(selector)
        if digest is not None:
            return self._opened.heads.by_digest(name, digest)
        return self._opened.heads.by_tag(name, selector)

    def node(self, digest: Digest) -> bytes | None:
        """A node of a manifest, proved."""
        return self._opened.manifests.node(digest)

    def locate(self, digest: Digest) -> locate.Located | None:
        """Where a chunk can be read now; chunks of running pulls too. Release it when done.

        The file's identity is compared at this moment: where it differs, the file is withdrawn.
        """
        return locate.locate(self._opened, digest)

    def inventory(self, root: Digest) -> bytes | None:
        """Which chunks of a version are here: a bit each, in manifest order, lowest first. None when it is unknown."""
        return locate.inventory(self._opened, root)

    def has(self, digest: Digest) -> bool:
        """Whether a chunk stands in a file that was not seen to change."""
        located = self.locate(digest)
        if located is None:
            return False
        located.release()
        return True

    # What is here, read from files: these want a thread.

    def read_chunk(self, digest: Digest) -> bytes | None:
        """The bytes of a chunk, proved; None where it is not here. A file whose bytes turn out wrong is withdrawn."""
        return locate.read_proved(self._opened, digest)

    def add_nodes(self, root: Digest, nodes: Mapping[Digest, bytes]) -> None:
        """Keep nodes of the forms of a version whose tree is here, and give them to others.

        Raises:
            StoreError: the disk refuses.
        """
        self._opened.manifests.add(root, nodes)

    def has_all_encoded(self, root: Digest) -> bool:
        """Whether the encoded chunks of a version are here for good."""
        return self._opened.packs.is_whole(root)

    def finish_encoded(self, root: Digest, manifest: Manifest) -> bool:
        """Keep the encoded chunks of a version for good, if all of them are here. Returns whether they are.

        Raises:
            StoreError: the disk refuses.
        """
        self._require_owner()
        with self._opened.own:
            return self._opened.packs.finish(root, manifest)

    def keep_encoded(self, root: Digest, number: int, row: Encoded, data: bytes | memoryview) -> bool:
        """Keep an encoded chunk of a version, for peers, until the home is opened again. Returns whether it is here.

        A disk that refuses is no fault here: passing on is a favour.
        """
        return self._opened.packs.keep(root, number, row, data)

    def versions(self) -> list[VersionInfo]:
        """Every version that is installed, by name, the latest published first."""
        from p2psync.store.listing import versions

        return versions(self._opened)

    def usage(self) -> Usage:
        """What the home takes on its disk."""
        from p2psync.store.listing import usage

        return usage(self._opened)

    def manifest(self, root: Digest) -> Manifest | None:
        """What a version holds. None when its nodes are not here or do not prove."""
        return self._opened.manifests.get(root)

    def forms(self, manifest: Manifest, wants: Callable[[FormSet, int, int], bool] | None = None) -> FormsReader:
        """The encoded chunks of a version: all, or those of the nodes that ``wants`` names (see ``FormsReader``).

        Raises:
            NotFoundError: it has none, or their nodes are not here.
            MalformedError: the nodes are not what they must be.
        """
        return self._opened.packs.reader(manifest, wants)

    def tree(self, root: Digest) -> Tree:
        """The nodes of a version.

        Raises:
            ModelNotFoundError: they are not here, or do not prove.
        """
        tree = self._opened.manifests.read(root)
        if tree is None:
            raise ModelNotFoundError(f"the manifest of {root} is not in this home")
        return tree

    def resolve(self, reference: Reference) -> tuple[Digest, bytes]:
        """What a reference means here: the root, and the envelope that says so.

        Raises:
            ModelNotFoundError: it is not here.
        """
        envelope = resolve(self._opened.heads, reference)
        if envelope is None:
            raise ModelNotFoundError(f"{reference} is not in this home", hint="p2psync ls")
        return peek_head(envelope).root, envelope

    def installed(self, name: str, root: Digest, files: Collection[int]) -> Path | None:
        """Where a version stands, if these files of it (manifest numbers) are there and did not change."""
        return records.installed(self._opened, name, root, files)

    def present(self, name: str, root: Digest) -> set[int]:
        """Numbers of the files of a version that are here and seem whole, as ``VersionInfo`` counts them."""
        install = self._opened.index.install(name, root)
        if install is None:
            return set()
        return {file.number for file in self._opened.index.files(install) if self._opened.seems_whole(file)}

    # Publishing and names.

    def publish(
        self,
        source: Path,
        reference: Reference,
        key: SigningKey,
        options: PublishOptions,
        progress: Progress = ignore,
    ) -> Published:
        """Make a signed version of what stands in a directory: all of it, or nothing.

        A snapshot links files that the store has already, shares blocks where the disk can, copies otherwise, and
        hashes while it copies. In place, files stay where they are, and the version is as fragile as they are.

        Args:
            source: The directory. Its ``p2psync.toml`` says which variants there are and is not published.
            reference: A name and a tag. The version number is the highest that is known for them, plus one.
            key: Signs the head.
            options: How.
            progress: Told about hashing.

        Raises:
            UnsafePathError: it holds a link, a FIFO, a device, or a path that is not safe everywhere.
            MalformedError: a safetensors, GGUF or ONNX file is broken.
            InvalidConfigError: its ``p2psync.toml`` is.
            UsageError: it is empty or no directory, or holds the home.
            NotFoundError: it is not there, or a base is not in this home.
            StoreFullError: there is no room.
            StoreError: a file changed while it was read, or the disk refuses.
        """
        from p2psync.store.publish import publish

        self._require_owner()
        return publish(self._opened, source, reference, key, options, progress)

    def put_head(self, envelope: bytes, head: Head) -> None:
        """File a head that was accepted. Its tag moves, if it does not name a later version already.

        A version that no tag names afterwards was asked for by its digest, and is pinned.
        """
        self._require_owner()
        with self._opened.own:
            file_head(self._opened, envelope, head)

    def tag(self, reference: Reference, tag: str, key: SigningKey, now_unix_s: int) -> Head:
        """Sign that another tag names a version, and file that.

        Raises:
            ModelNotFoundError: the version is not here.
        """
        self._require_owner()
        _, envelope = self.resolve(reference)
        said = peek_head(envelope)
        with self._opened.own:
            version = self._opened.heads.highest_version(said.name, tag) + 1
            head = Head(
                said.name,
                tag,
                version,
                said.root,
                said.size,
                now_unix_s,
                expires=said.expires,
                refresh_after_s=said.refresh_after_s,
                bases=said.bases,
            )
            signed = sign_head(head, key)
            self._opened.heads.put_tag(signed, head)
        return peek_head(signed)

    def remove(self, reference: Reference, *, dry_run: bool) -> RemovalReport:
        """Take a tag away, or with a digest every tag and the pin of that version.

        The version's files go too when nothing names it any more; files in place are never touched. Blocks that other
        versions share stay.

        Raises:
            ModelNotFoundError: there is no such tag or version here.
            StoreInUseError: it is being pulled right now.
        """
        from p2psync.store.prune import remove

        self._require_owner(dry_run=dry_run)
        return remove(self._opened, reference, dry_run=dry_run)

    def prune(self, *, dry_run: bool) -> RemovalReport:
        """Remove versions that no tag and no pin names, and what is left of versions that are gone.

        Interrupted pulls go when they are old or of no use. What is being pulled is never touched, nor are blocks that
        a version that stays shares.
        """
        from p2psync.store.prune import prune

        self._require_owner(dry_run=dry_run)
        return prune(self._opened, dry_run=dry_run)

    # Pulling and keeping whole.

    def begin(
        self,
        name: str,
        manifest: Manifest,
        tree: Tree,
        files: Collection[int],
        envelope: bytes | None,
        progress: Progress = ignore,
    ) -> Incoming:
        """Begin to bring files of a version here, with all that this disk can give before a source is asked.

        Args:
            name: The model.
            manifest: What ``tree`` says.
            tree: The nodes of the version.
            files: Numbers of the files to install.
            envelope: The accepted head; filed when the version is installed.
            progress: Told about hashing.

        Raises:
            StoreInUseError: the same version is being brought already.
            StoreFullError: there is no room for what is missing.
            StoreError: the disk refuses.
        """
        from p2psync.store.begin import Wanted, begin

        self._require_owner()
        return begin(self._opened, Wanted(name, manifest, tree, frozenset(files), envelope), progress)

    def begin_repair(self, name: str, root: Digest, progress: Progress = ignore) -> Incoming:
        """Begin to heal a version: an ``Incoming`` of its damaged files, whose good chunks are taken from them.

        A version that stands in place outside is brought into the home as a whole: its files are not ours to mend.

        Raises:
            ModelNotFoundError: the version is not here.
            DamagedError: its manifest is lost; pulling it again heals it.
            StoreInUseError: it is being brought already.
        """
        from p2psync.store.begin import begin_repair

        self._require_owner()
        return begin_repair(self._opened, name, root, progress)

    def verify(self, reference: Reference | None, progress: Progress = ignore) -> VerifyReport:
        """Read every byte of a version, or of all, again, and list all damage.

        The owner also withdraws what is damaged and takes back what is good.

        Raises:
            ModelNotFoundError: the version is not here.
        """
        from p2psync.store.verify import verify

        return verify(self._opened, reference, progress)

    def reprove_withdrawn(self, progress: Progress = ignore) -> list[Damage]:
        """Prove again what was seen to change, and take back what still holds its bytes. Returns what does not."""
        from p2psync.store.verify import reprove_withdrawn

        return reprove_withdrawn(self._opened, progress)

    def export(self, name: str, root: Digest, files: Collection[int], to: Path, link: bool = False) -> None:  # noqa: FBT001, FBT002
        """Write files of an installed version to a directory: shared blocks or copies, or read-only hard links.

        Each file appears whole, and all of them after the last was written; other files in the directory stay. ONNX
        external data is never a link.

        Raises:
            ModelNotFoundError: the version, or one of the files, is not here.
            DamagedError: a file changed since it was proved.
            UsageError: ``to`` is no directory, or inside the home.
            UnsafePathError: a directory below ``to`` is a symbolic link.
            StoreFullError: there is no room.
            StoreError: the disk refuses.
        """
        from p2psync.store.export import export

        export(self._opened, name, root, files, to, link=link)

    def _require_owner(self, *, dry_run: bool = False) -> None:
        if not self._opened.write and not dry_run:
            raise StoreUnwritableError(f"the home {self.home} was opened to read only")
        if self._opened.write and self._refusals != Refusals.count:
            before = Refusals.count
            self._opened.home.settle()
            self._refusals = before


def owner_pid(home: Path) -> int | None:
    """The process that owns a home now; None when none does."""
    try:
        fd = os.open(Home(home).lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return None if linux.try_lock(fd) else _pid_in(fd)
    finally:
        os.close(fd)


def _pid_in(lock_fd: int) -> int | None:
    text = os.pread(lock_fd, 32, 0).decode(errors="replace").partition("\n")[0]
    return int(text) if text.isdecimal() else None


def _lock(home: Home) -> tuple[int, bool]:
    """Become the owner of a home for as long as the returned descriptor is open.

    Returns:
        The descriptor, and whether all that stands here is durable: an owner that ends well leaves the file empty.

    Raises:
        StoreLockedError: another process is.
    """
    with disk_errors(home.lock):
        known = home.lock.exists()
        fd = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if not linux.try_lock(fd):
            pid = _pid_in(fd)
            raise StoreLockedError(
                f"the home {home.path} is owned by process {pid if pid is not None else '(unknown)'}",
                pid=pid,
                hint="use that process, stop it, or use another --home",
            )
        settled = known and os.fstat(fd).st_size == 0
        with disk_errors(home.lock):
            text = b"%d\n" % os.getpid()
            disk.write_at(fd, text, 0)
            os.ftruncate(fd, len(text))
    except BaseException:
        os.close(fd)
        raise
    return fd, settled
