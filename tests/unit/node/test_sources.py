"""Several sources are asked at once; one that fails or is silent costs only itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from p2psync.content import Digest
from p2psync.errors import (
    DigestMismatchError,
    ModelNotFoundError,
    P2PSyncError,
    RemoteProtocolError,
    SourceTimeoutError,
    SourceUnreachableError,
    WithdrawnError,
)
from p2psync.manifest import TreeReader, chunk_table
from p2psync.node import sources as module
from p2psync.node.sources import SourceSet, ask_all
from p2psync.transport import Server, SourceKind, Wire
from tests.unit.node.conftest import Shop
from tests.unit.node.fakes import FakeSource

ROOT = Digest.of(b"root")
NEVER_S = 3600.0


def set_of(monkeypatch: pytest.MonkeyPatch, *played: FakeSource) -> tuple[SourceSet, list[dict[str, Any]]]:
    """A set of played sources, and the events that it tells."""
    by_url = {source.url: source for source in played}
    monkeypatch.setattr(module, "connect", lambda url, _kind: by_url[url])
    events: list[dict[str, Any]] = []
    return SourceSet([(s.url, s.kind.value) for s in played], events.append), events


async def test_answers_come_in_the_order_of_the_sources() -> None:
    """Each source has its own answer or its own error, in the order of asking."""
    fault = SourceUnreachableError("gone")
    asked = [FakeSource("a", wait_s=0.02, held=b"a"), FakeSource("b", error=fault), FakeSource("c", held=b"c")]
    assert await ask_all(asked, lambda s: s.inventory(ROOT, 8)) == [b"a", fault, b"c"]


async def test_late_source_has_failed_by_its_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once one has answered, a silent source has a grace time; then it timed out and is no longer asked."""
    monkeypatch.setitem(module.GRACE_S, SourceKind.LAN, 0.02)
    answers = await ask_all(
        [FakeSource("late", wait_s=NEVER_S), FakeSource("good", held=b"x")], lambda s: s.inventory(ROOT, 8)
    )
    assert isinstance(answers[0], SourceTimeoutError)
    assert "late was still silent" in str(answers[0])
    assert answers[1] == b"x"
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_answer_within_the_grace_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that is a little later than the first is heard."""
    monkeypatch.setitem(module.GRACE_S, SourceKind.LAN, 30.0)
    answers = await ask_all(
        [FakeSource("later", wait_s=0.05, held=b"l"), FakeSource("first", held=b"f")], lambda s: s.inventory(ROOT, 8)
    )
    assert answers == [b"l", b"f"]


async def test_a_source_that_was_silent_has_no_second_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was silent once is asked again with the others, and not waited for again."""
    monkeypatch.setitem(module.GRACE_S, SourceKind.LAN, 0.02)
    silent = FakeSource("silent", wait_s=NEVER_S)
    found, _ = set_of(monkeypatch, silent, FakeSource("good", held=b"x"))
    async with found as opened:
        assert [s.url for s in await opened.open(ROOT)] == ["good"]
        monkeypatch.setitem(module.GRACE_S, SourceKind.LAN, NEVER_S)
        async with asyncio.timeout(60):
            assert [s.url for s in await opened.open(ROOT)] == ["good"]


async def test_a_source_that_was_silent_is_heard_when_it_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody else answers, one that was silent before is waited for."""
    slow = FakeSource("slow", wait_s=0.05, held=b"s")
    broken = FakeSource("broken", error=SourceUnreachableError("gone"))
    answers = await ask_all([broken, slow], lambda s: s.inventory(ROOT, 8), but={"slow"})
    assert answers[1] == b"s"


async def test_errors_start_no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody has answered, a slow source is waited for, however fast the others failed."""
    monkeypatch.setitem(module.GRACE_S, SourceKind.LAN, 0.0)
    broken = FakeSource("broken", error=SourceUnreachableError("gone"))
    answers = await ask_all([broken, FakeSource("slow", wait_s=0.1, held=b"s")], lambda s: s.inventory(ROOT, 8))
    assert answers[1] == b"s"


async def test_cancelled_question_leaves_no_task() -> None:
    """Whoever gives up asking leaves nothing running."""
    asking = asyncio.create_task(ask_all([FakeSource("a", wait_s=NEVER_S)], lambda s: s.inventory(ROOT, 8)))
    await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_ready_sources_stand_lan_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources that do not know the version are left out and told; those on the LAN come first."""
    far = FakeSource("far", kind=SourceKind.WAN)
    lost = FakeSource("lost", error=ModelNotFoundError("unknown"))
    found, events = set_of(monkeypatch, far, lost, FakeSource("near"))
    async with found as opened:
        assert [s.url for s in await opened.open(ROOT)] == ["near", "far"]
    assert [(e["url"], e["state"]) for e in events] == [("lost", "dropped")]
    assert far.closed


async def test_bug_in_a_source_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no error of ours ends the pull as it is."""
    opened, _ = set_of(monkeypatch, FakeSource("buggy", error=KeyError("x")))
    with pytest.raises(KeyError):
        await opened.open(ROOT)


