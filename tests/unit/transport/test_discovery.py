"""Announcements: what ours says, which of others are taken, and that no fault of the network gets out."""

from __future__ import annotations

import asyncio
import errno
import re
from types import SimpleNamespace

import pytest
from zeroconf import IPVersion, NonUniqueNameException, ServiceStateChange
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from p2psync import limits
from p2psync.transport import Discovery, Hint, Interface, discovery, read_interfaces
from p2psync.transport.discovery import SERVICE, announcement, refuse_text, usable
from tests.neighbourhood import until

A, B = "a" * 64, "b" * 64
LO, LAN, LINK = Interface(1, "127.0.0.1", 8), Interface(2, "192.0.2.7", 24), Interface(2, "fe80::7", 64)
GOOD = {b"p": b"1", b"n": A[:16].encode()}


def test_an_announcement_names_no_model_and_no_site() -> None:
    """It says the protocol, 16 digits of the node's id, where it listens, and nothing else."""
    info = announcement(A[:16], 7000, ["192.0.2.7", "fd00::7"])
    assert info.name == f"{A[:16]}._p2psync._tcp.local."
    assert info.text == b"\x03p=1\x12n=" + A[:16].encode()
    assert len(info.text) <= limits.ANNOUNCEMENT_BYTES_MAX
    assert info.port == 7000
    assert [str(each) for each in info.ip_addresses_by_version(IPVersion.All)] == ["192.0.2.7", "fd00::7"]


@pytest.mark.parametrize(
    ("text", "properties", "refusal"),
    [
        (b"", GOOD, None),
        (b"", {**GOOD, b"later": b"more", b"flag": None}, None),
        (bytes(257), GOOD, "long"),
        (b"", {**GOOD, b"p": b"2"}, "protocol"),
        (b"", {**GOOD, b"p": b"01"}, "protocol"),
        (b"", {**GOOD, b"p": None}, "protocol"),
        (b"", {}, "protocol"),
        (b"", {**GOOD, b"n": B[:16].encode()}, "node"),
        (b"", {b"p": b"1"}, "node"),
    ],
)
def test_announcements_are_read_strictly(text, properties, refusal) -> None:
    """Another protocol, another node's name and a long text are refused; unknown keys belong to later versions."""
    assert refuse_text(text, properties, A[:16]) == refusal


@pytest.mark.parametrize(
    ("said", "interfaces", "kept"),
    [
        (["8.8.8.8", "192.0.2.9"], [LAN], ("192.0.2.9",)),
        (["fe80::9", "192.0.2.9"], [LAN, LINK], ("192.0.2.9", "fe80::9%2")),
        (["fe80::9%2"], [LINK], ("fe80::9%2",)),
        (["fe80::9%3"], [LINK], ()),
        (["fe80::9"], [LINK, Interface(3, "fe80::8", 64)], ()),
        (["fe80::9%3", "fe80::9"], [LINK, Interface(3, "fe80::8", 64)], ("fe80::9%3",)),
        (["127.0.0.1"], [LO, LAN], ()),
        ([f"192.0.2.{number}" for number in range(100, 140)], [LAN], tuple(f"192.0.2.{n}" for n in range(100, 108))),
    ],
)
def test_only_near_addresses_are_kept(said, interfaces, kept) -> None:
    """Addresses outside are dropped, link-local ones get the scope that they can only mean, and there are at most 8."""
    assert usable(said, interfaces, loopback=False) == kept


class Heard:
    """A discovery on loopback, and what it reported."""

    def __init__(self, node: str, *, host: str | None = "127.0.0.1", port: int = 7000, announce: bool = True) -> None:
        self.hints: list[Hint] = []
        self.lost: list[Hint] = []
        self.discovery = Discovery(
            node,
            host=host,
            port=port,
            announce=announce,
            heard=lambda hint: self.keep(hint, self.hints),
            lost=lambda hint: self.keep(hint, self.lost),
        )

    def keep(self, hint: Hint, hints: list[Hint]) -> None:
        """Nodes that run on this machine besides are none of the test's."""
        if re.fullmatch(r"(.)\1*", hint.node_prefix) or hint.node_prefix.startswith("0000000"):
            hints.append(hint)

    async def start(self) -> None:
        await self.discovery.start(read_interfaces())
        if self.discovery.reason is not None:
            pytest.skip(f"no multicast on loopback here: {self.discovery.reason}")


async def test_nodes_hear_each_other_come_and_go() -> None:
    """Nodes on one wire hear each other's address and port; a goodbye takes the hint back; who browses says nothing."""
    one, two, quiet = Heard(A, port=7001), Heard(B, port=7002), Heard("c" * 64, announce=False)
    try:
        for each in (one, two, quiet):
            await each.start()
        await until(lambda: bool(one.hints and two.hints and len(quiet.hints) == 2))
        assert one.hints == [Hint(B[:16], ("127.0.0.1",), 7002)]
        assert two.hints == [Hint(A[:16], ("127.0.0.1",), 7001)]
        await two.discovery.stop()
        await until(lambda: bool(one.lost))
        assert one.lost == [Hint(B[:16], ("127.0.0.1",), 7002)]
        assert B[:16] not in {hint.node_prefix for hint in one.discovery.known}
        # Another set of interfaces is joined without starting anew.
        await one.discovery.update([each for each in read_interfaces() if each.address == "127.0.0.1"])
        assert one.discovery.reason is None
    finally:
        for each in (one, two, quiet):
            await each.discovery.stop()


