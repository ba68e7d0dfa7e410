"""Begin to bring a version here, with everything that this disk can give before a source is asked.

What an earlier try brought is taken back (believed after a clean end, else proved again where something was written);
files that another version has are linked; chunks that stand in any file of the store are copied and then proved.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from p2psync import disk
from p2psync.content import Digest
from p2psync.errors import DamagedError, ModelNotFoundError, StoreInUseError
from p2psync.limits import CHUNK_BYTES
from p2psync.manifest import Chunk, Head, Manifest, Place, Tree, chunk_table, peek_head
from p2psync.store import linux
from p2psync.store.descriptors import Descriptors
from p2psync.store.hashing import ShortReadError, fill
from p2psync.store.home import READ_FLAGS, Identity, disk_errors
from p2psync.store.incoming import Incoming, Partial, require_room
from p2psync.store.index import FileRow, Spot
from p2psync.store.journal import read_journal
from p2psync.store.opened import OpenHome
from p2psync.store.prove import Prover
from p2psync.store.records import FileFacts, file_facts
from p2psync.store.recovery import adopt
from p2psync.store.values import Meter, Progress

_OPEN_MAX = 64
_OURS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be brought: some files (by number) of a version, and the head to file with it."""

    name: str
    manifest: Manifest
    tree: Tree
    files: frozenset[int]
    envelope: bytes | None

    def head(self) -> tuple[bytes, Head] | None:
        """The head, with what it says."""
        if self.envelope is None:
            return None
        said = peek_head(self.envelope)
        if said.name != self.name or said.root != self.tree.root:
            raise ValueError(f"a head of {said.name}@{said.root} for {self.name}@{self.tree.root}")
        return self.envelope, said


def begin(opened: OpenHome, wanted: Wanted, progress: Progress) -> Incoming:
    """See ``Store.begin``."""
    head, root = wanted.head(), wanted.tree.root
    with opened.own:
        if root in opened.busy:
            raise StoreInUseError(f"{wanted.name}@{root} is being brought here already")
        opened.busy.add(root)
    try:
        opened.manifests.put(wanted.tree, wanted.manifest)
        return _Start(opened, wanted, progress).run(head)
    except BaseException:
        opened.busy.discard(root)
        raise


def begin_repair(opened: OpenHome, name: str, root: Digest, progress: Progress) -> Incoming:
    """See ``Store.begin_repair``."""
    install = opened.index.install(name, root)
    if install is None:
        raise ModelNotFoundError(f"{name}@{root} is not in this home", hint="p2psync ls")
    tree, manifest = opened.manifests.read(root), opened.manifests.get(root)
    if tree is None or manifest is None:
        raise DamagedError(f"the manifest of {name}@{root} is damaged", hint=f"p2psync pull {name}@{root} --from URL")
    files = frozenset(file.number for file in opened.index.files(install))
    return begin(opened, Wanted(name, manifest, tree, files, opened.heads.by_digest(name, root)), progress)


