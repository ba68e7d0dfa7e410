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
_HALF: Final = ".new"
_OTHERS_WRITE: Final = 0o022
_OTHERS_ANYTHING: Final = 0o077


def write_private(path: Path, data: bytes, *, new: bool = False) -> None:
    """Write ``path`` durably, as a 0600 file. After a power cut it is the old file or the new one.

    Call it in ``alone_in`` of its folder.

    Args:
        path: The file.
        data: What it shall hold.
        new: Whether there is no such file yet, and shall be none either if this fails.

    Raises:
        StoreUnwritableError: the disk refused. What is there is the old file or the new one, whole.
    """
    _remove_halves(path)
    scratch = path.with_name(f".{path.name}.{os.urandom(8).hex()}{_HALF}")
    try:
        try:
            disk.write_new(scratch, data, _FILE_MODE)
            disk.replace(scratch, path)
        except BaseException:
            with suppress(OSError):
                disk.unlink(scratch)
            raise
        _sync_name(path, new=new)
    except OSError as error:
        raise StoreUnwritableError(f"cannot write {path}: {error.strerror or error}") from error


def _sync_name(path: Path, *, new: bool) -> None:
    try:
        disk.sync_folder(path.parent)
    except OSError:
        if new:
            # Whoever asked hears that there is none, and must not find one that the next power cut takes away.
            disk.unlink(path)
        raise


def _remove_halves(path: Path) -> None:
    """Remove what a killed writer of this file left: it holds a secret, or half of one. The folder is held."""
    for half in path.parent.glob(f".{path.name}.*{_HALF}"):
        with suppress(OSError):
            disk.unlink(half)


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


def settle(folder: Path) -> None:
    """Make durable what is read in a folder: whoever wrote it may have been killed, or refused, before it was.

    Raises:
        StoreUnwritableError: the disk refused.
    """
    try:
        disk.sync_folder(folder)
    except OSError as error:
        raise StoreUnwritableError(f"cannot write to {folder}: {error.strerror or error}") from error


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
    disk.make_folder(folder, _FOLDER_MODE, sure=True)
    if stat.S_IMODE(folder.stat().st_mode) & _OTHERS_ANYTHING:
        folder.chmod(_FOLDER_MODE)


def _require_private(path: Path, status: os.stat_result, refused: int) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & refused:
        what = "write" if mode & _OTHERS_WRITE else "read"
        raise StoreError(f"others may {what} {path} (mode {mode:04o})", hint=f"chmod go-rwx {path}")
