"""Files that only their owner may touch: written whole or not at all, read only while nobody else can write them."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from p2psync import disk
from p2psync.errors import StoreError, StoreUnwritableError
from p2psync.limits import TRUST_FILE_BYTES_MAX

_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_OTHERS_WRITE: Final = 0o022
_OTHERS_ANYTHING: Final = 0o077


def write_private(path: Path, data: bytes) -> None:
    """Write ``path`` durably, as a 0600 file. After a power cut it is the old file or the new one.

    Call it in ``alone_in`` of its folder.

    Raises:
        StoreUnwritableError: the disk refused. Nothing changed.
    """
    scratch = path.with_name(f".{path.name}.{os.urandom(8).hex()}.new")
    try:
        try:
            _write_new(scratch, data)
            disk.replace(scratch, path)
        finally:
            with suppress(FileNotFoundError):
                disk.unlink(scratch)
        disk.sync_folder(path.parent)
    except OSError as error:
        raise StoreUnwritableError(f"cannot write {path}: {error.strerror or error}") from error


def read_private(path: Path, *, secret: bool) -> bytes | None:
    """Read a file that its owner alone controls; None where there is none.

    Args:
        path: The file.
        secret: Whether others must not even read it.

    Raises:
        StoreError: it cannot be read, is larger than such a file can be, or others may write (or read) it.
    """
    try:
        # Without O_NONBLOCK, a FIFO in its place would hold us here.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise StoreError(f"{path} is no plain file")
            _require_private(path.parent, os.stat(path.parent), _OTHERS_WRITE)
            _require_private(path, status, _OTHERS_ANYTHING if secret else _OTHERS_WRITE)
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(TRUST_FILE_BYTES_MAX + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > TRUST_FILE_BYTES_MAX:
        raise StoreError(f"{path} has more than {TRUST_FILE_BYTES_MAX} bytes")
    return data


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold ``folder`` against every other thread and process that changes its files. Makes it, 0700, if need be.

    Raises:
        StoreUnwritableError: the folder cannot be made or held.
    """
    try:
        _make_folder(folder)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreUnwritableError(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        # Closing the descriptor lets go of the lock, however this ends.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
    for path in made:
        disk.sync_folder(path.parent)
    if stat.S_IMODE(folder.stat().st_mode) & _OTHERS_ANYTHING:
        folder.chmod(_FOLDER_MODE)


def _write_new(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, _FILE_MODE)
    try:
        disk.write_all(fd, data)
        disk.sync(fd)
    finally:
        os.close(fd)


def _require_private(path: Path, status: os.stat_result, refused: int) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & refused:
        what = "write" if mode & _OTHERS_WRITE else "read"
        raise StoreError(f"others may {what} {path} (mode {mode:04o})", hint=f"chmod go-rwx {path}")
