"""Whoever asks for what is not here, over and over, is put off; what is here is given meanwhile, to everybody."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.content import Digest
from p2psync.errors import SourceUnreachableError
from p2psync.limits import MISS_ADDRESSES_MAX, MISSES_BURST, MISSES_IN_BATCH, MISSES_PER_S
from p2psync.transport import BufferPool, ServeLimits, SourceKind, connect
from p2psync.transport.misses import Misses
from tests.adversarial.test_server import Served, chunk_paths, get, serving, until_end

SHORT = ServeLimits(misses_burst=8, misses_per_s=0.001, miss_pause_s=0.01)
NOWHERE = "/v1/chunks/" + "0" * 64
# Answered by 405, after everything else.
LAST = get("/", "Connection: close", method="DELETE")


async def statuses(served: Served, *asks: bytes) -> list[int]:
    """The statuses of answers to requests on one connection, until it ends."""
    reader, writer = await served.dial()
    writer.write(b"".join([*asks, LAST]))
    data = await until_end(reader, writer)
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", data) if status != b"405"]


def batch(resource: str, digests: list[Digest]) -> bytes:
    body = b"".join(digests)
    return get(f"/v1/{resource}", f"Content-Length: {len(body)}", method="POST") + body


@pytest.mark.parametrize(
    "path",
    [NOWHERE, "/v1/nodes/" + "0" * 64, "/v1/have/" + "0" * 64, "/v1/heads/acme/none/tags/latest", "/", "/v1/x"],
)
async def test_prober_is_put_off(tmp_path: Path, path: str) -> None:
    """After so many misses an address is told 429 and when to come back, and its connection ends."""
    async with serving(tmp_path, [10], SHORT) as served:
        assert await statuses(served, *[get(path)] * 20) == [404] * 8 + [429]
        answer = await served.say(get(path))
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"\r\nRetry-After: 1000\r\n" in answer
        assert b"\r\nConnection: close\r\n" in answer
        # By this header an asker tells a peer from a web server, and it may be put off by its first question.
        assert b"\r\nP2PSync-Protocol: 1\r\n" in answer


async def test_prober_by_bad_ranges_is_put_off(tmp_path: Path) -> None:
    """A range that cannot be satisfied is a miss like any other."""
    async with serving(tmp_path, [10], SHORT) as served:
        bad = get(chunk_paths(served.version)[0], "Range: bytes=10-11")
        assert await statuses(served, *[bad] * 20) == [416] * 8 + [429]


@pytest.mark.parametrize("resource", ["chunks", "nodes"])
async def test_prober_by_batches_is_put_off(tmp_path: Path, resource: str) -> None:
    """Digests of a batch that are not here count too, by their work."""
    async with serving(tmp_path, [10], SHORT) as served:
        ask = batch(resource, [Digest.of(bytes([n])) for n in range(MISSES_IN_BATCH * 2)])
        assert await statuses(served, *[ask] * 9) == [200] * 4 + [429]


async def test_what_is_here_is_given_meanwhile(tmp_path: Path) -> None:
    """Who spent its budget still gets what is here, and other addresses are answered as ever."""
    async with serving(tmp_path, [10], SHORT) as served:
        await statuses(served, *[get(NOWHERE)] * 9)
        assert await served.is_well()
        assert await statuses(served, get(chunk_paths(served.version)[0]), get("/v1/node")) == [200, 200]
        reader, writer = await served.dial(address="127.0.0.2")
        writer.write(get(NOWHERE, "Connection: close"))
        assert (await reader.read()).startswith(b"HTTP/1.1 404 ")
        writer.close()


async def test_work_for_a_prober_is_bounded(tmp_path: Path) -> None:
    """An address that is put off does no more than its connections times its pauses, however fast it asks."""
    allowed = dataclasses.replace(SHORT, miss_pause_s=0.2, connections_per_address_max=4, timeout_s=5.0)
    async with serving(tmp_path, [10], allowed) as served:
        await statuses(served, *[get(NOWHERE)] * 9)
        began_s = asyncio.get_running_loop().time()
        told = 0
        for _ in range(3):
            answers = await asyncio.gather(*(statuses(served, *[get(NOWHERE)] * 50) for _ in range(4)))
            told += sum(map(len, answers))
            await asyncio.sleep(0.01)
        assert told <= 4 * (1 + (asyncio.get_running_loop().time() - began_s) / 0.2)


async def test_pull_that_trusts_an_old_inventory_is_not_put_off(tmp_path: Path) -> None:
    """With the bounds that users have, an honest asker learns of every chunk of 4 GiB that it is gone."""
    async with serving(tmp_path, [10]) as served:
        assert set(await statuses(served, *[get(NOWHERE)] * 4096)) == {404}


async def test_asker_that_is_put_off_takes_it_for_the_network(tmp_path: Path) -> None:
    """A source that puts off is one to ask again later: no liar, and not without the chunk."""
    async with serving(tmp_path, [10], SHORT) as served:
        await statuses(served, *[get(NOWHERE)] * 9)
        source = connect(served.url, SourceKind.LAN)
        try:
            with pytest.raises(SourceUnreachableError, match="429"):
                await source.head("acme/none", "latest")
            gone = dataclasses.replace(served.version.chunks[0], digest=Digest.of(b"gone"))
            with pytest.raises(SourceUnreachableError, match="429"):
                async for _, buffer in source.chunks([gone], BufferPool(1)):
                    buffer.release()
        finally:
            await source.close()


def test_addresses_that_are_counted_are_bounded() -> None:
    """A table of addresses does not grow with the addresses that somebody makes up."""
    misses = Misses(4, 1.0, lambda: 0.0)
    for number in range(MISS_ADDRESSES_MAX * 3):
        assert misses.missed(f"2001:db8::{number:x}", 1.0) is None
    assert len(misses) == MISS_ADDRESSES_MAX


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.01, 64.0)), max_size=200))
def test_an_address_misses_its_budget_and_no_more(asks: list[tuple[float, float]]) -> None:
    """Over any time what is let through is the burst and the rate; whoever waits as told is let through again."""
    now_s = 0.0
    misses = Misses(MISSES_BURST, MISSES_PER_S, lambda: now_s)
    through = 0.0
    for wait_s, cost in asks:
        now_s += wait_s
        told_s = misses.missed("a", cost)
        if told_s is None:
            through += cost
        else:
            now_s += told_s
            assert misses.missed("a", cost) is None
            through += cost
        assert through <= MISSES_BURST + MISSES_PER_S * now_s + 1e-6
