"""The lab does what it says, so that a test in it fails for the program's faults and not for the lab's."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import site_lab
from tests.integration.lab import until
from tests.integration.site_lab import SiteLab, Wan
from tests.integration.site_wire import Line, Wire

# Two labs at a time would slow each other's links.
pytestmark = pytest.mark.xdist_group("lab")

ROOT = Path(__file__).parent.parent.parent
# Answers every connection with as many zeros as its first line says.
SERVER = """
import socket, socketserver
class Answer(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(bytes(int(self.rfile.readline() or 0)))
class Server(socketserver.ThreadingTCPServer):
    address_family, allow_reuse_address, daemon_threads = socket.AF_INET6, True, True
Server(("::", 9), Answer).serve_forever()
"""
# Fetches that many zeros and prints the seconds that it took.
CLIENT = """
import socket, sys, time
began = time.monotonic()
with socket.create_connection((sys.argv[1], 9), float(sys.argv[3])) as connection:
    connection.sendall(sys.argv[2].encode() + b"\\n")
    left = int(sys.argv[2])
    while left:
        left -= len(connection.recv(1 << 16)) or sys.exit(1)
print(time.monotonic() - began)
"""


def line(**settings) -> Line:
    return Line(
        **{"mbit": 8.0, "delay_s": 0.025, "loss": 0.0, "queue_bytes": 3500, "chance": random.Random(1)} | settings
    )


def test_a_line_serves_at_its_rate_and_then_delays():
    """1,000 bytes at 8 Mbit/s take a millisecond each, one after the other, and 25 ms on the way."""
    wire = line()
    assert [wire.offer(1000, 5.0) for _ in range(3)] == pytest.approx([5.026, 5.027, 5.028])


def test_a_full_queue_drops_what_comes_last():
    """What does not fit into the queue is gone and takes no time; when the line has drained there is room again."""
    wire = line()
    arrivals = [wire.offer(1000, 0.0) for _ in range(4)]
    assert [a is None for a in arrivals] == [False, False, False, True]
    assert wire.offer(1000, 0.0011) == pytest.approx(0.029)
    assert (wire.overflowed, wire.packets, wire.bytes) == (1, 4, 4000)


def test_losses_are_as_many_as_set_and_come_again():
    """One packet in ten is lost, and with the same seed the same ones."""

    def lost() -> list[bool]:
        wire = line(loss=0.1, chance=random.Random(3))
        return [wire.offer(100, at) is None for at in range(10_000)]

    assert lost() == lost()
    assert 900 < sum(lost()) < 1100


def test_a_cut_line_carries_nothing_until_it_is_mended():
    """A wire that was disconnected drops what comes, in both directions, and keeps its other settings."""
    wire = Wire.of({"mbit": 20, "up_mbit": 2, "rtt_ms": 50, "loss": 0.0, "queue_kib": 64, "seed": 1})
    wire.set({"connected": False})
    assert wire.down.offer(100, 0.0) is None
    assert wire.up.offer(100, 0.0) is None
    wire.set({"connected": True})
    assert wire.down.offer(2500, 1.0) == pytest.approx(1.026)
    assert wire.up.offer(2500, 1.0) == pytest.approx(1.035)


@pytest.fixture(scope="module")
def lab() -> Iterator[SiteLab]:
    """Four nodes, one behind a port of 8 Mbit/s, two LANs, and a line of 20 Mbit/s without losses."""
    with SiteLab(4, Wan(loss=0.0), port_mbit={"n4": 8}, lans=2, label="own") as site:
        for name in (*site.names, "seed"):
            site.popen(name, [sys.executable, "-c", SERVER])
        for name in site.names:
            until(lambda name=name: fetch(site, name, site.address(name), 0) is not None, "servers")
        until(lambda: fetch(site, "n1", site.address("seed"), 0) is not None, "the seed's server")
        yield site


def fetch(lab: SiteLab, name: str, address: str, count: int, timeout_s: float = 5.0) -> float | None:
    """The seconds in which a node fetches ``count`` bytes; None if it cannot."""
    done = lab.run(name, [sys.executable, "-c", CLIENT, address, count, timeout_s], check=False)
    return float(done.stdout) if done.returncode == 0 else None


def reaches(lab: SiteLab, name: str, other: str, *, tries: int = 5, **where: int) -> bool:
    """Whether one of several tries succeeds; on a busy machine the first may come too late."""
    return any(fetch(lab, name, lab.address(other, **where), 1, 0.5) is not None for _ in range(tries))


def cut_off(lab: SiteLab, name: str, other: str) -> bool:
    return not reaches(lab, name, other, tries=1)


@pytest.mark.root
@pytest.mark.skipif(bool(site_lab.why_not()), reason=site_lab.why_not())
class TestLab:
    def test_everybody_reaches_everybody_by_both_families(self, lab):
        """Nodes reach each other on both LANs and the seed through the router, over IPv4 and IPv6."""
        for version in (4, 6):
            assert reaches(lab, "n1", "n2", version=version)
            assert reaches(lab, "n1", "n2", version=version, lan=1)
            assert reaches(lab, "n3", "seed", version=version)

    def test_the_outside_link_has_its_rate_delay_and_count(self, lab):
        """1 MB takes 0.4 s at 20 Mbit/s and round trips of 50 ms; what crossed is counted, to each node apart."""
        sent, carried = lab.wan_bytes(), lab.carried()
        seconds = fetch(lab, "n2", lab.address("seed"), 1_000_000)
        assert seconds is not None
        # The link cannot be faster; a busy machine makes everything slower, and TCP sends some packets twice.
        assert seconds > 0.5
        assert 1_000_000 < lab.wan_bytes().down - sent.down < 2_000_000
        assert 1_000_000 < lab.carried()["n2"] - carried["n2"] < 2_000_000
        assert lab.carried()["n1"] == carried["n1"]

    def test_a_port_has_its_rate(self, lab):
        """1 MB into the port of 8 Mbit/s takes a second, and the port counts it."""
        before = lab.port_bytes("n4")
        seconds = fetch(lab, "n4", lab.address("n1"), 1_000_000)
        assert seconds is not None
        assert seconds > 0.9
        assert 1_000_000 < lab.port_bytes("n4").down - before.down < 2_000_000

    def test_the_outside_link_is_cut_and_mended(self, lab):
        """A cut link carries nothing; the LAN stays; a mended one carries again."""
        lab.wan_up(False)
        try:
            assert cut_off(lab, "n1", "seed")
            assert reaches(lab, "n1", "n2")
        finally:
            lab.wan_up(True)
        assert reaches(lab, "n1", "seed")

    def test_a_cable_is_pulled_and_plugged_in(self, lab):
        """A node without its cable reaches nobody, and with it everybody."""
        lab.link("n3", False)
        try:
            assert cut_off(lab, "n1", "n3")
        finally:
            lab.link("n3", True)
        until(lambda: reaches(lab, "n1", "n3"), "the cable")

    def test_halves_are_parted_and_healed(self, lab):
        """Within a half and to the seed everything goes on, between the halves nothing; healed, it does again."""
        lab.partition(["n1", "n2"])
        try:
            assert reaches(lab, "n1", "n2")
            assert reaches(lab, "n3", "n4")
            assert cut_off(lab, "n1", "n3")
            assert cut_off(lab, "n4", "n2")
            assert reaches(lab, "n1", "seed")
            assert reaches(lab, "n3", "seed")
        finally:
            lab.heal()
        assert reaches(lab, "n1", "n3")
        assert reaches(lab, "n1", "seed")

    def test_the_next_lab_removes_what_a_crash_left(self, tmp_path):
        """A lab whose process was killed leaves namespaces and processes; the next lab of anybody ends both."""
        left = tmp_path / "left"
        script = (
            "import os, signal, sys\n"
            "from tests.integration.site_lab import SiteLab\n"
            "with SiteLab(1) as lab:\n"
            "    sleeper = lab.popen('n1', ['sleep', '600'])\n"
            f"    open({str(left)!r}, 'w').write(str(sleeper.pid))\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        died = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
        assert died.returncode == -signal.SIGKILL
        pid = int(left.read_text())
        assert site_lab._alive(pid)
        with SiteLab(1, label="next"):
            until(lambda: not site_lab._alive(pid) or _is_zombie(pid), "the end of what the lab left")
            makers = {maker for _name, _prefix, maker in site_lab._namespaces()}
        assert all(site_lab._alive(maker) for maker in makers)

    def test_a_lab_ends_what_it_started(self):
        """Processes that were started by hand in a namespace end with the lab as well."""
        with SiteLab(1, label="ends") as lab:
            own = lab.popen("n1", ["sleep", "600"])
            other = subprocess.Popen(lab.argv("n1", ["sleep", "600"]))
            began_s = time.monotonic()
        assert own.returncode == -signal.SIGTERM
        assert other.wait(5) == -signal.SIGKILL
        assert time.monotonic() - began_s < 5
        assert not any(
            maker == os.getpid() and prefix.endswith("-ends") for _n, prefix, maker in site_lab._namespaces()
        )


def _is_zombie(pid: int) -> bool:
    return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
