"""The durable steps: every call by which bytes, names and their order reach a disk.

What must survive a power cut goes through this file, and through ``store.linux`` for what only Linux has, so that one
place says in which order things are written, and a test can stand in for each call to make it fail. The functions of
one call each do what the system call of that name does; those below them are made of the ones above.

A failed sync is never tried again as if it could then succeed: the kernel reports a lost write once (Rebello et al.,
"Can Applications Recover from fsync Failures?", USENIX ATC 2020).
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

Data = bytes | bytearray | memoryview

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
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


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Make a directory, of this mode, and what leads to it, each durable in its parent."""
    if path.is_dir():
        return
    make_folder(path.parent)
    try:
        mkdir(path, mode)
    except FileExistsError:
        return
    sync_folder(path.parent)


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
