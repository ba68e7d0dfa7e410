"""A verb runs in the process that owns the home, wherever it was asked for."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from p2psync.errors import (
    ModelNotFoundError,
    NotFoundError,
    P2PSyncError,
    RollbackError,
    SourceUnreachableError,
    StoreLockedError,
    UnknownSignerError,
    UsageError,
    VariantNotFoundError,
)
from p2psync.node import operations
from p2psync.node.names import SOCKET_NAME
from p2psync.node.node import Node
from p2psync.node.operations import run
from p2psync.node.pull import PullRequest
from p2psync.store import Store
from p2psync.transport import Server
from p2psync.trust import Keyring, TrustStore
from tests.stores import contents, make_model
from tests.unit.node.conftest import SETTINGS, Shop

Events = list[dict[str, Any]]


def ignore(_event: dict[str, Any]) -> None:
    """Events that a test does not follow."""


def pull_args(url: str, **more: object) -> dict[str, Any]:
    return {"reference": "acme/model", "sources": [{"url": url, "kind": "lan"}], **more}


def publish_args(folder: Path, **more: object) -> dict[str, Any]:
    return {"dir": str(folder), "reference": "acme/model", "key": "maker", **more}


async def test_locked_home_names_its_owner(home: Path) -> None:
    """A home whose owner takes no verbs is refused, and the owner's pid is named."""
    with Store.open(home), pytest.raises(StoreLockedError) as caught:
        await run(home, "prune", {}, ignore)
    assert caught.value.pid == os.getpid()
    assert str(os.getpid()) in str(caught.value)
    assert caught.value.exit_code == 6


async def test_socket_that_was_left_is_no_owner(home: Path) -> None:
    """A socket on which nobody listens any more changes nothing about that."""
    with Store.open(home), socket.socket(socket.AF_UNIX) as left:
        left.bind(str(home / SOCKET_NAME))
        with pytest.raises(StoreLockedError) as caught:
            await run(home, "prune", {}, ignore)
    assert caught.value.pid == os.getpid()


async def test_free_home_is_given_back(home: Path) -> None:
    """A verb on a free home opens it, works, and frees it, also when it fails."""
    assert (await run(home, "prune", {"dry_run": True}, ignore))["removed"] == []
    with pytest.raises(ModelNotFoundError):
        await run(home, "rm", {"reference": "acme/model"}, ignore)
    with Store.open(home) as store:
        assert store.versions() == []


async def test_unknown_verb_is_refused(home: Path) -> None:
    """A verb that the owner does not know is a usage error."""
    with pytest.raises(UsageError, match="no verb 'fly'"):
        await run(home, "fly", {}, ignore)


async def test_verbs_go_through_the_running_node(home: Path, tmp_path: Path) -> None:
    """While a node owns the home, publish, verify, tag, rm and prune work through its socket and tell their events."""
    Keyring(home / "keys").new("maker")
    events: Events = []
    async with Node(home):
        published = await run(home, "publish", publish_args(make_model(tmp_path / "model")), events.append)
        assert published["version"] == 1
        assert published["files"] == 4
        assert published["reference"] == f"acme/model:latest@{published['digest']}"
        verified = await run(home, "verify", {"reference": "acme/model"}, events.append)
        assert verified["ok"]
        assert verified["checked"]["versions"] == 1
        tagged = await run(home, "tag", {"reference": "acme/model", "tag": "stable", "key": "maker"}, ignore)
        assert tagged["digest"] == published["digest"]
        first = await run(home, "rm", {"reference": "acme/model:stable"}, ignore)
        assert first["tags"] == ["stable"]
        assert not first["removed"]
        second = await run(home, "rm", {"reference": "acme/model"}, ignore)
        assert second["removed"]
        await run(home, "prune", {}, ignore)
        status = await run(home, "status", {}, ignore)
        assert status["transfers"] == []
    assert "hashing" in {event["event"] for event in events}
    assert not (home / SOCKET_NAME).exists()


