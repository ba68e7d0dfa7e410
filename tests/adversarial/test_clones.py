"""F 67: two machines with one node key, as a cloned image makes them. It is noticed and told, and nobody flaps."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.limits import CHANNELS_MAX, CLONE_KEEP_S, CLONE_WINDOW_S, PLACES_PER_NODE_MAX
from p2psync.node.clones import Clones
from p2psync.node.findings import Outcome
from p2psync.node.network_checks import check_identity
from p2psync.node.node import Node, ServeOptions
from tests.neighbourhood import SiteNode, closing_word, introduce, key_of, raw_channel, site, start_node, until

ONE, OTHER = "192.0.2.1:7000", "192.0.2.2:7000"


def told(node: SiteNode) -> list[str]:
    """What the node tells of ids that two machines have."""
    return [ban.node for ban in node.neighbours.bans() if "two machines" in ban.reason]


async def test_f67_two_machines_that_meet_know_it(caplog: pytest.LogCaptureFixture) -> None:
    """Each proves the key that both have: both say so, to their operators and in their logs, and both go on."""
    async with site(start_node(1)) as (one,), site(start_node(1, one.url)) as (two,), site(start_node(2)) as (other,):
        await until(lambda: told(one) == [one.id] and told(two) == [one.id])
        assert one.refusals() == two.refusals() == ["cloned"]
        assert one.joined == two.joined == []
        warned = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warned) == 2
        assert "a home was copied" in warned[0].getMessage()
        async with raw_channel(one.url) as webs:
            await introduce(webs, 9)
        assert other.neighbours.bans() == []


async def test_f67_a_third_node_keeps_one_and_tells_the_other() -> None:
    """Of two machines that take turns one stays; the other is told why, and neither is dialled away again."""
    async with (
        site(start_node(2)) as (third,),
        site(start_node(1, third.url), start_node(1, third.url)) as (one, two),
    ):
        await until(lambda: bool(told(third)))
        assert told(third) == [one.id]
        await until(lambda: told(one) + told(two) == [one.id])
        turns = len(third.joined)
        kept, out = (one, two) if told(two) else (two, one)
        assert kept.ids() == {third.id}
        await asyncio.sleep(0.5)
        assert len(third.joined) == turns
        assert kept.ids() == {third.id}
        assert [reason for _, reason in out.left][-1] == "cloned"
        assert third.neighbours.send(one.id, b"\1still here")
        await until(lambda: kept.messages == [(third.id, b"\1still here")])


async def test_f67_a_node_that_moved_is_no_clone() -> None:
    """A node that went away without a goodbye and comes from elsewhere takes its place, as ever."""
    async with site(start_node(1)) as (node,), raw_channel(node.url) as first:
        await introduce(first, 9, port=7000)
        await until(lambda: len(node.joined) == 1)
        async with raw_channel(node.url) as second:
            await introduce(second, 9, port=7001)
            assert await closing_word(first) == "duplicate"
            await until(lambda: len(node.joined) == 2)
            assert told(node) == []
            async with raw_channel(node.url) as third:
                await introduce(third, 9, port=7000)
                assert await closing_word(third) == "cloned"
            assert told(node) == [node.joined[0].id]
            assert node.ids() == {node.joined[0].id}


def test_f67_what_is_known_is_forgotten() -> None:
    """After its time a clone is let in again, and a node that comes back later than the window never was one."""
    now_s = 0.0
    clones = Clones("a" * 64, lambda: now_s)
    assert not clones.elsewhere("b" * 64, ONE, OTHER)
    now_s = CLONE_WINDOW_S + 1
    assert not clones.elsewhere("b" * 64, OTHER, ONE)
    now_s += 1
    assert clones.elsewhere("b" * 64, ONE, OTHER)
    assert [ban.node for ban in clones.all()] == ["b" * 64]
    now_s += CLONE_KEEP_S + 1
    assert clones.all() == []
    assert not clones.elsewhere("b" * 64, ONE, OTHER)


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 50)), min_size=1, max_size=300))
def test_f67_tables_are_bounded(moves: list[tuple[int, int]]) -> None:
    """However many ids move however often, what is kept of them is bounded."""
    clones = Clones("a" * 64, lambda: 0.0)
    for node, place in moves:
        clones.elsewhere(f"{node:064x}", f"192.0.2.1:{place}", f"192.0.2.1:{place + 1}")
    for node in range(CHANNELS_MAX * 2):
        clones.elsewhere(f"{node:064x}", ONE, OTHER)
    assert len(clones._left) <= CHANNELS_MAX
    assert len(clones.all()) <= CHANNELS_MAX
    assert max(map(len, clones._left.values())) <= PLACES_PER_NODE_MAX


async def test_f67_doctor_says_so(tmp_path: Path) -> None:
    """Beside a running node ``doctor`` asks it, and fails the check where its key was met elsewhere."""
    home, copy = tmp_path / "home", tmp_path / "copy"
    async with Node(home, ServeOptions(site="berlin", discover=False)) as node:
        met = await asyncio.to_thread(check_identity, home)
        assert met is not None
        assert met.outcome is Outcome.OK
        shutil.copytree(home / "node", copy / "node")
        async with Node(copy, ServeOptions(site="berlin", discover=False, peers=(node.url,))) as other:
            assert other.id == node.id
            await until(lambda: bool(node.peers()["banned"] and other.peers()["banned"]))
            for each in (home, copy):
                found = await asyncio.to_thread(check_identity, each)
                assert found is not None
                assert found.outcome is Outcome.FAILED
                assert "two machines" in found.found
    assert await asyncio.to_thread(check_identity, home) is None


def test_f67_what_a_clone_is_told_names_the_way_out() -> None:
    """The words say what happened and what to do, and which key it is about."""
    clones = Clones("a" * 64, lambda: 0.0)
    clones.met_self("http://192.0.2.9:7000")
    (ban,) = clones.all()
    assert ban.node == "a" * 64 != key_of(1).verify_key
    assert "http://192.0.2.9:7000" in ban.reason
    assert "remove its folder node" in ban.reason
