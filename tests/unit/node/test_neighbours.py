"""Nodes find each other, keep one channel to each, and let go of those that left, lied or fell silent."""

from __future__ import annotations

import asyncio

import pytest

from p2psync.errors import UsageError
from p2psync.node.neighbours import Neighbours
from p2psync.swarm.gossip import Whereabouts, encode_gossip
from tests.neighbourhood import SiteNode, introduce, key_of, meet, raw_channel, site, start_node, until


def learn(node: SiteNode, url: str) -> None:
    """Discovery would say as much of an address."""
    node.neighbours._acquaintances.told("", "0" * 16, url, asyncio.get_running_loop().time())
    node.neighbours._wake.set()


async def test_two_nodes_meet_by_a_static_peer() -> None:
    """A node that was told of another reaches it; both know id, URL and round trip, and who was named."""
    async with site(start_node(1)) as (one,), site(start_node(2, one.url)) as (two,):
        await meet(one, two)
        (seen,), (named,) = one.neighbours.live(), two.neighbours.live()
        assert (seen.id, seen.url, seen.static) == (two.id, two.url, False)
        assert (named.id, named.url, named.static) == (one.id, one.url, True)
        assert named.address == "127.0.0.1"
        assert named.software.startswith("p2psync/")
        assert [neighbour.id for neighbour in one.joined] == [two.id]
        joined = {"event": "peer", "state": "joined", "node": two.id, "url": two.url, "reason": None}
        assert one.events == [joined]


async def test_neighbours_of_a_neighbour_meet() -> None:
    """A and C know only B; gossip brings A and C together, with one channel between each two."""
    async with (
        site(start_node(2)) as (b,),
        site(start_node(1, b.url)) as (a,),
        site(start_node(3, b.url)) as (c,),
    ):
        await meet(a, b, c)
        assert [len(node.neighbours.live()) for node in (a, b, c)] == [2, 2, 2]


async def test_both_dial_at_once_and_one_channel_stays() -> None:
    """Two nodes that name each other end with one channel, dialled by the smaller id, and no more after a while."""
    for _ in range(5):
        async with site(start_node(1), start_node(2)) as (one, two):
            # Both learn of each other in the same moment.
            learn(one, two.url)
            learn(two, one.url)
            await meet(one, two)
            await asyncio.sleep(0.1)
            await meet(one, two)
            assert len(one.neighbours.live()) == len(two.neighbours.live()) == 1
            ends = [node.neighbours._contacts[other.id].channel for node, other in ((one, two), (two, one))]
            assert [end.dialled for end in ends].count(True) == 1
            assert len(one.server._gate._lasting) + len(two.server._gate._lasting) == 1  # type: ignore[union-attr]


async def test_one_node_under_several_addresses_is_dialled_once() -> None:
    """Two names of one node lead to one channel; the second dial ends before it proves anything."""
    async with site(start_node(1)) as (one,):
        again = one.url.replace("127.0.0.1", "localhost")
        async with site(start_node(2, one.url, again)) as (two,):
            await meet(one, two)
            await asyncio.sleep(0.2)
            assert len(one.joined) == len(two.joined) == 1
            assert two.refusals() == []


async def test_a_node_that_names_itself_goes_on() -> None:
    """An operator may give every node the same list: a node recognises itself and keeps the others."""
    async with (
        site(start_node(1)) as (one,),
        site(start_node(2, one.url)) as (two,),
        site(start_node(4, one.url, two.url)) as (four,),
    ):
        learn(four, four.url)
        await meet(one, two, four)
        itself = four.neighbours._acquaintances._places[four.url]
        await until(lambda: itself.failures == 1)
        assert itself.due_s - four.neighbours._loop.time() > 100.0
        assert four.ids() == {one.id, two.id}


async def test_other_sites_stay_apart() -> None:
    """Nodes of two sites exchange nothing, and both operators are told why."""
    async with site(start_node(1, site="berlin")) as (one,), site(start_node(2, one.url, site="hamburg")) as (two,):
        await until(lambda: two.refusals() == ["site"] and one.refusals() == ["site"])
        assert one.joined == two.joined == []


async def test_a_node_that_comes_back_is_found_again() -> None:
    """After a goodbye the address is dialled again, and the node is a neighbour again once it is back."""
    async with site(start_node(1)) as (one,), site(start_node(2, one.url)) as (two,):
        await meet(one, two)
        await one.stop()
        assert two.left == [(one.id, "leaving")]
        await asyncio.sleep(0.1)
        async with site(start_node(1, port=one.port)) as (again,):
            await meet(again, two)
            assert [neighbour.id for neighbour in two.joined] == [one.id, one.id]


