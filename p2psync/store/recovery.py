"""Open a home after whatever happened to it: finish or forget what a crash left, and rebuild what was lost."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from p2psync import disk
from p2psync.content import DIGEST_BYTES, Digest
from p2psync.store.descriptors import Descriptors
from p2psync.store.encoded import EncodedPacks
from p2psync.store.hashing import TwoThreads, prove_file
from p2psync.store.heads import Heads
from p2psync.store.home import READ_FLAGS, Home, Identity, disk_errors
from p2psync.store.index import Index, IndexDamagedError, NewFile, unpack_cut
from p2psync.store.manifests import Manifests
from p2psync.store.opened import OpenHome, files_below
from p2psync.store.records import FileFacts, file_facts, install_row
from p2psync.store.values import Meter, Progress, ignore


def open_home(home: Home, *, write: bool, progress: Progress) -> OpenHome:
    """Open a home that this process owns, or may only read.

    Raises:
        StoreError: its disk refuses.
        UnsupportedVersionError: a newer p2psync wrote it.
    """
    lost = not home.index.exists()
    try:
        index = Index(home.index, write=write)
    except IndexDamagedError:
        if not write:
            raise
        _move_aside(home.index)
        index = Index(home.index, write=True)
        lost = True
    manifests, descriptors = Manifests(home, index), Descriptors()
    packs = EncodedPacks(home, manifests, descriptors)
    opened = OpenHome(home, index, Heads(home), manifests, write, descriptors, packs)
    try:
        if write:
            _recover(opened, progress, lost=lost)
        opened.withdraw_changed()
        packs.open(write=write)
    except BaseException:
        index.close()
        raise
    return opened


def adopt(opened: OpenHome, name: str, root: Digest, source: Path | None = None, progress: Progress = ignore) -> bool:
    """Record a version whose files stand there and that the index does not know, by proving every file.

    Returns False when its manifest is not here or none of its files is.
    """
    manifest = opened.manifests.get(root)
    folder = source or opened.home.version(name, root)
    if manifest is None or not folder.is_dir():
        return False
    records = []
    meter = Meter(progress, manifest.size)
    with TwoThreads() as threads:
        for fact in file_facts(manifest, range(len(manifest.files))):
            record = _prove(threads, folder, fact, meter)
            if record is not None:
                records.append(record)
    if not records:
        return False
    opened.index.add(install_row(name, root, manifest, source), records)
    return True


def _prove(threads: TwoThreads, folder: Path, fact: FileFacts, meter: Meter) -> NewFile | None:
    """The record of one file that stands in a version's directory; None when nothing does."""
    try:
        fd = os.open(folder / fact.file.path, READ_FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return fact.record(None)
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size != fact.file.size:
            return fact.record(None)
        proof = prove_file(threads, fd, list(unpack_cut(fact.cut)), meter.advance)
        identity = Identity.of(os.fstat(fd))
        return fact.record(identity if proof.good and identity == Identity.of(facts) else None)
    finally:
        os.close(fd)


def _recover(opened: OpenHome, progress: Progress, *, lost: bool) -> None:
    home = opened.home
    with disk_errors(home.staging):
        for entry in list(home.staging.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                opened.delete_folder(entry)
            else:
                disk.unlink(entry)
        for folder in home.partial.iterdir():
            if folder.is_dir() and not files_below(folder / "tree"):
                # What a crash after the last rename of an install left, or one before the first file was made.
                disk.remove_tree(folder)
    recorded = opened.index.node_roots()
    for root in opened.manifests.roots():
        if root not in recorded:
            opened.manifests.record(root)
    _forget_removed(opened)
    known = {(install.name, install.root) for install in opened.index.installs()}
    for name, root in _version_folders(home):
        if (name, root) not in known and adopt(opened, name, root, progress=progress):
            known.add((name, root))
            head = opened.heads.versions_head(name, root)
            envelope = opened.heads.by_digest(name, root)
            # A crash came between the files and their tag. After a lost index the tags tell the truth as they are.
            if not lost and head is not None and envelope is not None and not opened.heads.pinned(name, root):
                opened.heads.put_tag(envelope, head)
    for name in opened.heads.names():
        for root in opened.heads.versions(name):
            source = opened.heads.source(name, root)
            if source is not None and (name, root) not in known:
                adopt(opened, name, root, source, progress)


def _forget_removed(opened: OpenHome) -> None:
    """Finish removals that a crash cut short."""
    for install in opened.index.installs():
        if opened.is_ghost(install):
            opened.index.remove(install)
            opened.heads.remove_version(install.name, install.root)


def _version_folders(home: Home) -> Iterator[tuple[str, Digest]]:
    """(name, root) of every directory that stands where a version would."""
    for folder, folders, _ in os.walk(home.models):
        versions = [f for f in folders if len(f) == 2 * DIGEST_BYTES and set(f) <= set("0123456789abcdef")]
        folders[:] = [f for f in folders if f not in versions]
        name = Path(folder).relative_to(home.models).as_posix()
        yield from ((name, Digest(bytes.fromhex(version))) for version in sorted(versions))


def _move_aside(index: Path) -> None:
    """Keep a damaged index for whoever wants to look at it; the one before it goes."""
    with disk_errors(index):
        for suffix in ("", "-wal", "-shm", "-journal"):
            beside = index.with_name(index.name + suffix)
            if beside.exists():
                disk.replace(beside, index.with_name(f"{index.name}{suffix}.damaged"))
