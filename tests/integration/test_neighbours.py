"""Nodes that find each other as processes on real wires: by multicast over both families, by hearsay, after crashes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

import environment
from p2psync.transport import node_id_of
from tests.integration import site_lab
from tests.integration.lab import until
from tests.integration.site_lab import SiteLab
from tests.neighbourhood import key_of

# Two labs at a time would slow each other's links.
pytestmark = pytest.mark.xdist_group("lab")
IN_LAB = pytest.mark.skipif(bool(site_lab.why_not()), reason=site_lab.why_not())
# Nothing said for this long ends a channel: a pulled cable is noticed within it.
HASTY = {"keepalive_s": 0.5, "silence_s": 1.5, "close_s": 0.3}


def id_of(number: int) -> str:
    return node_id_of(key_of(number).verify_key)


@dataclass
class Process:
    """A running node and what it wrote so far."""

    popen: subprocess.Popen[str]
    events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def url(self) -> str:
        until(lambda: bool(self.events), "the node listens")
        return str(self.events[0]["url"])

    def states(self, number: int) -> list[str]:
        """What became of another node, in order: joined, left."""
        return [event["state"] for event in self.events if event.get("node") == id_of(number)]

    def knows(self, number: int) -> bool:
        return self.states(number)[-1:] == ["joined"]

    def url_of(self, number: int) -> str:
        return [str(event["url"]) for event in self.events if event.get("node") == id_of(number)][-1]

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.events.append(json.loads(line))


@contextmanager
def node(number: int, *, wrap: Callable[[Sequence[str]], Sequence[str]] = tuple, **settings: Any) -> Iterator[Process]:
    """A node as a process; with ``wrap`` somewhere else than here."""
    argv = [sys.executable, "-m", "tests.integration.neighbour", json.dumps({"number": number, **settings})]
    with subprocess.Popen(wrap(argv), stdout=subprocess.PIPE, text=True, cwd=environment.ROOT) as popen:
        try:
            yield Process(popen)
        finally:
            popen.terminate()
            popen.wait(30)


@contextmanager
def nodes_in(lab: SiteLab, **settings: Any) -> Iterator[list[Process]]:
    """A node on each machine of the lab, on all its interfaces, found by multicast alone."""
    with ExitStack() as stack:
        running = []
        for number, name in enumerate(lab.names, 1):
            wrap = lambda argv, name=name: lab.argv(name, argv)  # noqa: E731
            one = node(number, wrap=wrap, host="", port=7000, discover=True, **settings)
            running.append(stack.enter_context(one))
        yield running


def all_know_each_other(running: Sequence[Process]) -> bool:
    numbers = range(1, len(running) + 1)
    return all(one.knows(other) for own, one in enumerate(running, 1) for other in numbers if other != own)


def test_a_crash_is_noticed_at_once_and_mended() -> None:
    """A node that is killed says no goodbye; its neighbour knows at once, and has it back when it runs again."""
    with node(1) as one, node(2, peers=[one.url]) as two:
        until(lambda: one.knows(2) and two.knows(1), "they meet")
        port = int(one.url.rpartition(":")[2])
        one.popen.kill()
        until(lambda: two.states(1) == ["joined", "left"], "the crash is noticed")
        with node(1, port=port) as again:
            until(lambda: two.knows(1) and again.knows(2), "they meet again")


def test_a_stopped_process_is_given_up_and_found_again() -> None:
    """A process that hangs keeps its connections; it is given up after the limit, and is back when it goes on."""
    with node(1, times=HASTY) as one, node(2, peers=[one.url], times=HASTY) as two:
        until(lambda: one.knows(2) and two.knows(1), "they meet")
        os.kill(one.popen.pid, 19)
        began_s = time.monotonic()
        until(lambda: two.states(1) == ["joined", "left"], "the silence is noticed")
        assert time.monotonic() - began_s < 20.0
        assert two.events[-1]["reason"] == "silent"
        os.kill(one.popen.pid, 18)
        until(lambda: two.knows(1) and one.knows(2), "they meet again")


@pytest.mark.parametrize("families", ["both", "IPv4", "IPv6", "link-local"])
@pytest.mark.root
@IN_LAB
def test_multicast_finds_everybody(families: str) -> None:
    """Three machines that know nothing of each other meet over both families, and over each of them alone."""
    with SiteLab(nodes=3, label="find") as lab:
        for name in lab.names:
            if families in ("IPv6", "link-local"):
                lab.run(name, ["ip", "-4", "addr", "flush", "dev", "eth0"])
            if families == "link-local":
                lab.run(name, ["ip", "-6", "addr", "flush", "dev", "eth0", "scope", "global"])
            if families == "IPv4":
                lab.run(name, ["sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6"])
        with nodes_in(lab) as running:
            until(lambda: all_know_each_other(running), "all meet")
            host = running[0].url_of(2).removeprefix("http://")
            assert host.startswith({"IPv6": "[fd", "link-local": "[fe80"}.get(families, "10."))


@pytest.mark.root
@IN_LAB
def test_two_lans_and_no_way_past_the_router() -> None:
    """Machines on two LANs meet once, over one of them; the machine behind the router hears of nobody."""
    with SiteLab(nodes=2, lans=2, label="lans") as lab:
        outside = node(9, wrap=lambda argv: lab.argv("seed", argv), host="", port=7000, discover=True)
        with outside as seed, nodes_in(lab) as running:
            until(lambda: all_know_each_other(running), "both meet")
            time.sleep(1.0)
            assert [one.states(3 - number) for number, one in enumerate(running, 1)] == [["joined"], ["joined"]]
            assert seed.events[1:] == []


@pytest.mark.root
@IN_LAB
def test_a_pulled_cable_is_noticed_and_mended() -> None:
    """A machine whose cable is pulled is missed in bounded time by all, and is back when the cable is."""
    with SiteLab(nodes=3, label="cable") as lab, nodes_in(lab, times=HASTY) as running:
        until(lambda: all_know_each_other(running), "all meet")
        lab.link("n3", False)
        until(lambda: all(one.states(3)[-1] == "left" for one in running[:2]), "the silence is noticed")
        assert all(one.events[-1]["reason"] == "silent" for one in running[:2])
        assert running[0].knows(2)
        lab.link("n3", True)
        until(lambda: all_know_each_other(running), "all meet again")


@pytest.mark.root
@IN_LAB
def test_an_address_that_comes_late_is_used() -> None:
    """A machine that got its network after its node started is found without a restart."""
    with SiteLab(nodes=2, label="late") as lab:
        lab.run("n2", ["ip", "addr", "flush", "dev", "eth0"])
        with nodes_in(lab, check_s=0.5) as running:
            assert running[1].url
            time.sleep(2.0)
            assert [len(one.events) for one in running] == [1, 1]
            lab.run("n2", ["ip", "addr", "add", f"{lab.address('n2')}/24", "dev", "eth0"])
            until(lambda: all_know_each_other(running), "both meet")
