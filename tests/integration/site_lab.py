"""A site in network namespaces: nodes on a LAN, a router, and a seed behind a slow, lossy outside link.

    n1..nN --eth0--> br0 (sw, the router) ==wan0, the wire of site_wire.py== seed

Every name starts with the lab's prefix, which holds the process that made it: labs stand side by side, and what a
crash left is removed by the next one. Nothing is made in the machine's own namespace.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from tests.integration.site_wire import DEVICE

_WIRE: Final = Path(__file__).with_name("site_wire.py")
_NAME: Final = re.compile(r"(p2ps(\d+)(?:-[a-z]+)?)-(?:sw|seed|n\d+)\Z")
_GRACE_S: Final = 3.0
_NETWORK: Final = 77
# What a full IPv4 packet of TCP carries, with the timestamps that Linux sends.
PAYLOAD_OF_PACKET: Final = 1448 / 1500
# A shaped port holds this much of its rate, and never less than a few full packets.
_BURST_S: Final = 0.02
_BURST_BYTES_MIN: Final = 16 << 10
# A bridge of a lab without a partition, and the one that the other half of a partitioned LAN hangs on.
_BRIDGES: Final = ("br0", "br1")
_APART: Final = "apart0"
# The kernel counts the neighbours of all namespaces in one table and refuses what is over this: hosts then seem away.
_NEIGHBOURS: Final = tuple(Path(f"/proc/sys/net/{ip}/neigh/default/gc_thresh3") for ip in ("ipv4", "ipv6"))
_GATEWAY_MAC: Final = "02:70:32:70:73:01"


@dataclass(frozen=True, slots=True)
class Wan:
    """The outside link. ``loss`` is a share each way, ``rtt_ms`` the round trip; ``cc`` is TCP's control everywhere."""

    mbit: float = 20.0
    up_mbit: float = 0.0
    rtt_ms: float = 50.0
    loss: float = 0.01
    queue_kib: int = 256
    seed: int = 1
    cc: str = "cubic"


@dataclass(frozen=True, slots=True)
class Bytes:
    """IP bytes in both directions: towards the site or node, and away from it."""

    down: int
    up: int


