"""What is left behind, and what takes too much, is found: a watcher that sees nothing would let everything pass."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from tests import leaks

MIB = 1 << 20


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "GONE_S", 0.1)


async def test_a_block_that_tidies_up_passes() -> None:
    """What ends with the block, or a little later, is none of its remains; the memory that it had is told."""
    async with leaks.watched() as seen:
        held = bytearray(32 * MIB)
        closing = socket.socket()
        await asyncio.to_thread(asyncio.new_event_loop().close)
        await asyncio.sleep(4 * leaks.SAMPLE_S)
        del held
        asyncio.get_running_loop().call_later(0.03, closing.close)
    assert 24 * MIB < seen.peak_bytes < 64 * MIB
    assert seen.seconds > 0


async def test_a_thread_that_stays_is_found() -> None:
    """A thread of the block's own is to end with it."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait, name="stray")
    with pytest.raises(AssertionError, match="stray"):
        async with leaks.watched():
            thread.start()
    over.set()
    thread.join()


async def test_a_task_that_stays_is_found() -> None:
    """A task too."""
    with pytest.raises(AssertionError, match="stray"):
        async with leaks.watched():
            task = asyncio.create_task(asyncio.sleep(60), name="stray")
    task.cancel()


async def test_an_open_file_that_stays_is_found() -> None:
    """And a socket."""
    with pytest.raises(AssertionError, match="socket:"):
        async with leaks.watched():
            stray = socket.socket()
    stray.close()


async def test_memory_over_the_bound_is_found() -> None:
    """Memory counts at its highest, though it is given back."""
    with pytest.raises(AssertionError, match="MiB over idle"):
        async with leaks.watched(16 * MIB):
            held = bytearray(48 * MIB)
            await asyncio.sleep(4 * leaks.SAMPLE_S)
            del held


async def test_what_the_block_raises_is_what_is_raised() -> None:
    """A fault of the block is told, and not what it left behind by it."""
    with pytest.raises(ValueError, match="its own"):
        async with leaks.watched():
            task = asyncio.create_task(asyncio.sleep(60))
            raise ValueError("its own")
    task.cancel()
