"""Bytes of files to sockets: by sendfile, and never by a disk read in the event loop.

A page that is not in the page cache would make sendfile wait for the disk and with it every other connection, so a
range is probed first (reads that refuse to wait) and read ahead in a thread where it is cold.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from p2psync.limits import COLD_READ_THREADS, KIB, MIB
from p2psync.transport.readers import ReaderWatch

_T = TypeVar("_T")
# One byte is probed in each of these: the page cache is filled in larger strides than it is emptied.
_PROBE_STRIDE_BYTES: Final = 32 * KIB
# Slices of a body under an upload limit.
_SLICE_BYTES_MIN: Final = 4 * KIB
_SLICE_WAIT_MAX_S: Final = 0.25
# The end of a chunk that is sent last, by an ordinary write.
_HELD_BACK_BYTES: Final = KIB
_READ_BYTES: Final = 256 * KIB


class Located(Protocol):
    """Where a chunk's bytes stand: a kept file descriptor, held until ``release``."""

    @property
    def fd(self) -> int:
        """Open for reading."""

    @property
    def offset(self) -> int:
        """In bytes."""

    @property
    def length(self) -> int:
        """In bytes."""

    def intact(self) -> bool:
        """True while the file is still the one that was proved."""

    def release(self) -> None:
        """Let the descriptor be closed."""