@functools.cache
def why_not() -> str:
    """Why this machine cannot hold a lab, or nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "tc") if _program(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if not Path("/dev/net/tun").exists():
        return "this machine has no /dev/net/tun"
    probe = f"p2ps{os.getpid()}-probe-sw"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"this machine makes no network namespace: {made.stderr.strip()}"
    _command("ip", "netns", "del", probe)
    return ""


class SiteLab:
    """``nodes`` machines, n1 to nN, on one LAN, and the machine ``seed``. A context manager.

    Args:
        nodes: how many.
        wan: the outside link.
        lan_mbit: the rate of every LAN port, both ways; None is as fast as the machine.
        port_mbit: other rates for single nodes.
        lans: 1, or 2 for nodes with a second interface on a LAN of its own without a way out.
        label: letters that tell this lab from others of the process.
    """

    def __init__(
        self,
        nodes: int = 6,
        wan: Wan | None = None,
        *,
        lan_mbit: float | None = None,
        port_mbit: Mapping[str, float] | None = None,
        lans: int = 1,
        label: str = "",
    ) -> None:
        self.names = tuple(f"n{number}" for number in range(1, nodes + 1))
        self.wan = wan or Wan()
        self._rates = {**dict.fromkeys(self.names if lan_mbit else (), lan_mbit or 0.0), **(port_mbit or {})}
        self._lans = lans
        self._prefix = f"p2ps{os.getpid()}" + (f"-{label}" if label else "")
        self._processes: list[subprocess.Popen[Any]] = []
        self._wire: subprocess.Popen[str] | None = None
        self._before: dict[Path, str] = {}

    # what a lab is asked ------------------------------------------------------------------------

    def address(self, name: str, version: int = 4, lan: int = 0) -> str:
        """The address of a node, of ``seed`` or of the router ``sw``, without its prefix length."""
        subnet, host = (255, 2) if name == "seed" else (lan, 1 if name == "sw" else 10 + int(name[1:]))
        return f"10.{_NETWORK}.{subnet}.{host}" if version == 4 else f"fd{_NETWORK}:0:0:{subnet}::{host}"

    def argv(self, name: str, command: Sequence[object]) -> list[str]:
        """The command as it runs on a machine of the lab. Its process is the command itself, not a parent of it."""
        return ["ip", "netns", "exec", self._namespace(name), *map(str, command)]

    def run(self, name: str, command: Sequence[object], *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on a machine to its end, which must be a good one if ``check`` says so."""
        argv = self.argv(name, command)
        return subprocess.run(argv, check=check, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    def popen(self, name: str, command: Sequence[object], **options: Any) -> subprocess.Popen[Any]:
        """Start a command on a machine. It ends with the lab at the latest."""
        process = subprocess.Popen(self.argv(name, command), **options)
        self._processes.append(process)
        return process

    def set_wan(self, **settings: float) -> None:
        """Change the outside link while it runs: ``mbit``, ``up_mbit``, ``rtt_ms``, ``loss``, ``queue_kib``."""
        self._tell_wire(settings)

    def wan_up(self, on: bool) -> None:
        """Cut the outside link, or mend it. Nobody is told: packets just vanish."""
        self._tell_wire({"connected": on})

    def wan_bytes(self) -> Bytes:
        """What the seed's end of the link sent (``down``, before queue and loss) and received, IP headers included."""
        received, sent = self._device_bytes("seed", DEVICE)
        return Bytes(down=sent, up=received)

    def carried(self) -> dict[str, int]:
        """IP bytes that the link carried so far to each node, lost ones not counted."""
        hosts = self.wire_told()["hosts"]
        return {name: sum(hosts.get(self.address(name, v), 0) for v in (4, 6)) for name in self.names}

    def wire_told(self) -> dict[str, Any]:
        """Packets and bytes ``up`` and ``down`` the link, those lost and those that found the queue full."""
        self._tell_wire({"told": True})
        wire = self._running_wire()
        told: dict[str, Any] = json.loads(wire.stdout.readline() if wire.stdout else "")
        return told

    def link(self, name: str, on: bool, lan: int = 0) -> None:
        """Pull a node's LAN cable, or plug it in. The node's own end keeps its address."""
        self._ip("sw", f"link set {_port(name, lan)} {'up' if on else 'down'}")

    def set_port(self, name: str, mbit: float, lan: int = 0) -> None:
        """Shape a node's LAN port, both ways."""
        burst = max(_BURST_BYTES_MIN, int(mbit * 125_000 * _BURST_S))
        for machine, device in ((name, f"eth{lan}"), ("sw", _port(name, lan))):
            shape = f"qdisc replace dev {device} root tbf rate {mbit}mbit burst {burst} latency 50ms"
            _command("tc", "-n", self._namespace(machine), *shape.split())

    def port_bytes(self, name: str, lan: int = 0) -> Bytes:
        """What a node's LAN port received (``down``) and sent so far, Ethernet headers included."""
        received, sent = self._device_bytes(name, f"eth{lan}")
        return Bytes(down=received, up=sent)

    def partition(self, names: Sequence[str]) -> None:
        """Part these nodes from the others on the first LAN. Both halves keep the way out."""
        routes = [f"route replace {self.address(n, v)} dev {_APART}" for n in names for v in (4, 6)]
        self._ip("sw", *(f"link set {name} master {_APART}" for name in names), *routes)

    def heal(self) -> None:
        """Undo every partition."""
        apart = [f"route flush dev {_APART} {self.address(n)}" for n in self.names]
        apart += [f"-6 route flush dev {_APART} {self.address(n, 6)}" for n in self.names]
        self._ip("sw", *apart, *(f"link set {name} master {_BRIDGES[0]}" for name in self.names))

    # setting up and tearing down ------------------------------------------------------------------

    def __enter__(self) -> Self:
        _remove(lambda prefix, pid: prefix == self._prefix or not _alive(pid))
        try:
            self._allow_neighbours()
            self._make_machines()
            self._make_lans()
            self._make_wan()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process of the lab and remove its namespaces."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._wire is not None:
            for stream in (self._wire.stdin, self._wire.stdout):
                if stream is not None:
                    # It may be gone already, with a line still unread.
                    with suppress(BrokenPipeError):
                        stream.close()
            self._wire.terminate()
            self._wire.wait()
        _remove(lambda prefix, _pid: prefix == self._prefix)
        while self._before:
            path, text = self._before.popitem()
            path.write_text(text)

    def _allow_neighbours(self) -> None:
        """Let everybody of a large lab know everybody; ``close`` undoes it."""
        needed = 4 * (len(self.names) + 2) ** 2
        for path in _NEIGHBOURS:
            with suppress(OSError):
                text = path.read_text()
                if int(text) < needed:
                    path.write_text(str(needed))
                    self._before[path] = text

    def _make_machines(self) -> None:
        for name in ("sw", "seed", *self.names):
            _command("ip", "netns", "add", self._namespace(name))
            self._ip(name, "link set lo up")
            # Duplicate addresses are impossible here, and looking for them takes a second or two.
            self._settings(name, {f"net/ipv6/conf/{scope}/accept_dad": 0 for scope in ("all", "default")})
        self._settings("sw", {"net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1})

    def _make_lans(self) -> None:
        bridges = (*_BRIDGES[: self._lans], _APART)
        self._ip("sw", *(f"link add {bridge} type bridge forward_delay 0 mcast_snooping 0" for bridge in bridges))
        for lan, bridge in enumerate((*_BRIDGES[: self._lans], _APART)):
            # The parted half finds the router where it was: same addresses, same MAC.
            lan %= self._lans  # noqa: PLW2901 - the bridge behind the last one is again the first LAN's.
            mac = [f"link set {bridge} address {_GATEWAY_MAC}"] if lan == 0 else []
            self._ip(
                "sw",
                *mac,
                f"addr add {self.address('sw', 4, lan)}/{32 if bridge == _APART else 24} dev {bridge}",
                f"addr add {self.address('sw', 6, lan)}/{128 if bridge == _APART else 64} dev {bridge} nodad",
                f"link set {bridge} up",
            )
        for name in self.names:
            for lan in range(self._lans):
                self._plug(name, lan)
            # Per route, because a namespace may not choose among what the machine reserves for root.
            control = f"congctl {self.wan.cc}"
            self._ip(name, *(f"route add default via {self.address('sw', v)} {control}" for v in (4, 6)))

    def _plug(self, name: str, lan: int) -> None:
        port = _port(name, lan)
        self._ip(
            "sw",
            f"link add {port} type veth peer name eth{lan} netns {self._namespace(name)}",
            f"link set {port} master {_BRIDGES[lan]} up",
        )
        self._ip(
            name,
            f"addr add {self.address(name, 4, lan)}/24 dev eth{lan}",
            f"addr add {self.address(name, 6, lan)}/64 dev eth{lan} nodad",
            f"link set eth{lan} up",
            f"route replace 10.{_NETWORK}.{lan}.0/24 dev eth{lan} congctl {self.wan.cc}",
            f"-6 route replace fd{_NETWORK}:0:0:{lan}::/64 dev eth{lan} metric 256 congctl {self.wan.cc}",
        )
        if name in self._rates:
            self.set_port(name, self._rates[name], lan)

    def _make_wan(self) -> None:
        command = [sys.executable, str(_WIRE), self._namespace("sw"), self._namespace("seed")]
        self._wire = subprocess.Popen(
            [*command, json.dumps(asdict(self.wan))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self._wire.stdout is None or self._wire.stdout.readline() != "ready\n":
            raise RuntimeError("the wire of the outside link did not start")
        for name, host in (("sw", 1), ("seed", 2)):
            self._ip(
                name,
                f"addr add 10.{_NETWORK}.255.{host}/24 dev {DEVICE}",
                f"addr add fd{_NETWORK}:0:0:255::{host}/64 dev {DEVICE} nodad",
                f"link set {DEVICE} up mtu 1500",
            )
        self._ip("seed", *(f"-{v} route add default dev {DEVICE} congctl {self.wan.cc}" for v in (4, 6)))

    def _namespace(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _ip(self, name: str, *lines: str) -> None:
        for line in lines:
            _command("ip", "-n", self._namespace(name), *line.split())

    def _settings(self, name: str, settings: Mapping[str, object]) -> None:
        script = "; ".join(f"echo {value} > /proc/sys/{key}" for key, value in settings.items())
        self.run(name, ["sh", "-ec", script])

    def _running_wire(self) -> subprocess.Popen[str]:
        if self._wire is None:
            raise RuntimeError("the lab is not up: use it as `with SiteLab() as lab`")
        return self._wire

    def _tell_wire(self, settings: Mapping[str, object]) -> None:
        stdin = self._running_wire().stdin
        if stdin is not None:
            stdin.write(json.dumps(settings) + "\n")
            stdin.flush()

    def _device_bytes(self, name: str, device: str) -> tuple[int, int]:
        told = _command("ip", "-n", self._namespace(name), "-s", "-j", "link", "show", device)
        counted = json.loads(told)[0]["stats64"]
        return counted["rx"]["bytes"], counted["tx"]["bytes"]


def _port(name: str, lan: int) -> str:
    """The bridge's end of a cable."""
    return name if lan == 0 else f"{name}.{lan}"


def _program(name: str) -> str | None:
    return shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin")


def _command(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _remove(unwanted: Callable[[str, int], bool]) -> None:
    """Remove labs with every process in them. ``unwanted`` is asked with a prefix and the process that made it."""
    doomed = [name for name, prefix, pid in _namespaces() if unwanted(prefix, pid)]
    until_s = time.monotonic() + _GRACE_S
    while pids := [int(p) for name in doomed for p in _command("ip", "netns", "pids", name).split()]:
        if time.monotonic() > until_s:
            raise RuntimeError(f"processes {pids} of a lab do not end")
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    for name in doomed:
        _command("ip", "netns", "del", name)


def _namespaces() -> Iterator[tuple[str, str, int]]:
    """Name, prefix and maker's process of every namespace of any lab."""
    for line in _command("ip", "netns", "list").splitlines():
        found = _NAME.match(line.split()[0])
        if found:
            yield found[0], found[1], int(found[2])
