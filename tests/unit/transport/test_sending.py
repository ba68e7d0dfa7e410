"""Cold pages are read in a thread, warm ones are not read at all."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from p2psync.limits import CHUNK_BYTES
from p2psync.transport.readers import _acknowledged
from p2psync.transport.sending import DiskThreads, read_exactly, send_file
from tests.library import FakeLocated, identity_of

T = TypeVar("T")


class Watched(DiskThreads):
    """Remembers whether a thread was needed."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    async def run(self, call: Callable[[], T]) -> T:
        self.runs += 1
        return await super().run(call)


@pytest.fixture
def located(tmp_path: Path) -> Iterator[FakeLocated]:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(4 * CHUNK_BYTES))
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    yield FakeLocated(fd, 1000, CHUNK_BYTES, identity_of(fd), lambda: None)
    os.close(fd)


async def test_cold_pages_are_read_in_a_thread(located: FakeLocated) -> None:
    """A range that is not in the page cache is read ahead elsewhere; afterwards it is warm."""
    threads = Watched()
    os.posix_fadvise(located.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    if threads._resident(located):
        pytest.skip("this file system keeps its pages")
    await threads.warm(located)
    assert threads.runs == 1
    await threads.warm(located)
    assert threads.runs == 1
    threads.close()


async def test_without_the_probe_everything_is_read_in_a_thread(located: FakeLocated) -> None:
    """Where the system cannot say whether a read would wait, a thread finds out."""
    threads = Watched()
    threads._nowait = 0
    await threads.warm(located)
    assert threads.runs == 1
    threads.close()


async def test_file_that_ends_early_is_an_error(located: FakeLocated) -> None:
    """A file that has lost its end is not read for ever."""
    threads = Watched()
    located.offset = 4 * CHUNK_BYTES - 10
    with pytest.raises(OSError, match="ends within"):
        await threads.warm(located)
    threads.close()


async def test_bytes_that_are_not_there_are_not_sent(located: FakeLocated) -> None:
    """Where a file lost its end, what is read in one go and what is sent both stop there, with an error."""
    loop, (here, there) = asyncio.get_running_loop(), socket.socketpair()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=here)
    try:
        there.setblocking(False)
        start = 4 * CHUNK_BYTES - 10
        located.offset, located.length = start, 10
        data = read_exactly(located)
        await send_file(transport, located.fd, start, 10)
        assert await loop.sock_recv(there, 100) == data
        located.length = 11
        with pytest.raises(OSError, match="ends within a chunk"):
            read_exactly(located)
        with pytest.raises(OSError, match="ends within a chunk"):
            await send_file(transport, located.fd, start, 11)
    finally:
        transport.abort()
        there.close()
        await asyncio.sleep(0)


def test_without_tcp_info_every_reader_is_fast_enough() -> None:
    """On a socket that does not count acknowledged bytes only the total deadline cuts a reader off."""
    here, there = socket.socketpair()
    first = _acknowledged(here)
    assert _acknowledged(here) >= first > 1 << 20
    here.close()
    there.close()