async def test_announcements_that_are_refused_are_counted() -> None:
    """An announcement with an address outside, one of another protocol and a name that is none of ours are counted."""
    node = Heard(A, announce=False)
    liar = AsyncZeroconf(interfaces=["127.0.0.1"])
    try:
        await node.start()
        infos = [announcement("1" * 16, 1, ["8.8.8.8"]), announcement("2" * 16, 1, ["127.0.0.1"])]
        infos[1]._set_properties({"p": "2", "n": "2" * 16})
        infos.append(
            AsyncServiceInfo(SERVICE, f"printer.{SERVICE}", port=1, server="x.local.", parsed_addresses=["127.0.0.1"])
        )
        for info in infos:
            await liar.async_register_service(info, cooperating_responders=True)
        await until(lambda: set(node.discovery.refused) == {"outside", "protocol", "name"})
        assert node.hints == []
    finally:
        await node.discovery.stop()
        await liar.async_close()


async def test_a_machine_without_multicast_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets that cannot be had are a reason and no exception; it is tried again with the next look at interfaces."""
    node = Heard(A)
    real = AsyncZeroconf

    def fail(**_kwargs: object) -> None:
        raise OSError(errno.EADDRINUSE, "Address already in use")

    monkeypatch.setattr(discovery, "AsyncZeroconf", fail)
    await node.discovery.start(read_interfaces())
    assert "Address already in use" in str(node.discovery.reason)
    monkeypatch.setattr(discovery, "AsyncZeroconf", real)
    await node.discovery.update(read_interfaces())
    assert node.discovery.reason is None
    await node.discovery.stop()
    await node.discovery.start([])
    assert node.discovery.reason == "no network interface can be used for multicast"
    await node.discovery.stop()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(NonUniqueNameException(), "another machine announces the node id"), (OSError(1, "no"), "cannot be announced")],
)
async def test_a_name_that_is_taken_is_a_reason(fault, reason, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copied home, or a network that refuses, leaves the node browsing, with the reason."""

    async def refuse(*_args: object, **_kwargs: object) -> None:
        raise fault

    node = Heard(A)
    monkeypatch.setattr(AsyncZeroconf, "async_register_service", refuse)
    await node.start()
    await until(lambda: node.discovery.reason is not None)
    assert reason in str(node.discovery.reason)
    await node.discovery.stop()


async def test_a_flood_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of made-up names a bounded number is remembered, and a bounded number looked up at once."""
    node = Heard(A)
    node.discovery._interfaces = (LO, LAN)

    def load(info: AsyncServiceInfo, _zeroconf: object) -> bool:
        info.port = 7000
        info._set_properties({"p": "1", "n": info.name[:16]})
        info.addresses = ["192.0.2.9"]  # type: ignore[list-item]
        return True

    monkeypatch.setattr(AsyncServiceInfo, "load_from_cache", load)
    zeroconf = SimpleNamespace()
    for number in range(limits.ANNOUNCEMENTS_MAX + 5):
        name = f"{number:016x}.{SERVICE}"
        node.discovery._changed(zeroconf, SERVICE, name, ServiceStateChange.Added)  # type: ignore[arg-type]
    assert len(node.discovery.known) == limits.ANNOUNCEMENTS_MAX
    assert node.discovery.refused == {"full": 5}
    assert node.discovery.known[-1] == node.hints[-1]
    assert node.lost == node.hints[:5]

    async def wait(*_args: object) -> bool:
        await asyncio.sleep(60)
        return False

    monkeypatch.setattr(AsyncServiceInfo, "load_from_cache", lambda *_args: False)
    monkeypatch.setattr(AsyncServiceInfo, "async_request", wait)
    for number in range(limits.LOOKUPS_MAX + 5):
        name = f"{number:016x}.{SERVICE}"
        node.discovery._changed(zeroconf, SERVICE, name, ServiceStateChange.Updated)  # type: ignore[arg-type]
    assert node.discovery.refused["busy"] == 5
    await node.discovery.stop()
    assert node.discovery._lookups == set()


async def test_a_name_that_nobody_answers_for_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is announced and cannot be looked up is counted, and not waited for."""
    monkeypatch.setattr(limits, "LOOKUP_TIMEOUT_S", 0.2)
    node = Heard(A, announce=False)
    try:
        wire = AsyncZeroconf(interfaces=["127.0.0.1"])
    except OSError as error:
        pytest.skip(f"no multicast on loopback here: {error}")
    try:
        node.discovery._changed(wire.zeroconf, SERVICE, f"{B[:16]}.{SERVICE}", ServiceStateChange.Added)
        await until(lambda: node.discovery.refused["incomplete"] == 1, 8.0)
        assert node.hints == []
    finally:
        await node.discovery.stop()
        await wire.async_close()
