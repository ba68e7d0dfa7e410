"""Calls that only Linux has, so that another system is one file away.

Every function says what it does when the file system below cannot: nobody above asks which one it is.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator

from p2psync import disk

# <linux/fs.h>; the fcntl module has no name for it.
_FICLONE = 0x40049409
_CANNOT_SHARE = frozenset({errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EPERM})
_COPY_BYTES = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)


def give_back_memory() -> None:
    """Return to the system what was freed and is only kept by the allocator; musl and others keep nothing to speak of.

    Each thread that works for a while may leave glibc's allocator with an arena of 8 MiB and more.
    """
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


def try_lock(fd: int) -> bool:
    """Take the exclusive lock of an open file until it is closed; False when another process has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def reflink(source_fd: int, target_fd: int) -> bool:
    """Make the empty target share all blocks of the source. False where the file system cannot."""
    try:
        fcntl.ioctl(target_fd, _FICLONE, source_fd)
    except OSError as error:
        if error.errno in _CANNOT_SHARE:
            return False
        raise
    return True


def copy_range(source_fd: int, source_offset: int, target_fd: int, target_offset: int, length: int) -> int:
    """Copy bytes between files without passing through this process, sharing blocks where they are aligned.

    Returns how many bytes were copied: fewer than ``length`` only where the source ends.
    """
    done = 0
    while done < length:
        try:
            count = os.copy_file_range(source_fd, target_fd, length - done, source_offset + done, target_offset + done)
        except OSError as error:
            if error.errno not in _CANNOT_SHARE:
                raise
            count = _copy_through(source_fd, source_offset + done, target_fd, target_offset + done, length - done)
        if count == 0:
            break
        done += count
    return done


def _copy_through(source_fd: int, source_offset: int, target_fd: int, target_offset: int, length: int) -> int:
    data = os.pread(source_fd, min(length, _COPY_BYTES), source_offset)
    disk.write_at(target_fd, data, target_offset)
    return len(data)


def reserve(fd: int, size: int) -> None:
    """Give a file its final size, and its blocks where the file system can promise them before they are written.

    glibc's posix_fallocate would write zeros where the file system cannot, which then look like data.
    """
    while True:
        if size == 0 or _libc.fallocate(fd, 0, ctypes.c_longlong(0), ctypes.c_longlong(size)) == 0:
            break
        code = ctypes.get_errno()
        if code in (errno.EOPNOTSUPP, errno.ENOSYS):
            break
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    os.ftruncate(fd, size)


def written_extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The ranges (start, end) of a file in which something was written. All of it where nobody keeps track."""
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno == errno.EINVAL:
                yield position, size
                return
            raise
        yield start, min(end, size)
        position = end
