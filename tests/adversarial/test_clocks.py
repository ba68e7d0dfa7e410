"""F 68: a clock of 1970 or 2106, at a publisher or a node: models move, nothing is lost, and it is told."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from p2psync.errors import ExpiredError, P2PSyncError
from p2psync.manifest import Reference
from p2psync.node import operations
from p2psync.node.findings import Outcome
from p2psync.node.home_checks import check_clock
from p2psync.store import PublishOptions, Store
from p2psync.transport import Server
from p2psync.trust import TrustStore
from tests.stores import KEY, NAME, contents, make_model

# The first second that 32 bits do not hold lies in 2106.
IN_1970, IN_2026, IN_2106, LATER = 0, 1_795_000_000, (1 << 32) + 5, 1 << 35
DAY_S = 86_400


async def pull(home: Path, url: str) -> dict[str, Any]:
    args = {"reference": NAME, "sources": [{"url": url, "kind": "wan"}]}
    return await operations.run(home, "pull", args, lambda _event: None)


def publish(store: Store, folder: Path, now_unix_s: int, expires_s: int | None = None) -> None:
    options = PublishOptions(now_unix_s=now_unix_s, expires_s=expires_s, forms=False)
    store.publish(folder, Reference(NAME, "latest"), KEY, options)


@pytest.fixture
def node(tmp_path: Path) -> Path:
    TrustStore(tmp_path / "node" / "trust").add("acme/*", KEY.verify_key)
    return tmp_path / "node"


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(tmp_path / "publisher") as store:
        yield store


@pytest.mark.parametrize("signed", [IN_1970, IN_2026, IN_2106, LATER])
@pytest.mark.parametrize("now", [IN_1970, IN_2106, LATER])
async def test_f68_models_move_whatever_the_clocks_say(
    tmp_path: Path, node: Path, store: Store, monkeypatch: pytest.MonkeyPatch, signed: int, now: int
) -> None:
    """A version without an expiry is published, served, pulled, updated and kept, on any clock of either side."""
    monkeypatch.setattr(time, "time", lambda: float(now))
    server = Server(store, node_id="seed")
    url = await server.start("127.0.0.1", 0)
    try:
        for seed in (1, 2):
            folder = make_model(tmp_path / "model", seed)
            await asyncio.to_thread(publish, store, folder, signed)
            assert contents(Path((await pull(node, url))["path"])) == contents(folder)
    finally:
        await server.stop(0.2)
    with Store.open(node) as opened:
        assert {info.created for info in opened.versions()} == {signed}
        assert not opened.verify(None).damages


async def test_f68_an_expiry_is_told_with_the_clock(
    tmp_path: Path, node: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 2106 what expires is refused with a word about the clock, what is here stays, and the right time mends it."""
    folder = make_model(tmp_path / "model")
    publish(store, folder, IN_2026, expires_s=DAY_S)
    server = Server(store, node_id="seed")
    url = await server.start("127.0.0.1", 0)
    try:
        monkeypatch.setattr(time, "time", lambda: IN_2026 + 60.0)
        path = Path((await pull(node, url))["path"])
        first = contents(path)
        publish(store, make_model(tmp_path / "model", seed=2), IN_2026, expires_s=DAY_S)
        monkeypatch.setattr(time, "time", lambda: float(IN_2106))
        with pytest.raises(P2PSyncError) as caught:
            await pull(node, url)
        assert "clock is wrong" in caught.value.hint
        assert caught.value.exit_code == ExpiredError.exit_code
        assert contents(path) == first
        monkeypatch.setattr(time, "time", lambda: IN_2026 + 120.0)
        assert contents(Path((await pull(node, url))["path"])) == contents(folder)
        assert contents(path) == first
    finally:
        await server.stop(0.2)


def test_f68_a_clock_that_is_wrong_is_found_by_doctor(store: Store, tmp_path: Path) -> None:
    """What happened already is later than 1970: failed. Eighty years after it is odd: a warning."""
    publish(store, make_model(tmp_path / "model"), IN_2026)
    store.close()
    behind, ahead = (check_clock(tmp_path / "publisher", now) for now in (IN_1970, IN_2106))
    assert (behind.outcome, ahead.outcome) == (Outcome.FAILED, Outcome.WARNING)
    assert "set the clock" in behind.hint
    assert "set the clock" in ahead.hint
    assert check_clock(tmp_path / "publisher", IN_2026 + 365 * DAY_S).outcome is Outcome.OK
