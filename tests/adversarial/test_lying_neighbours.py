"""Neighbours and announcements that lie (C 43, C 44, F 66): what they say is bounded, and leads nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from p2psync import limits
from p2psync.node.node import Node, ServeOptions
from p2psync.swarm.gossip import Whereabouts, encode_gossip
from p2psync.transport import Discovery, Hint, Interface, inside, read_interfaces
from tests import leaks, liars
from tests.liars import Announcers, Gossiper
from tests.neighbourhood import PATIENCE_S, introduce, raw_channel, site, start_node, until

Record = Callable[[str, object], None]
# Two discoveries on one machine hear each other: those of one test at a time.
pytestmark = pytest.mark.xdist_group("announcements")


@asynccontextmanager
async def serving(tmp_path: Path, record: Record) -> AsyncIterator[Node]:
    """A whole node of the site "berlin", watched from when it has answered a first neighbour."""
    async with Node(tmp_path / "home", ServeOptions(site="berlin", discover=False)) as node:
        async with Gossiper(node.url).joined() as webs:
            await liars.Greeter(node.url).lie(webs, 1)
            await webs.receive_bytes()
        await until(lambda: not node.peers()["peers"])
        async with leaks.watched() as seen:
            yield node
        record("seconds", round(seen.seconds, 2))
        record("peak_mib", round(seen.peak_bytes / limits.MIB, 1))


@pytest.mark.parametrize("kind", [liars.GiantHaveMap, liars.GiantBitset, liars.EndlessRuns])
async def test_c43_a_have_map_of_a_thousand_million_chunks(
    tmp_path: Path, record_property: Record, kind: type[Gossiper]
) -> None:
    """What speaks of more chunks than a version may have is malformed: the channel ends, no memory was taken."""
    async with serving(tmp_path, record_property) as node:
        assert await kind(node.url).parted() == "malformed"
        await until(lambda: not node.peers()["peers"])


async def test_c43_greetings_without_end(tmp_path: Path, record_property: Record) -> None:
    """Two thousand greetings of four million chunks each: a few are answered, and only their sizes are kept."""
    async with serving(tmp_path, record_property) as node:
        liar = liars.Greeter(node.url)
        async with liar.joined() as webs:
            await liar.lie(webs)
            assert limits.ANSWERS_PER_NODE_MAX <= await answers(webs) < liar.count
            assert len(node.peers()["peers"]) == 1
        await until(lambda: not node.peers()["peers"])


async def answers(webs) -> int:
    """How many greetings are answered, until for a second nothing more comes."""
    count = 0
    try:
        while True:
            async with asyncio.timeout(1.0 if count >= limits.ANSWERS_PER_NODE_MAX else PATIENCE_S):
                count += (await webs.receive_bytes())[:1] == b"\1"
    except TimeoutError:
        return count


async def test_c44_addresses_that_lead_elsewhere_are_not_dialled() -> None:
    """Metadata services, multicast, broadcast, the internet, nowhere: nothing of it is even remembered."""
    async with site(start_node(1)) as (node,):
        liar = liars.Misleader(node.url)
        async with liar.joined() as webs:
            await liar.lie(webs)
            await webs.send_bytes(b"\1done")
            await until(lambda: len(node.messages) == 1)
            assert list(node.neighbours._acquaintances._places) == []


async def test_c44_a_word_from_elsewhere_leads_to_no_local_service() -> None:
    """A node on all interfaces takes a loopback address from whoever speaks from loopback, and from nobody else."""
    near = [each.address for each in read_interfaces() if ":" not in each.address and each.address != "127.0.0.1"]
    if not near:
        pytest.skip("this machine has no address but its loopback")
    said = encode_gossip([Whereabouts("22" * 8, "127.0.0.1", 9)])
    async with site(start_node(1, host="")) as (node,):
        for host, places in ((near[0], []), ("127.0.0.1", ["http://127.0.0.1:9"])):
            async with raw_channel(f"http://{host}:{node.port}") as webs:
                await introduce(webs, 9)
                await webs.send_bytes(said)
                await webs.send_bytes(b"\1done")
                await until(lambda: len(node.messages) == 1)
                node.messages.clear()
                assert list(node.neighbours._acquaintances._places) == places


@pytest.mark.parametrize("address", ["169.254.169.254", "169.254.170.2", "fd00:ec2::254"])
def test_c44_metadata_is_outside_also_where_it_is_in_our_subnet(address: str) -> None:
    """A machine may have a link-local address, and its neighbours; what answers with credentials is none of them."""
    here = [Interface(2, "169.254.7.7", 16), Interface(2, "fd00:ec2::7", 64)]
    assert inside("169.254.7.8", here, loopback=False)
    assert inside("fd00:ec2::8", here, loopback=False)
    assert not inside(address, here, loopback=True)


class Ear:
    """A discovery on loopback that counts what it is told."""

    def __init__(self) -> None:
        self.heard: list[Hint] = []
        self.lost = 0
        self.discovery = Discovery(
            "a" * 64, host="127.0.0.1", port=7000, announce=False, heard=self.heard.append, lost=self._lose
        )

    def protocols(self):
        """What reads the sockets that hear multicast."""
        assert self.discovery._zeroconf is not None
        return self.discovery._zeroconf.zeroconf.engine.protocols

    def hear(self, packet: bytes) -> None:
        """Read a packet, as from the first of them."""
        self.protocols()[0].datagram_received(packet, ("127.0.0.1", 5353))

    def _lose(self, _hint: Hint) -> None:
        self.lost += 1


@asynccontextmanager
async def listening(record: Record) -> AsyncIterator[Ear]:
    async with leaks.watched() as seen:
        ear = Ear()
        await ear.discovery.start(read_interfaces())
        try:
            if ear.discovery.reason is not None:
                pytest.skip(f"no multicast on loopback here: {ear.discovery.reason}")
            await until(lambda: bool(ear.protocols()))
            yield ear
        finally:
            await ear.discovery.stop()
    record("seconds", round(seen.seconds, 2))
    record("peak_mib", round(seen.peak_bytes / limits.MIB, 1))


@pytest.mark.parametrize("kind", [Announcers, liars.GiantTexts, liars.TextOf64Kib, liars.Churn])
async def test_f66_announcements_without_end(
    record_property: Record, caplog: pytest.LogCaptureFixture, kind: type[Announcers]
) -> None:
    """The table and the lookups stay bounded, nothing is logged of them, and who comes later is heard."""
    async with listening(record_property) as ear:
        await kind().lie(ear.hear)
        ear.hear(Announcers().packet("b" * 16))
        await until(lambda: Hint("b" * 16, ("127.0.0.1",), 9) in ear.heard)
        assert len(ear.discovery.known) <= limits.ANNOUNCEMENTS_MAX
        assert ear.discovery.known[-1].node_prefix == "b" * 16
        assert len(ear.discovery._lookups) <= limits.LOOKUPS_MAX
        assert len(ear.heard) - ear.lost <= limits.ANNOUNCEMENTS_MAX
        assert set(ear.discovery.refused) <= {"full", "long", "busy", "incomplete", "malformed"}
    assert [record for record in caplog.records if record.name.startswith("p2psync")] == []