def test_url_named_twice_is_one_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same address given twice is asked once."""
    monkeypatch.setattr(module, "connect", lambda url, kind: FakeSource(url, kind=kind))
    doubled = SourceSet([("http://a", "lan"), ("http://b", "wan"), ("http://a", "lan")], lambda _event: None)
    assert [(s.url, s.kind) for s in doubled.all] == [("http://a", SourceKind.LAN), ("http://b", SourceKind.WAN)]


def test_wire_is_summed_by_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What crossed the links counts both ways, per kind."""
    near = FakeSource("near", wire=Wire(received=10, sent=1))
    far = FakeSource("far", kind=SourceKind.WAN, wire=Wire(received=100, sent=5))
    also = FakeSource("also", kind=SourceKind.WAN, wire=Wire(received=7, sent=0))
    assert set_of(monkeypatch, near, far, also)[0].wire() == {"lan": 11, "wan": 112}


async def read_all(opened: SourceSet, root: Digest, ready: list[Any]) -> TreeReader:
    """Read a whole tree, level by level."""
    reader = TreeReader(root)
    while reader.missing():
        await opened.read_level(reader, ready)
    return reader


async def test_node_that_one_lacks_comes_from_another(monkeypatch: pytest.MonkeyPatch, shop: Shop) -> None:
    """Two sources with half of the nodes each give the whole manifest."""
    nodes = list(shop.store.tree(shop.published.root).nodes.items())
    left, right = FakeSource("left", known=dict(nodes[::2])), FakeSource("right", known=dict(nodes[1::2]))
    opened, _ = set_of(monkeypatch, left, right)
    reader = await read_all(opened, shop.published.root, [left, right])
    assert reader.manifest() == shop.manifest


async def test_false_node_is_told_and_replaced(monkeypatch: pytest.MonkeyPatch, shop: Shop) -> None:
    """A node that does not prove bans its source; the good one serves the manifest."""
    nodes = shop.store.tree(shop.published.root).nodes
    liar = FakeSource("liar", known=dict.fromkeys(nodes, b"\xa0"))
    good = FakeSource("good", known=dict(nodes))
    opened, events = set_of(monkeypatch, liar, good)
    reader = await read_all(opened, shop.published.root, [liar, good])
    assert reader.manifest() == shop.manifest
    assert isinstance(opened.failures["liar"], DigestMismatchError)
    assert {(e["url"], e["state"]) for e in events} == {("liar", "banned")}


async def test_silent_source_is_passed_over_for_nodes(monkeypatch: pytest.MonkeyPatch, shop: Shop) -> None:
    """A source that brings no nodes in time is passed over."""
    monkeypatch.setattr(module, "NODES_PATIENCE_S", 0.02)
    nodes = shop.store.tree(shop.published.root).nodes
    silent, good = FakeSource("silent", wait_s=NEVER_S), FakeSource("good", known=dict(nodes))
    opened, _ = set_of(monkeypatch, silent, good)
    reader = await read_all(opened, shop.published.root, [silent, good])
    assert reader.manifest() == shop.manifest
    assert isinstance(opened.failures["silent"], SourceTimeoutError)


async def test_nodes_that_nobody_has_are_withdrawn(monkeypatch: pytest.MonkeyPatch, shop: Shop) -> None:
    """Without a fault of any source, what is missing is no longer there."""
    empty = FakeSource("empty")
    opened, _ = set_of(monkeypatch, empty)
    with pytest.raises(WithdrawnError, match="no source has 1 nodes"):
        await opened.read_level(TreeReader(shop.published.root), [empty])


@pytest.mark.parametrize(
    ("faults", "kind"),
    [
        ([SourceUnreachableError("a"), DigestMismatchError("b"), RemoteProtocolError("c")], DigestMismatchError),
        ([SourceUnreachableError("a"), RemoteProtocolError("c")], RemoteProtocolError),
        ([ModelNotFoundError("a"), SourceTimeoutError("b")], SourceTimeoutError),
        ([ModelNotFoundError("a")], WithdrawnError),
        ([], WithdrawnError),
    ],
)
def test_verdict_is_the_gravest_fault(
    monkeypatch: pytest.MonkeyPatch, faults: list[P2PSyncError], kind: type[P2PSyncError]
) -> None:
    """Integrity outranks protocol outranks network; what is merely not there is withdrawn."""
    opened, _ = set_of(monkeypatch)
    opened.failures.update({str(n): fault for n, fault in enumerate(faults)})
    assert type(opened.verdict("gone")) is kind


async def test_inventories_leave_out_who_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """None means everything; a source that fails has no inventory."""
    some, whole = FakeSource("some", held=b"\x05"), FakeSource("whole")
    broken = FakeSource("broken", error=SourceUnreachableError("gone"))
    opened, events = set_of(monkeypatch, some, whole, broken)
    assert await opened.inventories(ROOT, 3, [some, whole, broken]) == {"some": b"\x05", "whole": None}
    assert [e["url"] for e in events] == ["broken"]


async def test_real_server_gives_the_whole_manifest(shop: Shop) -> None:
    """Over sockets: a seed opens, gives every node, and holds every chunk."""
    server = Server(shop.store, node_id="0" * 64)
    url = await server.start("127.0.0.1", 0)
    events: list[dict[str, Any]] = []
    try:
        async with SourceSet([(url, "lan")], events.append) as opened:
            ready = await opened.open(shop.published.root)
            await opened.all[0].head("acme/model", "latest")
            reader = await read_all(opened, shop.published.root, ready)
            assert reader.manifest() == shop.manifest
            count = len(chunk_table(shop.manifest))
            held = (await opened.inventories(shop.published.root, count, ready))[url]
            assert held is not None
            assert sum(byte.bit_count() for byte in held) == count
            assert opened.wire()["lan"] > 1000
            assert opened.wire()["wan"] == 0
    finally:
        await server.stop(1.0)
    assert events == []
