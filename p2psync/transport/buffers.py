"""Memory that chunks are received into: a few buffers, used again and again.

A fresh buffer faults in every page on its first use, which halves the receiving rate; the one that was
released last is handed out first because it is still in the CPU's cache.
"""

from __future__ import annotations

import asyncio
from collections import deque

from p2psync.limits import CHUNK_BYTES


class _Storage:
    """One block of memory and how many buffers look into it."""

    __slots__ = ("data", "users")

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self.users = 0


class Buffer:
    """A place in a pool's memory. Whoever holds it must release it once."""

    __slots__ = ("_offset", "_pool", "_storage")

    def __init__(self, pool: BufferPool, storage: _Storage, offset: int = 0) -> None:
        storage.users += 1
        self._pool = pool
        self._storage: _Storage | None = storage
        self._offset = offset

    def view(self, length: int) -> memoryview:
        """The first ``length`` bytes, writable. Must not be used after ``release``.

        Raises:
            ValueError: the buffer is shorter, or was released.
        """
        if self._storage is None:
            raise ValueError("the buffer was released")
        if not 0 <= length <= len(self._storage.data) - self._offset:
            raise ValueError(f"a buffer of {len(self._storage.data) - self._offset} bytes has no {length}")
        return memoryview(self._storage.data)[self._offset : self._offset + length]

    def part(self, offset: int) -> Buffer:
        """A second buffer on the same memory, ``offset`` bytes further. Both have to be released."""
        if self._storage is None:
            raise ValueError("the buffer was released")
        return Buffer(self._pool, self._storage, self._offset + offset)

    def release(self) -> None:
        """Give the memory back once its last buffer is released. A second call does nothing."""
        storage, self._storage = self._storage, None
        if storage is not None:
            storage.users -= 1
            if not storage.users:
                self._pool.take_back(storage)

    def abandon(self) -> None:
        """Release while somebody may still write into the memory: the pool makes new memory instead."""
        storage, self._storage = self._storage, None
        if storage is not None:
            self._pool.take_back(_Storage(len(storage.data)))


class BufferPool:
    """``count`` buffers of ``size`` bytes, made when first needed. For one event loop."""

    def __init__(self, count: int, size: int = CHUNK_BYTES) -> None:
        self.size = size
        self._unmade = count
        self._idle: list[_Storage] = []
        self._waiting: deque[asyncio.Future[_Storage]] = deque()

    @property
    def free(self) -> int:
        """How many buffers can be acquired without waiting."""
        return self._unmade + len(self._idle)

    def try_acquire(self) -> Buffer | None:
        """A buffer, or None when all are held or somebody is waiting for one."""
        if self._waiting or not self.free:
            return None
        return Buffer(self, self._take())

    async def acquire(self) -> Buffer:
        """A buffer; waits until one is free, in the order of the calls."""
        buffer = self.try_acquire()
        if buffer is not None:
            return buffer
        turn: asyncio.Future[_Storage] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return Buffer(self, await turn)
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.take_back(turn.result())  # It was handed over in the same moment: pass it on.
            raise

    def take_back(self, storage: _Storage) -> None:
        """Hand memory to the one who waits longest, or keep it. Called by ``Buffer`` alone."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(storage)
                return
        self._idle.append(storage)

    def _take(self) -> _Storage:
        if self._idle:
            return self._idle.pop()
        self._unmade -= 1
        return _Storage(self.size)
