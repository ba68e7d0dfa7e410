"""What a node keeps of others and does for them is bounded, and what is beyond is not lost from its sums."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from p2psync.manifest import chunk_table
from p2psync.node.holdings import holdings
from p2psync.node.operations import Owner
from p2psync.transport import Server
from tests.unit.node.conftest import Shop


def test_sources_that_are_counted_one_by_one_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What more of them sent goes on one account, and what came over each link is exact."""
    monkeypatch.setattr("p2psync.node.operations.READERS_MAX", 3)
    owner = Owner(store=None)  # type: ignore[arg-type]
    for number in [*range(6), 0]:
        counted = Counter({(f"http://192.0.2.{number}:7000", "lan"): 10})
        with owner.pulling(SimpleNamespace(received=counted.copy)):  # type: ignore[arg-type]
            pass
    assert owner.received() == {"lan": 70}
    assert sorted(owner.received_by_url().values()) == [10, 10, 20, 30]
    assert owner.received_by_url()[""] == 30


@pytest.mark.parametrize("short", [0, 1])
async def test_what_is_here_of_a_long_version_is_not_told(
    short: int, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest is read for a neighbour as long as it is short enough, and not for one chunk more."""
    count = len(chunk_table(shop.manifest)) + shop.manifest.encoded
    monkeypatch.setattr("p2psync.node.holdings.HOLDINGS_CHUNKS_MAX", count - short)
    server = Server(shop.store, node_id="0" * 64)
    url = await server.start("127.0.0.1", 0)
    try:
        told = await holdings(shop.store, shop.published.root, count, url)
    finally:
        await server.stop(1.0)
    assert (told is None) == bool(short)
    assert told is None or told.count == count
