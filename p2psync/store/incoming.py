"""One version that is being brought here: proved chunks go to their places, and in the end the files become a version.

Theory of operation: data, then journal, then names. ``write`` puts a proved chunk at every place where it stands;
``sync`` makes data durable and only then says so in the journal; ``install`` makes the files read only and gives them
their names. A stop between any two of these loses at most what the next start proves again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from p2psync import disk
from p2psync.content import Digest
from p2psync.errors import DamagedError, P2PSyncError, StoreError
from p2psync.limits import FREE_RESERVE_BYTES
from p2psync.manifest import Chunk, Head, Manifest, Place
from p2psync.store import linux
from p2psync.store.descriptors import Descriptors
from p2psync.store.home import BUSY, Identity, disk_errors, free_bytes, full_error
from p2psync.store.journal import Journal
from p2psync.store.locate import Located
from p2psync.store.opened import OpenHome
from p2psync.store.records import FileFacts, identities, install_row, move_in

_MODE = 0o444
_OPEN_MAX = 128


@dataclass
class Partial:
    """What of a version is to be brought, and where it stands meanwhile.

    ``facts`` are the files that become installed. Those in ``whole`` are links to files that were proved with these
    identities, and are never written.
    ``table`` has the chunks that must be written, by number, and ``todo`` the places where.
    """

    root: Digest
    folder: Path
    facts: list[FileFacts]
    whole: dict[int, Identity] = field(default_factory=dict)
    table: dict[int, Chunk] = field(default_factory=dict)
    todo: dict[int, tuple[Place, ...]] = field(default_factory=dict)

    @property
    def tree(self) -> Path:
        """The directory of the files."""
        return self.folder / "tree"

    @property
    def journal(self) -> Path:
        """The journal's path."""
        return self.folder / "journal"

    @property
    def selection(self) -> Digest:
        """Names the files: a journal of other files says nothing about these."""
        return Digest.of(b"".join(b"%d." % fact.number for fact in self.facts))

    def path(self, fact: FileFacts) -> Path:
        """Where a file stands until it is installed."""
        return self.tree / fact.file.path

    def writable(self) -> list[FileFacts]:
        """The files that chunks are written to."""
        return [fact for fact in self.facts if fact.number not in self.whole]

    def identities(self) -> tuple[Identity, ...] | None:
        """What the partial files are now; None when one is not there."""
        try:
            return tuple(Identity.of(os.lstat(self.path(fact))) for fact in self.facts)
        except OSError:
            return None


