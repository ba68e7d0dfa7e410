"""How a chunk that arrives gets onto the disk: proved, decoded where it is encoded, and written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from p2psync.content import Digest
from p2psync.errors import DigestMismatchError
from p2psync.limits import DECODE_THREADS
from p2psync.manifest import Chunk
from p2psync.node.decoding import Decoder
from p2psync.store import Incoming

T = TypeVar("T")

# Proving and writing a chunk inside the event loop takes 0.4 ms and half the CPU of handing it to a thread (docs/adr).
# A disk that cannot keep up makes a write wait, though; then writes go to a thread until it has recovered.
WRITE_SLOW_S: Final = 0.05
WRITE_SLOW_FOR_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Landed:
    """What came of a chunk: bytes on disk, and of an encoded one the chunk it ``made`` and whether it was ``kept``."""

    length: int
    made: int | None = None
    kept: bool = True


class Landing:
    """Takes chunks into one ``Incoming``. ``decoder`` None takes encoded chunks for chunks."""

    def __init__(self, incoming: Incoming, decoder: Decoder | None) -> None:
        self._incoming = incoming
        self._decoder = decoder
        self._slow_until_s = 0.0
        self._writers = ThreadPoolExecutor(1, thread_name_prefix="p2psync-write")
        self._decoders = ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="p2psync-decode")

    def close(self) -> None:
        """End the threads; what they do is finished first."""
        self._writers.shutdown(wait=True)
        self._decoders.shutdown(wait=True)

    async def take(self, url: str, chunk: Chunk, view: memoryview) -> Landed:
        """Prove one chunk and write it, or what it stands for, to every place where that stands.

        Raises:
            DigestMismatchError: it does not prove. Nothing was written.
            UndecodableError: it is what was signed and cannot be decoded. Nothing was written.
        """
        began_s = time.monotonic()
        if self._decoder is not None and (raw := self._decoder.chunk_of(chunk.index)) is not None:
            _prove(url, chunk, view)
            kept = await _in_thread(self._decoders, self._decoder.write, chunk.index, view, self._incoming)
            return Landed(raw.length, raw.index, kept)
        if self._incoming.holds(chunk.index):
            # Another request brought it, and may have been stopped between its write and its report.
            _prove(url, chunk, view)
        elif began_s >= self._slow_until_s:
            self._prove_and_write(url, chunk, view)
        else:
            await _in_thread(self._writers, self._prove_and_write, url, chunk, view)
        now_s = time.monotonic()
        if now_s - began_s > WRITE_SLOW_S:
            self._slow_until_s = now_s + WRITE_SLOW_FOR_S
        return Landed(chunk.length)

    def _prove_and_write(self, url: str, chunk: Chunk, view: memoryview) -> None:
        _prove(url, chunk, view)
        self._incoming.write(chunk, view)


def _prove(url: str, chunk: Chunk, view: memoryview) -> None:
    if Digest.of(view) != chunk.digest:
        raise DigestMismatchError(f"{url} sent other bytes than chunk {chunk.digest}")


async def _in_thread(threads: ThreadPoolExecutor, work: Callable[..., T], *args: Any) -> T:
    """Run ``work`` in one of the threads, and never return before it has ended.

    A cancelled request gives its buffer back; bytes that change between proof and write would be a wrong chunk on disk
    that everybody believes.
    """
    future = asyncio.get_running_loop().run_in_executor(threads, work, *args)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        # What went wrong in it no longer concerns anybody, and is not to be reported as forgotten.
        future.exception()
        raise