@pytest.mark.parametrize(
    ("verb", "args", "kind"),
    [
        ("pull", {"reference": "acme/model"}, ModelNotFoundError),
        ("pull", {"reference": "acme/model", "link": True}, UsageError),
        ("tag", {"reference": "acme/model", "tag": "x", "key": "nobody"}, NotFoundError),
        ("fly", {}, UsageError),
    ],
)
async def test_errors_cross_the_socket(home: Path, verb: str, args: dict[str, Any], kind: type[P2PSyncError]) -> None:
    """An error through the socket is the one that the same verb raises without: class, text, exit code and hint."""
    with pytest.raises(kind) as direct:
        await run(home, verb, args, ignore)
    async with Node(home):
        with pytest.raises(kind) as crossed:
            await run(home, verb, args, ignore)
    assert type(crossed.value) is type(direct.value)
    assert crossed.value.exit_code == direct.value.exit_code
    assert (crossed.value.message, crossed.value.hint) == (direct.value.message, direct.value.hint)
    assert crossed.value.hint


async def test_second_node_of_a_home_is_refused(home: Path) -> None:
    """A home has one node; the first one goes on."""
    async with Node(home):
        with pytest.raises(StoreLockedError):
            async with Node(home):
                pass
        assert (await run(home, "status", {}, ignore))["url"].startswith("http://127.0.0.1:")


async def test_pull_brings_and_counts(shop: Shop, trusting: Path, tmp_path: Path) -> None:
    """A pull installs and exports the files; the second one moves nothing and says so."""
    server = Server(shop.store, node_id="0" * 64)
    url = await server.start("127.0.0.1", 0)
    events: Events = []
    try:
        plan = await run(trusting, "pull", pull_args(url, dry_run=True), ignore)
        first = await run(trusting, "pull", pull_args(url, to=str(tmp_path / "out")), events.append)
        again = await run(trusting, "pull", pull_args(url), ignore)
    finally:
        await server.stop(1.0)
    size = shop.manifest.size
    assert plan["bytes"]["missing"] == plan["bytes"]["total"] == size
    assert contents(tmp_path / "out") == contents(shop.folder)
    assert first["bytes"] == {"total": size, "reused": 0, "patched": 0, "lan": size, "wan": 0}
    assert first["sources"] == [{"url": url, "kind": "lan", "bytes": size}]
    assert first["wire"]["lan"] > size
    assert not first["unchanged"]
    assert again["unchanged"]
    assert again["bytes"]["reused"] == size
    assert contents(Path(again["path"])) == contents(shop.folder)
    assert [e["event"] for e in events if e["event"] in ("resolved", "plan", "installed")] == [
        "resolved",
        "plan",
        "installed",
    ]


async def test_installed_version_needs_no_source(shop: Shop, trusting: Path) -> None:
    """What is here is found without a source, online or not."""
    server = Server(shop.store, node_id="0" * 64)
    url = await server.start("127.0.0.1", 0)
    try:
        await run(trusting, "pull", pull_args(url), ignore)
    finally:
        await server.stop(1.0)
    found = await run(trusting, "pull", pull_args(url, offline=True), ignore)
    assert found["unchanged"]
    assert found["sources"] == []


async def test_lost_etags_are_learned_again(shop: Shop, trusting: Path) -> None:
    """A home that lost its entity tags has them again after a pull that changed nothing."""
    server = Server(shop.store, node_id="0" * 64)
    url = await server.start("127.0.0.1", 0)
    try:
        await run(trusting, "pull", pull_args(url), ignore)
        learned = (trusting / "etags.json").read_bytes()
        (trusting / "etags.json").unlink()
        full = await run(trusting, "pull", pull_args(url), ignore)
        short = await run(trusting, "pull", pull_args(url), ignore)
    finally:
        await server.stop(1.0)
    assert full["unchanged"]
    assert (trusting / "etags.json").read_bytes() == learned
    assert short["wire"]["lan"] < full["wire"]["lan"]


async def test_stranger_is_refused(shop: Shop, home: Path) -> None:
    """A home that trusts nobody for the name pulls nothing."""
    server = Server(shop.store, node_id="0" * 64)
    url = await server.start("127.0.0.1", 0)
    try:
        with pytest.raises(UnknownSignerError) as caught:
            await run(home, "pull", pull_args(url), ignore)
    finally:
        await server.stop(1.0)
    assert caught.value.exit_code == 4
    with Store.open(home) as store:
        assert store.versions() == []


