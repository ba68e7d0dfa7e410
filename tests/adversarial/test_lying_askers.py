"""Askers that mean a server no good (C 39 to C 42): others are served meanwhile, and nothing of it stays."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from p2psync.limits import CHUNK_BYTES, CONNECTIONS_PER_ADDRESS_MAX, MISSES_BURST, MISSES_PER_S
from p2psync.transport import ServeLimits
from tests import leaks, liars
from tests.adversarial.test_server import Served, chunk_paths, serving
from tests.liars import Asker

Record = Callable[[str, object], None]


@asynccontextmanager
async def visited(
    kind: type[Asker], folder: Path, record: Record, allowed: ServeLimits | None = None
) -> AsyncIterator[tuple[Asker, Served]]:
    """A server with three chunks of 1 MiB and an asker, watched for what is left when both are gone."""
    async with leaks.watched() as seen, serving(folder, [CHUNK_BYTES] * 3, allowed) as served:
        parts = urlsplit(served.url)
        asker = kind(str(parts.hostname), parts.port or 0, chunk_paths(served.version)[0])
        try:
            yield asker, served
        finally:
            asker.leave()
    record("seconds", round(seen.seconds, 2))
    record("peak_mib", round(seen.peak_bytes / (1 << 20), 1))


async def test_c39_bad_ranges(tmp_path: Path, record_property: Record) -> None:
    """Each gets 416 and no byte of the chunk; who goes on is put off like any who asks in vain."""
    allowed = ServeLimits(misses_burst=20, misses_per_s=0.01, miss_pause_s=0.01)
    async with visited(liars.BadRanges, tmp_path, record_property, allowed) as (asker, served):
        count = len(liars.BadRanges.ranges)
        for _ in range(20 // count):
            assert await asker.lie() == [416] * count
        assert await asker.lie() == [416] * (20 % count) + [429]
        assert await served.is_well()


async def test_c40_probing_for_digests(tmp_path: Path, record_property: Record) -> None:
    """With the bounds that users have: its budget is answered, then each connection once a second."""
    async with visited(liars.Prober, tmp_path, record_property) as (asker, served):
        began_s = asyncio.get_running_loop().time()
        told = await asker.lie()
        seconds = asyncio.get_running_loop().time() - began_s
        assert told.count(404) <= MISSES_BURST + seconds * MISSES_PER_S
        assert 0 < told.count(429) <= liars.Prober.at_once
        assert set(told) == {404, 429}
        assert await served.is_well()


async def test_c41_a_thousand_connections(tmp_path: Path, record_property: Record) -> None:
    """One address gets its share and no more; another is given its chunk meanwhile."""
    async with visited(liars.Crowd, tmp_path, record_property) as (asker, served):
        await asker.lie()
        other = dataclasses.replace(asker, address="127.0.0.2", open=[])
        assert await Asker.lie(other) == [200]
        assert served.server.connections["short"] <= CONNECTIONS_PER_ADDRESS_MAX
        assert served.server.meters.refused["address"] >= liars.Crowd.count - CONNECTIONS_PER_ADDRESS_MAX
        asker.leave()
        other.leave()


async def test_c41_connections_that_ask_nothing(tmp_path: Path, record_property: Record) -> None:
    """Who does not finish a request is sent home, and its place is free."""
    async with visited(liars.HoldsOn, tmp_path, record_property, ServeLimits(idle_s=0.3)) as (asker, served):
        assert await asyncio.gather(*(asker.lie() for _ in range(8))) == [[]] * 8
        assert served.server.connections["short"] == 0


async def test_c42_a_body_that_dribbles(tmp_path: Path, record_property: Record) -> None:
    """A body that does not arrive in its time is cut off, though something of it comes again and again."""
    async with visited(liars.SlowPoster, tmp_path, record_property, ServeLimits(timeout_s=0.4)) as (asker, served):
        assert await asyncio.gather(*(asker.lie() for _ in range(8))) == [[408]] * 8
        assert await served.is_well()