class DiskThreads:
    """Threads of their own for whatever may wait for a disk."""

    def __init__(self, threads: int = COLD_READ_THREADS) -> None:
        self._threads = ThreadPoolExecutor(threads, "p2psync-disk")
        self._nowait = getattr(os, "RWF_NOWAIT", 0)

    async def run(self, call: Callable[[], _T]) -> _T:
        """The result of ``call``, run in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def warm(self, located: Located) -> None:
        """Return when the bytes are in the page cache.

        Raises:
            OSError: the disk cannot read them, or the file ends before them.
        """
        if not self._resident(located):
            await self.run(lambda: _read_through(located.fd, located.offset, located.length))

    def _resident(self, located: Located) -> bool:
        """True when all of the bytes seem to be in the page cache. About 20 microseconds for a chunk of 1 MiB."""
        if not self._nowait:
            return False
        probe = [bytearray(1)]
        last = located.offset + located.length - 1
        try:
            for place in range(located.offset, last, _PROBE_STRIDE_BYTES):
                os.preadv(located.fd, probe, place, self._nowait)
            return os.preadv(located.fd, probe, last, self._nowait) == 1
        except OSError as error:
            # EOPNOTSUPP: this file system cannot refuse to wait, so a thread has to find out.
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return False
            raise

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _read_through(handle: int, offset: int, length: int) -> None:
    scratch = memoryview(bytearray(min(length, _READ_BYTES)))
    end = offset + length
    while offset < end:
        count = os.preadv(handle, [scratch[: end - offset]], offset)
        if not count:
            raise OSError(errno.ENODATA, "the file ends within a chunk")
        offset += count


def read_exactly(located: Located) -> bytes:
    """All bytes of a chunk. May wait for the disk.

    Raises:
        OSError: the disk cannot read them, or the file ends before them.
    """
    data = os.pread(located.fd, located.length, located.offset)
    if len(data) != located.length:
        raise OSError(errno.ENODATA, "the file ends within a chunk")
    return data


@dataclass(frozen=True, slots=True)
class _Handle:
    """What ``loop.sendfile`` needs of a file."""

    fd: int

    def fileno(self) -> int:
        return self.fd


async def send_file(transport: asyncio.Transport, fd: int, offset: int, length: int) -> None:
    """Send bytes of a file behind what the transport has been given.

    Raises:
        OSError: the connection broke, the disk failed, or the file ended. The transport must be aborted.
    """
    sent = 0
    # Most of a chunk fits the socket's buffer: one call, without taking the transport off the event loop.
    if length and not transport.get_write_buffer_size() and not transport.is_closing():
        try:
            sent = os.sendfile(transport.get_extra_info("socket").fileno(), fd, offset, length)
        except (BlockingIOError, InterruptedError):
            sent = 0
    if sent == length:
        return
    try:
        sent += await asyncio.get_running_loop().sendfile(
            transport,
            _Handle(fd),  # type: ignore[arg-type]
            offset + sent,
            length - sent,
            fallback=False,
        )
    except (RuntimeError, asyncio.SendfileNotAvailableError) as error:
        raise ConnectionResetError("the connection is closing, or the disk failed") from error
    if sent != length:
        raise OSError(errno.ENODATA, "the file ends within a chunk")


class Sender:
    """Sends bodies: at the pace of the upload limit, watched for slow readers, counted."""

    def __init__(
        self,
        watch: ReaderWatch,
        pace: Callable[[str, int], float] | None,
        on_sent: Callable[[str, int], None] | None,
    ) -> None:
        self._watch = watch
        self._pace = pace
        self._on_sent = on_sent
        self._slice_bytes = _SLICE_BYTES_MIN

    async def file(self, transport: asyncio.Transport, located: Located, first: int, length: int) -> None:
        """Send ``length`` bytes of a chunk, from its byte ``first`` on, by sendfile.

        The last bytes are held back until the file's identity was compared again: bytes that changed while
        they were sent never make a whole answer.

        Raises:
            OSError: it could not be sent in full, or the reader was too slow. The transport must be aborted.
        """
        place, end = first, first + length
        while place < end:
            count = await self._turn(transport, end - place)
            async with self._watch.sending(transport, count):
                held = min(count, _HELD_BACK_BYTES) if place + count == end else 0
                await send_file(transport, located.fd, located.offset + place, count - held)
                if held:
                    transport.write(_last(located, end - held, held))
            place += count
        self._count(transport, length)

    async def data(
        self, transport: asyncio.Transport, data: bytes, write: Callable[[memoryview], Awaitable[None]]
    ) -> None:
        """Send bytes by ``write``, which waits while the transport's buffer is full.

        Raises:
            OSError: as ``file``.
        """
        view = memoryview(data)
        place = 0
        while place < len(data):
            count = await self._turn(transport, len(data) - place)
            async with self._watch.sending(transport, count):
                await write(view[place : place + count])
            place += count
        self._count(transport, len(data))

    async def _turn(self, transport: asyncio.Transport, left: int) -> int:
        """How many of ``left`` bytes to send now, after the wait that the upload limit asks for."""
        if self._pace is None:
            return left
        count = min(self._slice_bytes, left)
        wait_s = self._pace(address_of(transport), count)
        if wait_s < 0:  # Nothing is limited now.
            return left
        # Slices that wait long would look like silence to the reader; slices that never wait cost time.
        if wait_s > _SLICE_WAIT_MAX_S:
            self._slice_bytes = max(self._slice_bytes // 2, _SLICE_BYTES_MIN)
        elif not wait_s:
            self._slice_bytes = min(self._slice_bytes * 2, MIB)
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        return count

    def _count(self, transport: asyncio.Transport, length: int) -> None:
        if self._on_sent is not None:
            self._on_sent(address_of(transport), length)


def _last(located: Located, place: int, count: int) -> bytes:
    """Bytes of a chunk from ``place`` on, if its file is still the one that was proved."""
    data = os.pread(located.fd, count, located.offset + place)
    if len(data) != count or not located.intact():
        raise OSError(errno.ESTALE, "the file changed while it was sent")
    return data


def address_of(transport: asyncio.BaseTransport) -> str:
    """The IP address of the other side, without port and scope; IPv4 in IPv6 as IPv4."""
    peer = transport.get_extra_info("peername")
    host = str(peer[0]) if isinstance(peer, tuple) and peer else ""
    return host.partition("%")[0].removeprefix("::ffff:")