async def test_a_ban_ends_a_channel_and_holds_for_its_time() -> None:
    """A banned node is sent away with that word, cannot come back during the ban, and can after it."""
    async with site(start_node(1)) as (one,), site(start_node(2, one.url)) as (two,):
        await meet(one, two)
        one.neighbours.ban(two.id, "two bad chunks", 1.5)
        await until(lambda: two.left == [(one.id, "banned")])
        assert [(ban.node, ban.reason) for ban in one.neighbours.bans()] == [(two.id, "two bad chunks")]
        async with raw_channel(one.url) as webs:
            await webs.send_bytes(b"x")  # Another caller is answered meanwhile.
        assert {"event": "peer", "state": "banned", "node": two.id, "url": two.url, "reason": "two bad chunks"} in (
            one.events
        )
        assert not one.neighbours.send(two.id, b"\1")
        await until(lambda: "banned" in two.refusals() or two.id in one.ids())
        await until(lambda: not one.neighbours.bans())


async def test_hearsay_about_far_addresses_is_not_dialled() -> None:
    """A neighbour's word leads nowhere outside the site's own networks, and nowhere without a port."""
    async with site(start_node(1)) as (one,), raw_channel(one.url) as webs:
        await introduce(webs, 9)
        far = [Whereabouts("00" * 8, "8.8.8.8", 80), Whereabouts("11" * 8, "127.0.0.1", 0)]
        near = Whereabouts("22" * 8, "127.0.0.1", 9)
        await webs.send_bytes(encode_gossip([*far, near]))
        await until(lambda: len(one.neighbours._acquaintances) > 0)
        assert list(one.neighbours._acquaintances._places) == ["http://127.0.0.1:9"]


async def test_a_neighbour_that_serves_nowhere_has_no_url() -> None:
    """A node that only pulls has a channel and no URL, and others are not told of it."""
    async with site(start_node(1)) as (one,), raw_channel(one.url) as webs:
        await introduce(webs, 9, port=0)
        async with site(start_node(2, one.url)) as (two,):
            await meet(one, two)
            assert [neighbour.url for neighbour in one.neighbours.live() if neighbour.id != two.id] == [None]
            assert list(two.neighbours._acquaintances._places) == [one.url]


async def test_a_restarted_node_replaces_its_old_channel() -> None:
    """A node that crashed without a goodbye and dials again is let in at once, though its old channel looks alive."""
    async with site(start_node(1)) as (one,), raw_channel(one.url) as first:
        await introduce(first, 9)
        await until(lambda: len(one.joined) == 1)
        async with raw_channel(one.url) as second:
            await introduce(second, 9)
            await until(lambda: len(one.joined) == 2)
            assert [reason for _, reason in one.left] == ["duplicate"]
            assert len(one.neighbours.live()) == 1
            one.neighbours.send(one.joined[0].id, b"\1hello")
            assert await second.receive_bytes() == b"\1hello"


async def test_events_are_bounded() -> None:
    """Callers that are refused again and again fill no log: after a burst there are a few a second."""
    async with site(start_node(1)) as (one,):
        for _ in range(600):
            one.neighbours._tell("refused", None, "192.0.2.1", "site")
        assert len(one.events) <= 512 + 8


async def test_a_late_neighbour_knows_all_at_once() -> None:
    """A node that joins six others needs to know one of them."""
    async with site(start_node(1)) as (first,), site(*(start_node(n, first.url) for n in range(2, 7))) as rest:
        await meet(first, *rest)
        async with site(start_node(7, first.url)) as (late,):
            await meet(late, first, *rest)
            assert len(late.ids()) == 6


async def test_what_an_operator_got_wrong_is_named() -> None:
    """A peer that is no URL is refused before anything starts."""
    with pytest.raises(UsageError, match="not an http or https URL"):
        Neighbours(
            key_of(1),
            site="",
            host=None,
            port=0,
            discover=False,
            announce=False,
            peers=["ftp://x"],
            on_join=lambda _neighbour: None,
            on_leave=lambda _neighbour, _reason: None,
            on_message=lambda _node, _message: None,
            emit=lambda _event: None,
        )
