"""Buffers are handed out, shared, given back and waited for."""

from __future__ import annotations

import asyncio

import pytest

from p2psync.transport import BufferPool


async def test_released_memory_is_used_again() -> None:
    """The buffer that was released last is the first to be handed out."""
    pool = BufferPool(2, 8)
    first, second = await pool.acquire(), await pool.acquire()
    first.view(3)[:] = b"abc"
    second.release()
    first.release()
    again = await pool.acquire()
    assert bytes(again.view(3)) == b"abc"
    assert pool.free == 1


async def test_memory_is_made_when_it_is_needed() -> None:
    """A pool of many large buffers costs nothing until they are used."""
    pool = BufferPool(1 << 20, 1 << 30)
    assert pool.free == 1 << 20
    assert pool.try_acquire is not None


async def test_views_stay_inside() -> None:
    """A view longer than the buffer, negative, or of a released buffer is refused."""
    pool = BufferPool(1, 8)
    buffer = await pool.acquire()
    for length in (9, -1):
        with pytest.raises(ValueError, match="has no"):
            buffer.view(length)
    with pytest.raises(ValueError, match="has no"):
        buffer.part(6).view(3)
    buffer.release()
    with pytest.raises(ValueError, match="released"):
        buffer.view(1)
    with pytest.raises(ValueError, match="released"):
        buffer.part(1)


async def test_parts_keep_the_memory_until_the_last_is_released() -> None:
    """A buffer that is shared out in parts is free once all parts are."""
    pool = BufferPool(1, 8)
    whole = await pool.acquire()
    whole.view(8)[:] = b"01234567"
    parts = [whole.part(0), whole.part(4)]
    whole.release()
    assert [bytes(part.view(2)) for part in parts] == [b"01", b"45"]
    parts[0].release()
    parts[0].release()
    assert pool.free == 0
    parts[1].release()
    assert pool.free == 1


async def test_waiters_are_served_in_order() -> None:
    """Whoever waits longest gets the next buffer; nobody overtakes."""
    pool = BufferPool(1, 8)
    held = await pool.acquire()
    order: list[int] = []

    async def wait(number: int) -> None:
        buffer = await pool.acquire()
        order.append(number)
        await asyncio.sleep(0)
        buffer.release()

    waiting = [asyncio.ensure_future(wait(number)) for number in range(3)]
    await asyncio.sleep(0)
    held.release()
    assert pool.try_acquire() is None
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2]
    assert pool.free == 1


async def test_cancelled_waiters_lose_nothing() -> None:
    """A waiter that is cancelled, even in the moment that it is served, passes the buffer on."""
    pool = BufferPool(1, 8)
    held = await pool.acquire()
    gone, served = asyncio.ensure_future(pool.acquire()), asyncio.ensure_future(pool.acquire())
    await asyncio.sleep(0)
    held.release()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    (await served).release()
    early = asyncio.ensure_future(pool.acquire())
    early.cancel()
    await asyncio.gather(early, return_exceptions=True)
    assert pool.free == 1
    assert pool.try_acquire() is not None


async def test_abandoned_memory_is_never_used_again() -> None:
    """Memory that somebody may still write into is replaced, not handed out."""
    pool = BufferPool(1, 8)
    buffer = await pool.acquire()
    late = buffer.view(8)
    buffer.abandon()
    fresh = await pool.acquire()
    late[:] = b"too late"
    assert bytes(fresh.view(8)) == bytes(8)
