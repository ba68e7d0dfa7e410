"""What a server counts, and the pages about its node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.transport import Meters, Page, ServeLimits, Told
from p2psync.transport.meters import OTHER, PAGES, RESOURCES, resource_of
from tests.unit.transport.test_server import ask, get, post, serving


async def told() -> Told:
    return Told(b"well\n", "text/plain", 503)


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/v1/node", "node"),
        ("/v1/heads/acme/model/tags/latest", "heads"),
        ("/v1/chunks/" + "0" * 64, "chunks"),
        ("/v1/chunks", "chunks"),
        ("/metrics", "metrics"),
        ("/healthz", "healthz"),
        ("/v1/metrics", OTHER),
        ("/metrics/chunks", OTHER),
        ("/v1/acme", OTHER),
        ("/v2/chunks/x", OTHER),
        ("*", OTHER),
        ("", OTHER),
    ],
)
def test_resource_of_a_path(path: str, resource: str) -> None:
    """A path is counted under the resource that it names, and anything else under one word."""
    assert resource_of(path) == resource


@given(st.text())
def test_askers_choose_no_word(path: str) -> None:
    """Whatever is asked for, the table of counters has no more rows than this program has words."""
    assert resource_of(path) in {*RESOURCES, *PAGES, OTHER}


def test_why_an_answer_broke() -> None:
    """A reader that was cut off for being slow is told from one that left."""
    meters = Meters()
    meters.broke(TimeoutError())
    meters.broke(ConnectionResetError())
    meters.broke(OSError(5, "the disk"))
    assert meters.broken == {"slow": 1, "gone": 2}


async def test_answers_and_chunks_are_counted(tmp_path: Path) -> None:
    """Each answer counts by resource and class of status, each chunk once, alone or in a batch."""
    async with serving(tmp_path, [10, 20, 30]) as (server, url, _, version):
        digests = [chunk.digest for chunk in version.chunks]
        await ask(url, get(f"/v1/chunks/{digests[0].hex()}"))
        await ask(url, get("/v1/chunks/" + "0" * 64))
        await ask(url, post("/v1/chunks", [*digests, type(digests[0])(bytes(32))]))
        await ask(url, get("/v1/acme/secret"))
        assert server.meters.chunks == 4
        assert server.meters.requests == {("chunks", "2xx"): 2, ("chunks", "4xx"): 1, (OTHER, "4xx"): 1}


@pytest.mark.parametrize(
    ("allowed", "reason"),
    [(ServeLimits(connections_max=1), "total"), (ServeLimits(connections_per_address_max=1), "address")],
)
async def test_refused_connections_are_counted_by_cap(tmp_path: Path, allowed: ServeLimits, reason: str) -> None:
    """A connection over a cap counts under that cap; those that are open are counted as they are now."""
    async with serving(tmp_path, [10], allowed=allowed) as (server, url, _, _):
        host, _, port = url.removeprefix("http://").rpartition(":")
        _, first = await asyncio.open_connection(host, int(port))
        reader, second = await asyncio.open_connection(host, int(port))
        try:
            with pytest.raises(ConnectionResetError):
                assert await reader.read() == b""
                raise ConnectionResetError
            assert server.meters.refused[reason] == 1
            assert sum(server.meters.refused.values()) == 1
            assert server.connections == {"short": 1, "lasting": 0}
        finally:
            first.close()
            second.close()


async def test_page_is_answered_as_it_says(tmp_path: Path) -> None:
    """A page decides its status, type and body; no cache keeps it, and only its exact path is it."""
    async with serving(tmp_path, [10]) as (server, url, _, _):
        assert b"404" in (await ask(url, get("/healthz")))[0]
        server.open_page("/healthz", Page(told))
        head, body = await ask(url, get("/healthz"))
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"Content-Type: text/plain" in head
        assert b"Cache-Control: no-store" in head
        assert body == b"well\n"
        assert b"404" in (await ask(url, get("/healthz?x=1")))[0]


@pytest.mark.parametrize(("address", "status"), [("127.0.0.1", 503), ("::1", 503), ("192.0.2.7", 403), ("", 403)])
async def test_near_page_is_for_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, status: int
) -> None:
    """A page for this machine is refused to every address that is not its loopback."""
    where: Callable[[Any], str] = lambda _transport: address  # noqa: E731
    async with serving(tmp_path, [10]) as (server, url, _, _):
        server.open_page("/metrics", Page(told, near=True))
        monkeypatch.setattr("p2psync.transport.server.address_of", where)
        head, body = await ask(url, get("/metrics"))
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert (body == b"well\n") == (status == 503)