async def test_two_pulls_at_once_are_one_transfer(shop: Shop, trusting: Path) -> None:
    """Two callers of one node that want one model wait for one transfer, and both have the files."""
    sent = 0

    def count(_address: str, size: int) -> None:
        nonlocal sent
        sent += size

    server = Server(shop.store, node_id="0" * 64, on_sent=count)
    url = await server.start("127.0.0.1", 0)
    try:
        async with Node(trusting):
            results = await asyncio.gather(*(run(trusting, "pull", pull_args(url), ignore) for _ in range(2)))
    finally:
        await server.stop(1.0)
    size = shop.manifest.size
    assert sorted(r["unchanged"] for r in results) == [False, True]
    assert sorted(r["bytes"]["lan"] for r in results) == [0, size]
    assert results[0]["path"] == results[1]["path"]
    assert size <= sent < 1.2 * size


async def test_variants_are_pulled_apart(home: Path, tmp_path: Path) -> None:
    """The default variant comes without a name, another one by its name, and an unknown one not at all."""
    key = Keyring(home / "keys").new("maker")
    reader = tmp_path / "reader"
    TrustStore(reader / "trust").add("acme/*", key)
    folder = make_model(tmp_path / "model")
    (folder / "p2psync.toml").write_text(SETTINGS)
    async with Node(home) as seed:
        await run(home, "publish", publish_args(folder), ignore)
        default = await run(reader, "pull", pull_args(seed.url), ignore)
        assert {*contents(Path(default["path"]))} == {"vocab.txt", "empty", "sub folder/größe.json"}
        with pytest.raises(VariantNotFoundError) as caught:
            await run(reader, "pull", pull_args(seed.url, variant="medium"), ignore)
        large = await run(reader, "pull", pull_args(seed.url, variant="large"), ignore)
    assert caught.value.exit_code == 3
    assert "model.safetensors" in contents(Path(large["path"]))


async def test_watch_of_a_digest_is_refused(home: Path, shop: Shop) -> None:
    """A digest never moves, so there is nothing to watch."""
    args = {"reference": f"acme/model@{shop.published.root}", "watch": True}
    with pytest.raises(UsageError) as caught:
        await run(home, "pull", args, ignore)
    assert "leave out" in (caught.value.hint or "")


async def watched(monkeypatch: pytest.MonkeyPatch, *turns: P2PSyncError | str, patient: bool = False) -> list[Any]:
    """Watch a tag of which each turn is a fault, or a digest that was pulled; the last turn ends it. What was told."""
    left, events = list(turns), list[Any]()

    async def once(*_: Any) -> dict[str, Any]:
        if not left:
            raise asyncio.CancelledError
        turn = left.pop(0)
        if isinstance(turn, P2PSyncError):
            raise turn
        return {"digest": turn}

    monkeypatch.setattr(operations, "_pull_once", once)
    monkeypatch.setattr(operations, "WATCH_S", 0.0)
    request = PullRequest.parse({"reference": "acme/model", "sources": [], "watch": True})
    with pytest.raises(asyncio.CancelledError):
        await operations._watch(None, request, events.append, patient=patient)  # type: ignore[arg-type] - it owns nothing
    return [event["result"]["digest"] if event["event"] == "result" else event["reason"] for event in events]


async def test_a_watch_waits_for_who_is_behind_or_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers that have not got the newest version yet, a seed that is away, a tag that was there a moment ago."""
    faults = [
        RollbackError("7 after 8", behind=True),
        SourceUnreachableError("away"),
        ModelNotFoundError("no such tag"),
    ]
    told = await watched(monkeypatch, "b3:8", *faults, "b3:8", "b3:9")
    assert told == ["b3:8", "7 after 8", "away", "no such tag", "b3:9"]


async def test_a_watch_ends_where_waiting_is_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not there at first may be mistyped; whom nobody trusts is not trusted later, unless somebody acts."""
    for fault in (ModelNotFoundError("mistyped"), UnknownSignerError("who?"), RollbackError("two roots")):
        with pytest.raises(type(fault)):
            await watched(monkeypatch, fault)


async def test_a_follower_waits_for_what_is_to_be_published_or_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs for months, and nobody is there to start it again."""
    faults = [ModelNotFoundError("not yet"), UnknownSignerError("who?")]
    assert await watched(monkeypatch, *faults, "b3:1", patient=True) == ["not yet", "who?", "b3:1"]
    with pytest.raises(UsageError):
        await watched(monkeypatch, UsageError("no such tag can be"), patient=True)
