"""Write the files of a version to a directory of the user: shared blocks or a copy, or read-only hard links.

All files are staged beside their goal first and then renamed, so a full disk or a crash leaves what was there. The
staging directory is locked while its export runs: one that nobody locks is what a killed export left, and the next
export to the same place removes it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from p2psync import disk
from p2psync.content import Digest
from p2psync.errors import DamagedError, ModelNotFoundError, StoreError, UnsafePathError, UsageError
from p2psync.store import linux
from p2psync.store.home import disk_errors, free_bytes, full_error
from p2psync.store.index import FileRow
from p2psync.store.opened import OpenHome
from p2psync.store.records import replace_each

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_PREFIX = ".p2psync-export-"
# Between making its staging directory and locking it an export takes milliseconds; younger ones are left alone.
_ABANDONED_S = 60.0


def export(opened: OpenHome, name: str, root: Digest, files: Collection[int], to: Path, *, link: bool) -> None:
    """Write files of an installed version to ``to``. See ``Store.export``."""
    target = Path(os.path.abspath(to))
    home = opened.home.path.resolve()
    if target.resolve() == home or home in target.resolve().parents:
        raise UsageError(f"{to} is inside the home {home}", hint="export to a directory elsewhere")
    rows = _rows(opened, name, root, files)
    with disk_errors(target):
        existed = target.exists()
        if existed and not target.is_dir():
            raise UsageError(f"{to} is no directory")
        _refuse_symlinks(target, [row.path for row in rows])
        beside = target if existed else target.parent
        disk.make_folder(beside)
        _clean_abandoned(opened, beside)
        staging = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=beside))
    lock_fd = os.open(staging, _FOLDER_FLAGS)
    try:
        with suppress(OSError):
            # Where directories cannot be locked, what a killed export leaves stays.
            linux.try_lock(lock_fd)
        with disk_errors(target, needed_bytes=sum(row.size for row in rows)):
            _require_room(opened, rows, staging, link=link)
            tree = staging / "tree"
            disk.mkdir(tree, 0o755)
            for row in rows:
                _put(opened, row, tree, target, link=link)
            disk.sync_tree(tree)
            if existed:
                _replace_each(opened, tree, target, [row.path for row in rows])
            else:
                disk.rename(tree, target)
                disk.sync_folder(target.parent)
    finally:
        _clean(opened, staging)
        os.close(lock_fd)


def _clean_abandoned(opened: OpenHome, beside: Path) -> None:
    """Remove what killed exports of this user left in a directory; never what a running one uses."""
    for entry in beside.glob(f"{_PREFIX}*"):
        try:
            fd = os.open(entry, _FOLDER_FLAGS)
        except OSError:
            continue
        try:
            facts = os.fstat(fd)
            old = time.time() - facts.st_mtime > _ABANDONED_S
            if old and facts.st_uid == os.geteuid() and linux.try_lock(fd):
                _clean(opened, entry)
        except OSError:
            continue  # This file system cannot lock directories, so nobody can tell.
        finally:
            os.close(fd)


def _rows(opened: OpenHome, name: str, root: Digest, files: Collection[int]) -> list[FileRow]:
    install = opened.index.install(name, root)
    if install is None:
        raise ModelNotFoundError(f"{name}@{root} is not in this home", hint="p2psync ls")
    rows = [row for row in opened.index.files(install) if row.number in files]
    if len(rows) != len(set(files)):
        raise ModelNotFoundError(f"{len(set(files)) - len(rows)} files of {name}@{root} are not in this home")
    return rows


def _refuse_symlinks(target: Path, paths: list[str]) -> None:
    """A directory below the target that is a link would lead the files elsewhere."""
    for path in paths:
        for parent in Path(path).parents:
            if (target / parent).is_symlink() and parent != Path():
                raise UnsafePathError(f"{target / parent} is a symbolic link; files are not exported through it")


def _require_room(opened: OpenHome, rows: list[FileRow], staging: Path, *, link: bool) -> None:
    """Say how much is missing before the first byte, where blocks cannot be shared."""
    copied = [row for row in rows if row.external or not link]
    if not copied or _shares_blocks(opened, copied[0], staging):
        return
    needed = sum(row.size for row in copied)
    if needed > free_bytes(staging):
        raise full_error(staging, needed)


def _shares_blocks(opened: OpenHome, row: FileRow, staging: Path) -> bool:
    kept = opened.borrow(row)
    if kept is None:
        return False
    probe = staging / "probe"
    fd = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        return linux.reflink(kept.fd, fd)
    finally:
        os.close(fd)
        disk.unlink(probe)
        opened.descriptors.release(kept)


def _put(opened: OpenHome, row: FileRow, tree: Path, goal: Path, *, link: bool) -> None:
    """Stage one file in ``tree``; ``goal`` is where it will be, for messages."""
    staged = tree / row.path
    disk.make_folder(staged.parent)
    kept = opened.borrow(row)
    if kept is None:
        raise DamagedError(
            f"{row.path} of {row.install.name}@{row.install.root} changed since it was proved",
            hint=f"p2psync verify {row.install.name}@{row.install.root} --repair --from URL",
        )
    try:
        if link and not row.external and row.install.source is None:
            _link(opened, row, kept.fd, staged, goal)
        else:
            _copy(row, kept.fd, staged)
        if not opened.still(row, kept.fd):
            raise DamagedError(f"{row.path} changed while it was exported; nothing was written to the target")
    finally:
        opened.descriptors.release(kept)


def _link(opened: OpenHome, row: FileRow, fd: int, staged: Path, goal: Path) -> None:
    try:
        linked = opened.link(row, fd, staged)
    except OSError as error:
        raise StoreError(
            f"{goal / row.path} cannot be a hard link to the store: {error.strerror}", hint="leave out --link to copy"
        ) from error
    if linked is None:
        raise DamagedError(f"{row.path} changed while it was exported; nothing was written to the target")


def _copy(row: FileRow, source_fd: int, target: Path) -> None:
    fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        if not linux.reflink(source_fd, fd):
            linux.reserve(fd, row.size)
            if linux.copy_range(source_fd, 0, fd, 0, row.size) != row.size:
                raise DamagedError(f"{row.path} is shorter than when it was proved")
        disk.sync(fd)
    finally:
        os.close(fd)


def _replace_each(opened: OpenHome, tree: Path, target: Path, paths: list[str]) -> None:
    for path in paths:
        goal = target / path
        if goal.is_dir() and not goal.is_symlink():
            raise UsageError(f"{goal} is a directory where a file must go")
        disk.make_folder(goal.parent)
    replace_each(opened, tree, target, paths)


def _clean(opened: OpenHome, staging: Path) -> None:
    """Remove what is left of the staging directory; links in it are names of proved files."""
    with disk_errors(staging):
        opened.delete_folder(staging)
