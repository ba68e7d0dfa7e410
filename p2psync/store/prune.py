"""Remove tags and versions, and only what nothing that stays needs.

``remove`` takes a tag away, and the version's files with it when no other tag names it and it is not pinned.
``prune`` removes the versions that tags have left behind, interrupted pulls that are old or of no use, and nodes and
heads of versions that are gone. Files are removed in an order that a crash cannot turn against anybody: the directory
leaves ``models`` by one rename before a file of it goes.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from p2psync import disk
from p2psync.content import Digest
from p2psync.errors import ModelNotFoundError, P2PSyncError, StoreInUseError
from p2psync.limits import PARTIAL_KEEP_S
from p2psync.manifest import Reference, chunk_table, peek_head
from p2psync.store.home import disk_errors, read_file
from p2psync.store.index import InstallRow
from p2psync.store.journal import journalled
from p2psync.store.opened import OpenHome, files_below
from p2psync.store.records import installed
from p2psync.store.values import RemovalReport, Removed, Unfinished

_BLOCK_BYTES = 512


@dataclass
class _Plan:
    """What is to go."""

    tags: list[tuple[str, str]] = field(default_factory=list)
    installs: list[InstallRow] = field(default_factory=list)
    partials: list[Path] = field(default_factory=list)
    heads: list[tuple[str, Digest]] = field(default_factory=list)
    manifests: list[Digest] = field(default_factory=list)


def remove(opened: OpenHome, reference: Reference, *, dry_run: bool) -> RemovalReport:
    """Take a tag, or every tag of a digest, away. See ``Store.remove``."""
    with opened.own:
        plan = _Plan()
        tags = opened.heads.tags(reference.name)
        if reference.digest is None:
            gone = {reference.tag: tags[reference.tag].root} if reference.tag in tags else {}
            root = gone.get(reference.tag)
        else:
            root = reference.digest
            gone = {tag: head.root for tag, head in tags.items() if head.root == root}
        plan.tags = [(reference.name, tag) for tag in gone]
        if root is not None:
            stays = reference.digest is None and (
                opened.heads.pinned(reference.name, root)
                or any(head.root == root for tag, head in tags.items() if tag not in gone)
            )
            if not stays:
                _plan_version(opened, plan, reference.name, root)
        if not (plan.tags or plan.installs or plan.partials):
            raise ModelNotFoundError(f"{reference} is not in this home", hint="p2psync ls")
        return _carry_out(opened, plan, dry_run=dry_run)


def prune(opened: OpenHome, *, dry_run: bool) -> RemovalReport:
    """Remove what no tag and no pin keeps. See ``Store.prune``."""
    with opened.own:
        plan = _Plan()
        kept = set(opened.busy)
        for install in opened.index.installs():
            if opened.heads.kept(install.name, install.root) or install.root in opened.busy:
                kept.add(install.root)
            else:
                plan.installs.append(install)
        for folder in _partial_folders(opened):
            root = Digest(bytes.fromhex(folder.name))
            if root in opened.busy:
                continue
            if _is_stale(opened, folder, root):
                plan.partials.append(folder)
            else:
                kept.add(root)
        for name in opened.heads.names():
            for root in opened.heads.versions(name):
                if root not in kept and not opened.heads.kept(name, root):
                    plan.heads.append((name, root))
        plan.manifests = [root for root in opened.manifests.roots() if root not in kept]
        return _carry_out(opened, plan, dry_run=dry_run)


def unfinished(opened: OpenHome) -> list[Unfinished]:
    """The pulls that did not end, running ones too."""
    found = []
    for folder in _partial_folders(opened):
        root = Digest(bytes.fromhex(folder.name))
        with suppress(FileNotFoundError):
            # A file that goes while it is looked at belongs to a pull that ends just now.
            facts = {os.path.relpath(path, folder / "tree"): os.lstat(path) for path in files_below(folder / "tree")}
            size, blocks = sum(f.st_size for f in facts.values()), sum(f.st_blocks for f in facts.values())
            done = _done(opened, folder, root, facts)
            found.append(Unfinished(root, _name_of(folder), done, size, blocks * _BLOCK_BYTES))
    return found


def _done(opened: OpenHome, folder: Path, root: Digest, facts: Mapping[str, os.stat_result]) -> int:
    """Bytes of an unfinished version that were proved and synced: linked files, and chunks that the journal names.

    Blocks say less: a file system gives some to a hole that is only read.
    """
    linked = {path for path, found in facts.items() if found.st_nlink > 1}
    done = sum(facts[path].st_size for path in linked)
    manifest = opened.manifests.get(root)
    chunks = journalled(folder / "journal", root)
    if manifest is None or not chunks:
        return done
    written = {number for number, file in enumerate(manifest.files) if file.path in facts.keys() - linked}
    for chunk in chunk_table(manifest):
        if chunk.index in chunks:
            done += chunk.length * sum(place.file in written for place in chunk.places)
    return done


def _plan_version(opened: OpenHome, plan: _Plan, name: str, root: Digest) -> None:
    if root in opened.busy:
        raise StoreInUseError(f"{name}@{root} is being brought here right now", hint="wait for it, or stop that pull")
    install = opened.index.install(name, root)
    if install is not None:
        plan.installs.append(install)
    plan.partials = [f for f in _partial_folders(opened) if f.name == root.hex() and _name_of(f) == name]
    plan.heads.append((name, root))
    others = [i for i in opened.index.installs(root=root) if i.name != name]
    if not others:
        plan.manifests.append(root)


def _is_stale(opened: OpenHome, folder: Path, root: Digest) -> bool:
    """Whether an interrupted pull is old, or what it was for is here."""
    touched = max((os.lstat(path).st_mtime for path in folder.iterdir()), default=0.0)
    if time.time() - touched > PARTIAL_KEEP_S:
        return True
    return any(
        installed(opened, install.name, root, range(install.files)) is not None
        for install in opened.index.installs(root=root)
    )


def _carry_out(opened: OpenHome, plan: _Plan, *, dry_run: bool) -> RemovalReport:
    removed = [Removed("tag", f"{name}:{tag}", 0) for name, tag in plan.tags]
    every: list[Path] = []
    nodes = {root: opened.home.nodes(root) for root in plan.manifests if opened.home.nodes(root).exists()}

    def note(kind: str, what: str, root: Digest, folder: Path | None) -> None:
        paths = files_below(folder) if folder is not None else []
        if root in nodes:
            paths += [nodes.pop(root), *opened.packs.files(root)]
        removed.append(Removed(kind, what, _freed(paths)))
        every.extend(paths)

    for install in plan.installs:
        note("version", f"{install.name}@{install.root}", install.root, _own_folder(opened, install))
    for folder in plan.partials:
        root = Digest(bytes.fromhex(folder.name))
        note("partial", f"{_name_of(folder) or 'unknown'}@{root}", root, folder)
    for root in tuple(nodes):
        note("manifest", str(root), root, None)
    freed = _freed(every)
    if not dry_run:
        with disk_errors(opened.home.path):
            _delete(opened, plan)
    return RemovalReport(tuple(removed), freed, dry_run)


def _own_folder(opened: OpenHome, install: InstallRow) -> Path | None:
    """Where a version stands, if that is ours to remove."""
    return opened.folder(install) if install.source is None else None


def _delete(opened: OpenHome, plan: _Plan) -> None:
    for name, tag in plan.tags:
        opened.heads.remove_tag(name, tag)
    for install in plan.installs:
        _delete_version(opened, install)
    for folder in plan.partials:
        opened.delete_folder(folder)
    for name, root in plan.heads:
        opened.heads.remove_version(name, root)
    for root in plan.manifests:
        opened.packs.remove(root)
        opened.manifests.remove(root)
    opened.index.checkpoint()


def _delete_version(opened: OpenHome, install: InstallRow) -> None:
    files = opened.index.files(install)
    folder = _own_folder(opened, install)
    trash = None
    if folder is not None and folder.exists():
        trash = Path(tempfile.mkdtemp(dir=opened.home.staging))
        # What is moved into it must not be lost with it: until the index is told, it is the version.
        disk.sync_folder(opened.home.staging)
        disk.rename(folder, trash / folder.name)
        disk.sync_folder(folder.parent)
    opened.index.remove(install)
    opened.heads.remove_version(install.name, install.root)
    for file in files:
        opened.withdrawn.discard(file.id)
        opened.descriptors.drop((file.id, file.identity.dev, file.identity.ino))
    if folder is not None and trash is not None:
        opened.delete_folder(trash)
        with suppress(OSError):
            # Directories of the name that are empty now; the first that is not ends it.
            while folder.parent != opened.home.models:
                folder = folder.parent
                disk.rmdir(folder)


def _freed(paths: Iterable[Path]) -> int:
    """Bytes of blocks that go when all of these names go: an inode that has another name stays."""
    names: Counter[tuple[int, int]] = Counter()
    facts = {}
    for path in paths:
        with suppress(FileNotFoundError):
            found = os.lstat(path)
            names[found.st_dev, found.st_ino] += 1
            facts[found.st_dev, found.st_ino] = found
    return sum(f.st_blocks * _BLOCK_BYTES for inode, f in facts.items() if names[inode] >= f.st_nlink)


def _partial_folders(opened: OpenHome) -> Iterator[Path]:
    try:
        folders = sorted(opened.home.partial.iterdir())
    except FileNotFoundError:
        return
    for folder in folders:
        if len(folder.name) == 64 and set(folder.name) <= set("0123456789abcdef") and folder.is_dir():
            yield folder


def _name_of(folder: Path) -> str:
    """For which name a pull into ``folder`` was; empty when it does not say."""
    try:
        return peek_head(read_file(folder / "head.json") or b"").name
    except P2PSyncError:
        return ""
