"""What a piece of work leaves behind, and how much memory it took at most.

Threads, tasks and open files that were not there before must be gone soon after. Memory is the anonymous part of
what is resident (files that are mapped can be dropped at any time), sampled by a thread; before, what nobody uses is
collected and given back to the kernel, so that the work cannot hide in memory that was free.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

MEMORY_BYTES_MAX: Final = 100 << 20
SAMPLE_S: Final = 0.004
# A hang guard: what ends, ends at once, but for turns of the event loop.
GONE_S: Final = 10.0
# Threads of the event loop's own executor: they stay until the loop is closed.
_KEPT: Final = "asyncio_"
_STATUS: Final = Path("/proc/self/status")


@dataclass
class Watched:
    """What was seen: seconds, and the most anonymous memory beyond that of the beginning, in bytes."""

    seconds: float = 0.0
    peak_bytes: int = 0
    _here: set[object] = field(default_factory=set)


@asynccontextmanager
async def watched(memory_bytes_max: int = MEMORY_BYTES_MAX) -> AsyncIterator[Watched]:
    """Watch what the block does in this process.

    Raises:
        AssertionError: it left a thread, a task or an open file behind, or took more memory than it may.
    """
    seen = Watched()
    before = _things()
    with _sampled(seen):
        yield seen
    left = _things() - before
    deadline_s = time.monotonic() + GONE_S
    while left and time.monotonic() < deadline_s:
        await asyncio.sleep(0.01)
        left = _things() - before
    assert not left, f"left behind: {sorted(map(str, left))}"
    assert seen.peak_bytes <= memory_bytes_max, f"{seen.peak_bytes >> 20} MiB over idle"


@contextmanager
def _sampled(seen: Watched) -> Iterator[None]:
    gc.collect()
    with suppress(OSError, AttributeError):  # Only glibc has it.
        ctypes.CDLL(None).malloc_trim(0)
    over = threading.Event()
    base = anonymous_bytes()

    def sample() -> None:
        while not over.wait(SAMPLE_S):
            seen.peak_bytes = max(seen.peak_bytes, anonymous_bytes() - base)

    sampler = threading.Thread(target=sample, name="sampler", daemon=True)
    began_s = time.monotonic()
    sampler.start()
    try:
        yield
    finally:
        seen.seconds = time.monotonic() - began_s
        over.set()
        sampler.join()


def anonymous_bytes(pid: int | None = None) -> int:
    """Anonymous memory of a process that is resident now; this one unless another is named."""
    text = (_STATUS if pid is None else Path(f"/proc/{pid}/status")).read_text()
    return int(text.partition("RssAnon:")[2].split(maxsplit=1)[0]) << 10


def _things() -> set[tuple[str, Any]]:
    """Everything that lasts until somebody ends it."""
    threads = {("thread", thread) for thread in threading.enumerate() if not thread.name.startswith(_KEPT)}
    tasks = {("task", task) for task in asyncio.all_tasks()}
    return {*threads, *tasks, *(("file", name) for name in _files())}


def _files() -> Iterator[str]:
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # The one by which this folder is being read.
            yield f"{number} {os.readlink(f'/proc/self/fd/{number}')}"
