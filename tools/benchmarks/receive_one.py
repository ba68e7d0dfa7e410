"""Receive every chunk of one version from one source, and say what that alone took.

usage: receive_one.py URL NAME CLIENT KEEPING FILE

CLIENT is ``fast`` or ``aiohttp``. KEEPING is ``drop`` (count the bytes), ``loop`` or ``thread`` (prove each chunk and
write it to FILE, inside the event loop or in a thread that is waited for, and sync at the end). Prints one JSON object:
wall seconds, CPU seconds of this process and bytes, all from the first request for a chunk on.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

from p2psync.content import Digest
from p2psync.limits import LAN_LANES, PULL_BUFFERS
from p2psync.manifest import Chunk, TreeReader, chunk_table, peek_head
from p2psync.transport import BufferPool, Source, SourceKind, connect

_BATCH = 8

Keep = Callable[[Chunk, memoryview], None]


def _drop(_chunk: Chunk, _view: memoryview) -> None:
    return


def _writer(fd: int) -> Keep:
    def keep(chunk: Chunk, view: memoryview) -> None:
        if Digest.of(view) != chunk.digest:
            raise ValueError(f"not chunk {chunk.digest}")
        for place in chunk.places:
            os.pwrite(fd, view, place.offset)

    return keep


async def _chunks(source: Source, name: str) -> list[Chunk]:
    root = peek_head((await source.head(name, "latest")).envelope or b"").root
    await source.open(root)
    reader = TreeReader(root)
    while wanted := reader.missing():
        for digest, node in (await source.nodes(wanted)).items():
            reader.feed(digest, node)
    manifest = reader.manifest()
    if len(manifest.files) != 1:
        raise ValueError(f"a version of {len(manifest.files)} files, not 1")
    return list(chunk_table(manifest))


async def _lane(source: Source, left: deque[Chunk], pool: BufferPool, keep: Keep, writers: ThreadPoolExecutor) -> None:
    loop = asyncio.get_running_loop()
    threaded = sys.argv[4] == "thread"
    while left:
        batch = [left.popleft() for _ in range(min(_BATCH, len(left)))]
        async with aclosing(source.chunks(batch, pool)) as arrivals:
            async for chunk, buffer in arrivals:
                view = buffer.view(chunk.length)
                if threaded:
                    await loop.run_in_executor(writers, keep, chunk, view)
                else:
                    keep(chunk, view)
                buffer.release()


async def _receive() -> dict[str, float]:
    url, name, client, keeping, file = sys.argv[1:6]
    source = connect(url, SourceKind.LAN, fast=client == "fast")
    fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        chunks = await _chunks(source, name)
        total = sum(chunk.length * len(chunk.places) for chunk in chunks)
        if keeping != "drop":
            os.posix_fallocate(fd, 0, total)
        keep = _drop if keeping == "drop" else _writer(fd)
        left, pool = deque(chunks), BufferPool(PULL_BUFFERS)
        began_s, cpu_s = time.monotonic(), time.process_time()
        with ThreadPoolExecutor(1) as writers:
            await asyncio.gather(*(_lane(source, left, pool, keep, writers) for _ in range(LAN_LANES)))
        if keeping != "drop":
            os.fdatasync(fd)
        return {
            "seconds": round(time.monotonic() - began_s, 4),
            "cpu_s": round(time.process_time() - cpu_s, 4),
            "bytes": total,
        }
    finally:
        os.close(fd)
        os.unlink(file)
        await source.close()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_receive())))
