"""What the index records of a version, from its manifest; and whether that is still what stands on the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2psync import disk
from p2psync.content import Digest
from p2psync.manifest import File, Manifest
from p2psync.store.home import Identity
from p2psync.store.index import InstallRow, NewFile, pack_cut, pack_runs
from p2psync.store.opened import OpenHome

# Files that are renamed under one hold of the lock.
_BATCH = 64


@dataclass(frozen=True, slots=True)
class FileFacts:
    """One file of a version: its number, what the manifest says, its chunks and their numbers as the index has them."""

    number: int
    file: File
    cut: bytes
    runs: bytes

    def record(self, identity: Identity | None) -> NewFile:
        """The file as proved with ``identity``, or as damaged (None)."""
        file = self.file
        return NewFile(self.number, file.path, file.size, file.sha256, file.external, self.cut, self.runs, identity)


def file_facts(manifest: Manifest, files: Collection[int]) -> list[FileFacts]:
    """The facts of some files of a version, in manifest order."""
    numbers: dict[Digest, int] = {}
    wanted = set(files)
    facts = []
    for number, file in enumerate(manifest.files):
        chunks = [chunk for blob in file.blobs for chunk in blob.chunks.walk(blob.length)]
        own = [numbers.setdefault(digest, len(numbers)) for digest, _ in chunks]
        if number in wanted:
            facts.append(FileFacts(number, file, pack_cut(chunks), pack_runs(own)))
    return facts


def count_chunks(manifest: Manifest) -> int:
    """How many distinct chunks a version has."""
    return len({d for file in manifest.files for blob in file.blobs for d, _ in blob.chunks.walk(blob.length)})


def install_row(name: str, root: Digest, manifest: Manifest, source: Path | None = None) -> InstallRow:
    """A version that is to be recorded; its row id is not known yet."""
    variants = json.dumps({v.name: list(_variant_files(manifest, v.files)) for v in manifest.variants})
    where = os.fspath(source) if source else None
    return InstallRow(0, name, root, where, manifest.size, len(manifest.files), count_chunks(manifest), variants)


def _variant_files(manifest: Manifest, own: Sequence[int]) -> list[int]:
    claimed = {number for variant in manifest.variants for number in variant.files}
    return [n for n in range(len(manifest.files)) if n in own or n not in claimed]


def installed(opened: OpenHome, name: str, root: Digest, files: Collection[int]) -> Path | None:
    """Where a version stands if its manifest and all of ``files`` are there and what was proved; None otherwise."""
    install = opened.index.install(name, root)
    if install is None or opened.manifests.get(root) is None:
        return None
    good = set()
    for file in opened.index.files(install):
        if file.number in files and opened.proved(file):
            if opened.identity_on_disk(file) == file.identity:
                good.add(file.number)
            else:
                opened.withdrawn.add(file.id)
    return opened.folder(install) if good >= set(files) else None


def move_in(opened: OpenHome, staged: Path, target: Path, paths: Sequence[str], *, whole: bool) -> None:
    """Move proved files from a staging directory to where a version stands, durably.

    Args:
        opened: The home.
        staged: The directory they are in.
        target: The directory of the version. Files that stand there under other names stay.
        paths: The files.
        whole: Whether ``staged`` holds nothing else, so that one rename can do where nothing stands yet.
    """
    disk.sync_tree(staged)
    disk.make_folder(target.parent)
    if whole and not target.exists():
        disk.rename(staged, target)
        disk.sync_folder(target.parent)
        return
    for path in paths:
        disk.make_folder((target / path).parent)
    replace_each(opened, staged, target, paths)


def replace_each(opened: OpenHome, staged: Path, target: Path, paths: Sequence[str]) -> None:
    """Rename files over those of the same paths in another directory, durably. The directories are there."""
    for start in range(0, len(paths), _BATCH):
        with opened.changing() as changes:
            for path in paths[start : start + _BATCH]:
                if (target / path).is_dir() and not (target / path).is_symlink():
                    # Somebody put a directory where a file of ours stood, and no rename goes over one.
                    disk.remove_tree(target / path)
                changes.replace(staged / path, target / path)
    for folder in {(target / path).parent for path in paths}:
        disk.sync_folder(folder)


def identities(
    opened: OpenHome, folder: Path, facts: Sequence[FileFacts], proved: Mapping[int, Identity]
) -> list[NewFile]:
    """Records of files that were just moved in; one that is no longer what was proved is recorded as damaged."""
    records = []
    for fact in facts:
        with opened.inodes:
            facts_now = os.lstat(folder / fact.file.path)
            now = Identity.of(facts_now)
            good = now == proved[fact.number]
            if not good and now.same_bytes(proved[fact.number]):
                # Only ctime differs: by our rename, or by a change of ours to an inode that is recorded under
                # another name too. An editor that sets the times back leaves neither.
                good = facts_now.st_nlink == 1 or any(row.identity == now for row in opened.index.holders(fact.cut))
            records.append(fact.record(now if good else None))
    return records
