"""The durable steps: every call by which bytes, names and their order reach a disk.

What must survive a power cut goes through this file, and through ``store.linux`` for what only Linux has, so that one
place says in which order things are written, and a test can stand in for each call to make it fail. The functions of
one call each do what the system call of that name does; those below them are made of the ones above.

A failed sync is never tried again as if it could then succeed: the kernel reports a lost write once (Rebello et al.,
"Can Applications Recover from fsync Failures?", USENIX ATC 2020).
"""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

Data = bytes | bytearray | memoryview

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_SCRATCH: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW


def write(fd: int, data: Data) -> int:
    """Write some of ``data`` where the file stands; returns how many bytes."""
    return os.write(fd, data)


def pwrite(fd: int, data: Data, offset: int) -> int:
    """Write some of ``data`` at ``offset``; returns how many bytes."""
    return os.pwrite(fd, data, offset)


def sync(fd: int) -> None:
    """Make a file's bytes and facts, or a directory's names, survive a power cut."""
    os.fsync(fd)


def sync_data(fd: int) -> None:
    """Make a file's bytes survive a power cut, and of its facts what reading them needs."""
    os.fdatasync(fd)


def rename(source: Path, target: Path) -> None:
    """Give a file or directory another name, which nothing has."""
    os.rename(source, target)


def replace(source: Path, target: Path) -> None:
    """Give a file another name, in place of what has it."""
    os.replace(source, target)


def link(source: Path, target: Path) -> None:
    """Give a file a second name."""
    os.link(source, target, follow_symlinks=False)


def unlink(path: Path) -> None:
    """Take away one name of a file."""
    os.unlink(path)


def mkdir(path: Path, mode: int = 0o777) -> None:
    """Make a directory."""
    os.mkdir(path, mode)


def rmdir(path: Path) -> None:
    """Take away an empty directory."""
    os.rmdir(path)


# What the steps above make together.


def write_all(fd: int, data: Data) -> None:
    """Write all of ``data`` where the file stands, however many calls that takes."""
    view = memoryview(data)
    while view:
        view = view[write(fd, view) :]


def write_at(fd: int, data: Data, offset: int) -> None:
    """Write all of ``data`` at ``offset``, however many calls that takes."""
    view = memoryview(data)
    while view:
        count = pwrite(fd, view, offset)
        view = view[count:]
        offset += count


class _Through(io.FileIO):
    """An open file whose bytes reach the disk by ``write``."""

    def write(self, data: Any, /) -> int:
        return write(self.fileno(), data)


def create(path: Path, mode: int = 0o644) -> BinaryIO:
    """Make a file that is not there and open it for writing, with a buffer. Nothing of it is durable yet."""
    return io.BufferedRandom(_Through(os.open(path, _NEW, mode), "r+"))


def write_new(path: Path, data: Data, mode: int = 0o644) -> None:
    """Make a small file that is not there, and make its bytes durable. Its name is the folder's to sync."""
    fd = os.open(path, _NEW, mode)
    try:
        write_all(fd, data)
        sync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    fd = os.open(path, _FOLDER)
    try:
        sync(fd)
    finally:
        os.close(fd)


def sync_tree(top: Path) -> None:
    """Make the names in a directory and in all below it survive a power cut."""
    for folder, _, _ in os.walk(top):
        sync_folder(Path(folder))


def sync_all(top: Path) -> None:
    """Make a directory and all below it survive a power cut, bytes and names."""
    for folder, _, names in os.walk(top):
        for name in names:
            fd = os.open(Path(folder) / name, _READ)
            try:
                sync(fd)
            finally:
                os.close(fd)
        sync_folder(Path(folder))


def make_folder(path: Path, mode: int = 0o777, *, sure: bool = False) -> None:
    """Make a directory, of this mode, and what leads to it, each durable in its parent.

    One that is there is taken for durable; if ``sure``, it and its parent are made so again, since whoever made them
    may have been killed before they were.
    """
    if path.is_dir():
        for above in (path.parent, path.parent.parent) if sure else ():
            # Above what is ours there may be directories that we may pass and not read.
            with suppress(PermissionError):
                sync_folder(above)
        return
    make_folder(path.parent, sure=sure)
    try:
        mkdir(path, mode)
    except FileExistsError:
        return
    try:
        sync_folder(path.parent)
    except OSError:
        # The next call would find it there and take it for durable.
        with suppress(OSError):
            rmdir(path)
        raise


def write_durably(path: Path, data: bytes | bytearray, *, mode: int = 0o644) -> None:
    """Put a small file in place: after a power cut it holds what it held before, or ``data``."""
    make_folder(path.parent)
    scratch = path.with_name(f".{path.name}.new")
    fd = os.open(scratch, _SCRATCH, mode)
    try:
        write_all(fd, data)
        sync(fd)
    finally:
        os.close(fd)
    replace(scratch, path)
    sync_folder(path.parent)


def remove_durably(path: Path) -> bool:
    """Remove a file; False when there is none."""
    try:
        unlink(path)
    except FileNotFoundError:
        return False
    sync_folder(path.parent)
    return True


def remove_tree(path: Path) -> None:
    """Remove a directory that nobody reads any more; no fault when there is none."""
    with suppress(FileNotFoundError):
        shutil.rmtree(path)


# What is half done belongs to whoever is at it, and to nobody once that process is gone.


def hold(fd: int) -> bool:
    """Hold an open file or directory until it is closed; False when another process has it, or none can be held."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Remove files and directories of this user that nobody holds. One that cannot be removed stays."""
    for path in paths:
        with suppress(OSError):
            fd = os.open(path, _READ)
            try:
                facts = os.fstat(fd)
                if facts.st_uid == os.geteuid() and hold(fd):
                    remove_tree(path) if stat.S_ISDIR(facts.st_mode) else unlink(path)
            finally:
                os.close(fd)
