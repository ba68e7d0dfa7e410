"""The outside link of a site: a child process that carries packets between two TUN devices, as a thin line would.

usage: site_wire.py NAMESPACE-OF-THE-SITE NAMESPACE-OF-THE-SEED SETTINGS

Rate, one-way delay, loss and the queue are its own, since few kernels have netem and a seeded generator makes
losses come again. A line of JSON on standard input changes settings; ``{"told": true}`` is answered by what the
wire carried so far. It ends with its standard input, and so with the process that started it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import random
import select
import struct
import sys
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

DEVICE: Final = "wan0"
_CLONE_NEWNET: Final = 0x40000000
_TUNSETIFF: Final = 0x400454CA
_TUN_WITHOUT_PACKET_INFO: Final = 0x1001
_PACKET_BYTES_MAX: Final = 65_535
# One direction must not keep the other waiting.
_PACKETS_PER_TURN: Final = 256
_BYTES_PER_S_OF_MBIT: Final = 125_000.0
# Longest sleep, so that nothing depends on one wake-up.
_IDLE_S: Final = 1.0


@dataclass
class Line:
    """One direction: a rate, a delay behind it, a queue before it. Time is an argument.

    A lost packet takes its time on the line like any other, and a packet that the queue has no room for takes none.
    """

    mbit: float
    delay_s: float
    loss: float
    queue_bytes: int
    chance: random.Random
    up: bool = True
    packets: int = 0
    bytes: int = 0
    lost: int = 0
    overflowed: int = 0
    _free_s: float = 0.0

    def offer(self, length: int, now_s: float) -> float | None:
        """When a packet of ``length`` bytes that comes at ``now_s`` arrives at the far end; None if it never does."""
        if not self.up:
            return None
        rate = self.mbit * _BYTES_PER_S_OF_MBIT
        wait_s = max(self._free_s - now_s, 0.0)
        if wait_s * rate + length > self.queue_bytes:
            self.overflowed += 1
            return None
        self._free_s = now_s + wait_s + length / rate
        if self.chance.random() < self.loss:
            self.lost += 1
            return None
        self.packets += 1
        self.bytes += length
        return self._free_s + self.delay_s

    def told(self) -> dict[str, int]:
        """What it carried, in packets and IP bytes."""
        return {"packets": self.packets, "bytes": self.bytes, "lost": self.lost, "overflowed": self.overflowed}


@dataclass
class Wire:
    """Both directions, and the bytes that were carried to each address of the site."""

    up: Line
    down: Line
    to_host: Counter[bytes] = field(default_factory=Counter)

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Wire:
        """Make a wire of ``mbit``, ``up_mbit``, ``rtt_ms``, ``loss``, ``queue_kib`` and ``seed``."""
        chance = random.Random(settings["seed"])
        lines = [Line(1.0, 0.0, 0.0, 0, chance) for _ in range(2)]
        wire = cls(*lines)
        wire.set(settings)
        return wire

    def set(self, settings: dict[str, Any]) -> None:
        """Take over whichever settings are named; ``connected`` False drops everything."""
        for line in (self.up, self.down):
            line.mbit = settings.get("mbit", line.mbit)
            line.delay_s = settings.get("rtt_ms", line.delay_s * 2000) / 2000
            line.loss = settings.get("loss", line.loss)
            line.queue_bytes = settings.get("queue_kib", line.queue_bytes / 1024) * 1024
            line.up = settings.get("connected", line.up)
        self.up.mbit = settings.get("up_mbit") or self.up.mbit

    def told(self) -> dict[str, Any]:
        """Everything that was carried so far; ``hosts`` are the bytes to each address."""
        hosts = {_address(raw): count for raw, count in self.to_host.items()}
        return {"up": self.up.told(), "down": self.down.told(), "hosts": hosts}


def run(site: str, seed: str, settings: dict[str, Any]) -> None:
    """Carry packets until standard input ends."""
    wire = Wire.of(settings)
    ends = (_tun(site), _tun(seed))
    lines = (wire.up, wire.down)
    ways: tuple[deque[tuple[float, bytes]], ...] = (deque(), deque())
    ready = select.epoll()
    for descriptor in (*ends, 0):
        ready.register(descriptor, select.EPOLLIN)
    _say("ready")
    while True:
        now_s = time.monotonic()
        due_s = min((way[0][0] for way in ways if way), default=now_s + _IDLE_S)
        for descriptor, _ in ready.poll(min(max(due_s - now_s, 0.0), _IDLE_S)):
            if descriptor == 0:
                if not _obey(wire):
                    return
                continue
            side = ends.index(descriptor)
            _take_in(descriptor, lines[side], ways[side], wire.to_host if side else None)
        now_s = time.monotonic()
        for side, way in enumerate(ways):
            while way and way[0][0] <= now_s:
                # A device whose queue is full, or that is down, drops what it is given.
                with suppress(OSError):
                    os.write(ends[1 - side], way.popleft()[1])


def _take_in(descriptor: int, line: Line, way: deque[tuple[float, bytes]], to_host: Counter[bytes] | None) -> None:
    for _ in range(_PACKETS_PER_TURN):
        try:
            packet = os.read(descriptor, _PACKET_BYTES_MAX)
        except BlockingIOError:
            return
        arrives_s = line.offer(len(packet), time.monotonic())
        if arrives_s is None:
            continue
        way.append((arrives_s, packet))
        if to_host is not None:
            to_host[_destination(packet)] += len(packet)


def _destination(packet: bytes) -> bytes:
    return packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]


def _address(raw: bytes) -> str:
    import ipaddress

    return str(ipaddress.ip_address(raw))


def _obey(wire: Wire) -> bool:
    """Read one line of standard input; False at its end."""
    line = sys.stdin.readline()
    if not line:
        return False
    settings = json.loads(line)
    if settings.pop("told", False):
        _say(json.dumps(wire.told()))
    wire.set(settings)
    return True


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _tun(namespace: str) -> int:
    """A new TUN device in a namespace; its descriptor works from any other."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(there, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _TUN_WITHOUT_PACKET_INFO))
        if libc.setns(home, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "cannot come back")
    finally:
        os.close(there)
        os.close(home)
    return tun


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