class Incoming:
    """An unfinished version. ``write``, ``holds``, ``sync`` and ``locate`` may be called from any thread.

    ``total_bytes`` counts the files that were asked for. ``resumed_bytes`` came with an earlier try, ``reused_bytes``
    are here for other reasons: in files of other versions, or more than once in this one.
    """

    def __init__(
        self, opened: OpenHome, name: str, manifest: Manifest, part: Partial, head: tuple[bytes, Head] | None
    ) -> None:
        self._opened = opened
        self._name = name
        self._manifest = manifest
        self._partial = part
        self._head = head
        self._facts = {fact.number: fact for fact in part.facts}
        self._by_digest = {chunk.digest: chunk for chunk in part.table.values()}
        self._bits = bytearray(max(part.table, default=-1) // 8 + 1)
        self._lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self._descriptors = Descriptors(_OPEN_MAX)
        self._journal: Journal | None = None
        self._dirty: set[int] = set()
        self._pending: list[int] = []
        self._failed: P2PSyncError | None = None
        self._closed = False
        self.total_bytes = 0
        self.resumed_bytes = 0
        self.reused_bytes = 0

    @property
    def missing(self) -> list[Chunk]:
        """The chunks that are not here, in manifest order."""
        return [chunk for chunk in self._partial.table.values() if not self.holds(chunk.index)]

    def holds(self, index: int) -> bool:
        """Whether the chunk with this number is here."""
        return index >> 3 < len(self._bits) and bool(self._bits[index >> 3] >> (index & 7) & 1)

    def inventory(self) -> bytes:
        """A bit for each chunk that was proved here, lowest first; ends with the last chunk that may be set."""
        return bytes(self._bits)

    def needed_bytes(self) -> int:
        """Bytes that the disk must still give."""
        return sum(fact.file.size - _allocated(self._partial.path(fact)) for fact in self._partial.writable())

    def check_room(self) -> None:
        """Demand room for all that is missing.

        Raises:
            StoreFullError: there is less, or nothing would be left for others.
        """
        require_room(self._opened, self.needed_bytes())

    def write(self, chunk: Chunk, data: bytes | memoryview) -> None:
        """Put a chunk that was proved by its digest at every place where it stands.

        Raises:
            StoreFullError: the disk is full. What was written before is kept.
            StoreError: the disk failed, now or before.
        """
        if len(data) != chunk.length:
            raise ValueError(f"chunk {chunk.digest} has {chunk.length} bytes, not {len(data)}")
        self._require_working()
        with disk_errors(self._partial.folder, needed_bytes=chunk.length):
            for place in self._partial.todo[chunk.index]:
                with self.file(place.file) as fd:
                    disk.write_at(fd, data, place.offset)
        self.arrived((chunk.index,))

    def spread(self, chunk: Chunk, proved: Place) -> None:
        """Copy a chunk from a place of ours where it was proved to the others where it stands.

        Raises:
            OSError: the disk refused.
        """
        with self.file(proved.file) as source:
            for place in self._partial.todo[chunk.index]:
                if place != proved:
                    with self.file(place.file) as target:
                        linux.copy_range(source, proved.offset, target, place.offset, chunk.length)
        self.arrived((chunk.index,))

    def arrived(self, indexes: Iterable[int], *, durable: bool = False) -> None:
        """Chunks were proved and stand at all of their places. The next ``sync`` makes those durable that are not."""
        with self._lock:
            for index in indexes:
                self._bits[index >> 3] |= 1 << (index & 7)
                if durable:
                    continue
                self._pending.append(index)
                self._dirty.update(place.file for place in self._partial.todo[index])

    def start(self, durable: Iterable[int]) -> None:
        """Begin a new journal with the chunks that are known to be durable, then sync the others.

        Raises:
            StoreError: the disk refused.
        """
        with disk_errors(self._partial.folder):
            self._journal = Journal(self._partial.journal, self._partial.root, self._partial.selection, durable)
        self.sync()

    def sync(self) -> None:
        """Make what was written durable: the data, then the journal.

        Raises:
            StoreFullError: the disk is full.
            StoreError: it failed. What may not have reached it is forgotten, never tried again as if it had.
        """
        self._require_working()
        with self._sync_lock:
            with self._lock:
                dirty, self._dirty = self._dirty, set()
                pending, self._pending = self._pending, []
            try:
                for number in sorted(dirty):
                    self._sync_file(number, pending)
                    dirty.discard(number)
                if pending and self._journal is not None:
                    with disk_errors(self._partial.folder):
                        self._journal.add(pending)
            except P2PSyncError:
                with self._lock:
                    self._dirty |= dirty
                    self._pending += pending
                raise

    def locate(self, digest: Digest) -> Located | None:
        """Where a chunk that was proved here can be read.

        Raises:
            StoreError: this process can open no more.
        """
        chunk = self._by_digest.get(digest)
        if chunk is None or not self.holds(chunk.index):
            return None
        place = self._partial.todo[chunk.index][0]
        try:
            kept = self._descriptors.acquire(place.file, partial(self._open, place.file))
        except OSError as error:
            if error.errno in BUSY:
                with disk_errors(self._partial.folder):
                    raise
            return None
        expected = Identity.of(os.fstat(kept.fd))[:3]
        # Other chunks of the file are being written, so only what would make it another file counts.
        return Located(
            self._descriptors,
            kept,
            place.offset,
            chunk.length,
            lambda: Identity.of(os.fstat(kept.fd))[:3] == expected,
        )

    def install(self) -> Path:
        """Make the version's files read only and give them their names. Returns where the version stands.

        Raises:
            StoreError: the disk refused. The next try finds everything where it is.
            ValueError: chunks are missing.
        """
        if self.missing:
            raise ValueError(f"{len(self.missing)} chunks are missing")
        self.sync()
        part, opened = self._partial, self._opened
        target = self._target()
        with disk_errors(part.folder):
            proved = {fact.number: self._finish(fact) for fact in part.facts}
            self._descriptors.close()
            with opened.own:
                if self._head is not None:
                    opened.heads.put_digest(*self._head)
                if part.facts:
                    paths = [fact.file.path for fact in part.facts]
                    move_in(opened, part.tree, target, paths, whole=_holds_only(part.tree, paths))
                if self._head is not None:
                    file_head(opened, *self._head)
                if part.facts:
                    self._record(target, proved)
        self.close(clean=False)
        with disk_errors(part.folder):
            _remove_finished(part)
        return target

    def close(self, *, clean: bool) -> None:
        """Stop. ``clean``: what is here need not be proved again by the next start. May be called again.

        When the disk refuses that, the next start proves what it finds.
        """
        if self._closed:
            return
        try:
            with suppress(P2PSyncError):
                if clean and self._journal is not None:
                    self._end(self._journal)
        finally:
            self._closed = True
            self._opened.running.pop(self._partial.root, None)
            self._opened.busy.discard(self._partial.root)
            if self._journal is not None:
                self._journal.close()
            self._descriptors.close()

    def discard(self) -> None:
        """Stop, and forget what arrived."""
        self.close(clean=False)
        with disk_errors(self._partial.folder):
            self._opened.delete_folder(self._partial.folder)

    @contextmanager
    def file(self, number: int) -> Iterator[int]:
        """The descriptor of a partial file, open for reading and writing."""
        kept = self._descriptors.acquire(number, partial(self._open, number))
        try:
            yield kept.fd
        finally:
            self._descriptors.release(kept)

    def _open(self, number: int) -> int:
        return os.open(self._partial.path(self._facts[number]), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)

    def _require_working(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _end(self, journal: Journal) -> None:
        """Say in the journal that work ended cleanly."""
        self.sync()
        now = self._partial.identities()
        if now is not None:
            with disk_errors(self._partial.folder):
                journal.end(now)

    def _sync_file(self, number: int, pending: list[int]) -> None:
        with disk_errors(self._partial.folder), self.file(number) as fd:
            try:
                disk.sync_data(fd)
            except OSError as error:
                # The kernel reports a lost write once. A file that it lost writes of is given up as a whole.
                self._failed = StoreError(f"the disk lost writes to {self._partial.folder}: {error.strerror}")
                disk.unlink(self._partial.path(self._facts[number]))
                with self._lock:
                    for index in pending:
                        self._bits[index >> 3] &= ~(1 << (index & 7)) & 0xFF
                raise self._failed from error

    def _finish(self, fact: FileFacts) -> Identity:
        """Make one file durable and read only; what it is then is what was proved."""
        if fact.number in self._partial.whole:
            return self._partial.whole[fact.number]
        with self.file(fact.number) as fd:
            os.fchmod(fd, _MODE)
            disk.sync(fd)
            return Identity.of(os.fstat(fd))

    def _target(self) -> Path:
        """Where the version will stand: where it stands now, if that needs nothing."""
        now = self._opened.index.install(self._name, self._partial.root)
        if now is not None and not self._partial.facts:
            return self._opened.folder(now)
        return self._opened.home.version(self._name, self._partial.root)

    def _record(self, target: Path, proved: dict[int, Identity]) -> None:
        """Enter the files into the index. Opening the home finds them if this is as far as it came."""
        part = self._partial
        row = install_row(self._name, part.root, self._manifest)
        records = identities(self._opened, target, part.facts, proved)
        self._opened.index.add(row, records)
        self._opened.heads.drop_source(self._name, part.root)
        self._opened.index.checkpoint()
        changed = [record.path for record in records if record.identity is None]
        if changed:
            raise DamagedError(f"{changed[0]} changed while it was installed", hint="run the same pull again")


def file_head(opened: OpenHome, envelope: bytes, head: Head) -> None:
    """File a head: its tag moves to a later version only. A version that no tag names then was asked for by digest."""
    opened.heads.put_digest(envelope, head)
    opened.heads.put_tag(envelope, head)
    if not opened.heads.kept(head.name, head.root):
        opened.heads.pin(head.name, head.root)


def require_room(opened: OpenHome, needed_bytes: int) -> None:
    """Demand that the home's disk has room.

    Raises:
        StoreFullError: it has less, or nothing would be left for others.
    """
    if needed_bytes and needed_bytes + FREE_RESERVE_BYTES > free_bytes(opened.home.path):
        raise full_error(opened.home.path, needed_bytes + FREE_RESERVE_BYTES)


def _allocated(path: Path) -> int:
    """Bytes of a file that have their blocks; at most its size."""
    try:
        facts = os.lstat(path)
    except FileNotFoundError:
        return 0
    return min(facts.st_size, facts.st_blocks * 512)


def _holds_only(tree: Path, paths: list[str]) -> bool:
    """Whether a directory holds these files and no other."""
    found = {os.path.relpath(os.path.join(folder, name), tree) for folder, _, names in os.walk(tree) for name in names}
    return found == set(paths)


def _remove_finished(part: Partial) -> None:
    """Remove what an installed version leaves. Files of the same version that another selection began stay."""
    disk.unlink(part.journal)
    left = any(names for _, _, names in os.walk(part.tree))
    if left:
        disk.sync_folder(part.folder)
        return
    disk.remove_tree(part.folder)