class _Start:
    """The steps of one begin, in order."""

    def __init__(self, opened: OpenHome, wanted: Wanted, progress: Progress) -> None:
        self._opened = opened
        self._name = wanted.name
        self._manifest = manifest = wanted.manifest
        self._root = wanted.tree.root
        self._files = wanted.files
        self._meter = Meter(progress, manifest.size)
        self._sources = Descriptors(_OPEN_MAX)
        self._scratch = memoryview(bytearray(CHUNK_BYTES))

    def run(self, head: tuple[bytes, Head] | None) -> Incoming:
        """Take all steps."""
        opened, manifest = self._opened, self._manifest
        kept = self._own_files()
        facts = file_facts(manifest, self._files.difference(kept))
        part = Partial(self._root, opened.home.partial / self._root.hex(), facts)
        with disk_errors(part.folder):
            disk.make_folder(part.tree)
            if head is not None:
                disk.write_durably(part.folder / "head.json", head[0])
        journal = read_journal(part.journal, self._root, part.selection)
        clean = journal.identities is not None and journal.identities == part.identities()
        with disk_errors(part.folder, needed_bytes=sum(fact.file.size for fact in facts)):
            self._link_whole(part)
            fresh = self._make_files(part)
            self._list_chunks(part)
            incoming = Incoming(opened, self._name, manifest, part, head)
            try:
                durable = self._resume(incoming, part, fresh, journal.chunks, clean=clean)
                incoming.resumed_bytes = sum(c.length for c in part.table.values() if incoming.holds(c.index))
                self._reuse(incoming, part)
                incoming.start(durable)
            except BaseException:
                incoming.close(clean=False)
                raise
            finally:
                self._sources.close()
        incoming.total_bytes = sum(manifest.files[number].size for number in self._files)
        missing = sum(chunk.length for chunk in incoming.missing)
        incoming.reused_bytes = incoming.total_bytes - incoming.resumed_bytes - missing
        opened.running[self._root] = incoming
        return incoming

    def _own_files(self) -> Collection[int]:
        """The files of this very version that are installed and good, after looking again at those in doubt.

        A version that stands in place outside the home is brought as a whole: its files are not ours to mend.
        """
        install = self._opened.index.install(self._name, self._root)
        if install is None:
            adopt(self._opened, self._name, self._root)
            install = self._opened.index.install(self._name, self._root)
        if install is None:
            return set()
        files = [f for f in self._opened.index.files(install) if f.number in self._files]
        with Prover(self._opened, self._meter.advance) as prover:
            for file in files:
                if not self._opened.proved(file) or self._opened.identity_on_disk(file) != file.identity:
                    prover.prove(file)
        good = self._files & {f.number for f in self._opened.index.files(install) if self._opened.proved(f)}
        return good if install.source is None or good == self._files else set()

    def _link_whole(self, part: Partial) -> None:
        """Hard link files that another version has, whole and proved. ONNX external data must not be links."""
        with Prover(self._opened, self._meter.advance) as prover:
            for fact in part.facts:
                if not fact.file.size or fact.file.external:
                    continue
                for row in self._opened.index.holders(fact.cut):
                    linked = None if row.install.source else self._link(prover, row, part.path(fact))
                    if linked is not None:
                        part.whole[fact.number] = linked
                        break

    def _link(self, prover: Prover, row: FileRow, target: Path) -> Identity | None:
        disk.make_folder(target.parent)
        if not self._opened.proved(row):
            prover.prove(row)
        fresh = self._opened.index.file(row.id)
        kept = self._opened.borrow(fresh) if fresh is not None else None
        if kept is None:
            return None
        try:
            with self._opened.changing() as changes:
                changes.unlink(target)
            return self._opened.link(row, kept.fd, target)
        except OSError as error:
            if error.errno in _OURS:
                raise
            # Too many links, or a file system without them: its chunks are copied.
            return None
        finally:
            self._opened.descriptors.release(kept)

    def _make_files(self, part: Partial) -> set[int]:
        """Give every other file its size and its blocks. Returns the numbers of those that were not there."""
        needed = 0
        fresh = set()
        for fact in part.writable():
            facts = _usable(part.path(fact), fact.file.size)
            if facts is None:
                with self._opened.changing() as changes:
                    changes.unlink(part.path(fact))
                fresh.add(fact.number)
                needed += fact.file.size
            else:
                needed += max(0, fact.file.size - facts.st_blocks * 512)
        require_room(self._opened, needed)
        for fact in part.writable():
            disk.make_folder(part.path(fact).parent)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            if fact.number not in fresh:
                # A stop between making it read only and naming it leaves it so.
                os.chmod(part.path(fact), 0o600)
            fd = os.open(part.path(fact), flags, 0o600)
            try:
                linux.reserve(fd, fact.file.size)
            finally:
                os.close(fd)
        return fresh

    def _list_chunks(self, part: Partial) -> None:
        writable = {fact.number for fact in part.writable()}
        for chunk in chunk_table(self._manifest):
            places = tuple(place for place in chunk.places if place.file in writable)
            if places:
                part.table[chunk.index] = chunk
                part.todo[chunk.index] = places

    def _resume(
        self, incoming: Incoming, part: Partial, fresh: set[int], journalled: Collection[int], *, clean: bool
    ) -> list[int]:
        """Take back what an earlier try brought. Returns the chunks that are durable already."""
        if clean:
            durable = [index for index in part.table if index in journalled]
            incoming.arrived(durable, durable=True)
            return durable
        proved: dict[int, set[Place]] = {}
        for fact in part.writable():
            if fact.number not in fresh:
                self._prove_written(incoming, fact, self._chunks_of(part, fact), journalled, proved)
        for index, places in proved.items():
            if places == set(part.todo[index]):
                incoming.arrived((index,))
            else:
                incoming.spread(part.table[index], next(iter(places)))
        return []

    def _chunks_of(self, part: Partial, fact: FileFacts) -> list[tuple[int, Chunk]]:
        """(offset, chunk) of all that is to be written to one file, in file order."""
        found = [
            (place.offset, part.table[index])
            for index, places in part.todo.items()
            for place in places
            if place.file == fact.number
        ]
        return sorted(found, key=lambda pair: pair[0])

    def _prove_written(
        self,
        incoming: Incoming,
        fact: FileFacts,
        chunks: list[tuple[int, Chunk]],
        journalled: Collection[int],
        proved: dict[int, set[Place]],
    ) -> None:
        """Hash the chunks that stand where something was written, or that the journal names."""
        with incoming.file(fact.number) as fd:
            extents = list(linux.written_extents(fd, fact.file.size))
            place = 0
            for offset, chunk in chunks:
                while place < len(extents) and extents[place][1] <= offset:
                    place += 1
                written = place < len(extents) and extents[place][0] <= offset
                if not (written and extents[place][1] >= offset + chunk.length) and chunk.index not in journalled:
                    continue
                if self._proves(fd, offset, chunk):
                    proved.setdefault(chunk.index, set()).add(Place(fact.number, offset))

    def _proves(self, fd: int, offset: int, chunk: Chunk) -> bool:
        view = self._scratch[: chunk.length]
        try:
            fill(fd, view, offset)
        except (OSError, ShortReadError):
            return False
        self._meter.advance(chunk.length)
        return Digest.of(view) == chunk.digest

    def _reuse(self, incoming: Incoming, part: Partial) -> None:
        """Copy chunks from any file of the store, damaged ones too: a copy counts only once it proved."""
        for chunk in incoming.missing:
            for spot in self._opened.index.spots(chunk.digest, proved_only=False):
                if self._copy(incoming, chunk, part.todo[chunk.index][0], spot):
                    incoming.spread(chunk, part.todo[chunk.index][0])
                    break

    def _copy(self, incoming: Incoming, chunk: Chunk, place: Place, spot: Spot) -> bool:
        try:
            kept = self._sources.acquire(spot.file.id, lambda: os.open(self._opened.path(spot.file), READ_FLAGS))
        except OSError:
            return False
        try:
            with incoming.file(place.file) as fd:
                copied = linux.copy_range(kept.fd, spot.offset, fd, place.offset, chunk.length)
                if copied == chunk.length and self._proves(fd, place.offset, chunk):
                    return True
        except OSError as error:
            if error.errno in _OURS:
                raise
        finally:
            self._sources.release(kept)
        # The file is not what was recorded: nobody else may read it before it is proved again.
        self._opened.withdrawn.add(spot.file.id)
        return False


def _usable(path: Path, size: int) -> os.stat_result | None:
    """What a partial file is, if it is ours alone to write; None if it must be made anew."""
    with suppress(OSError):
        facts = os.lstat(path)
        if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 and facts.st_size == size:
            return facts
    return None
