"""Whoever makes up announcements of multicast DNS: raw packets, so that they may be what no library would send.

They are given to whoever hears as if they had been read from a socket: what a test floods is not the machine's wire, on
which other tests listen, and nothing of the flood is lost.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import ClassVar

from p2psync.transport.discovery import SERVICE

_ANSWER = 0x8400
_PTR, _SRV, _TXT, _A = 12, 33, 16, 1
# The most that a reader of multicast DNS takes in one packet (RFC 6762, section 17), less the other records.
_TEXT_BYTES = 8500


class Announcers:
    """F 66: announces one node after another that is not there, with a text that is right."""

    count: ClassVar[int] = 10_000
    ttl_s: ClassVar[int] = 4500
    # So many packets in one turn of the event loop, as a socket gives them.
    in_a_row: ClassVar[int] = 20

    def text(self, prefix: str) -> Iterator[bytes]:
        """The strings of a node's TXT record."""
        yield b"p=1"
        yield b"n=" + prefix.encode()

    async def lie(self, hear: Callable[[bytes], None]) -> None:
        """Say them all."""
        for number in range(self.count):
            hear(self.packet(f"{number:016x}"))
            if number % self.in_a_row == 0:
                await asyncio.sleep(0)

    def packet(self, prefix: str) -> bytes:
        """All records of one node."""
        instance, host = _name(f"{prefix}.{SERVICE}"), _name(f"p2psync-{prefix}.local.")
        text = b"".join(bytes([len(each)]) + each for each in self.text(prefix))
        records = [
            self._record(_name(SERVICE), _PTR, instance),
            self._record(instance, _SRV, struct.pack("!HHH", 0, 0, 9) + host),
            self._record(instance, _TXT, text),
            self._record(host, _A, socket.inet_aton("127.0.0.1")),
        ]
        return struct.pack("!HHHHHH", 0, _ANSWER, 0, len(records), 0, 0) + b"".join(records)

    def _record(self, name: bytes, kind: int, data: bytes) -> bytes:
        return name + struct.pack("!HHIH", kind, 1, self.ttl_s, len(data)) + data


class GiantTexts(Announcers):
    """F 66: the same, with as much text as a packet holds, no two alike."""

    def text(self, prefix: str) -> Iterator[bytes]:
        yield from super().text(prefix)
        for _ in range(_TEXT_BYTES // 256):
            yield os.urandom(255)


class TextOf64Kib(Announcers):
    """F 66: the same, with 60,000 bytes of text in one datagram, which no reader of multicast DNS may take."""

    count: ClassVar[int] = 200

    def text(self, prefix: str) -> Iterator[bytes]:
        yield from super().text(prefix)
        for _ in range(60_000 // 256):
            yield os.urandom(255)


class Churn(Announcers):
    """F 66: each node is announced, taken back and announced again."""

    count: ClassVar[int] = 2000

    def packet(self, prefix: str) -> bytes:
        number = int(prefix, 16)
        return super().packet(f"{number % 100:016x}")

    def _record(self, name: bytes, kind: int, data: bytes) -> bytes:
        self._turn = getattr(self, "_turn", 0) + 1
        ttl_s = 0 if self._turn // 400 % 2 else self.ttl_s
        return name + struct.pack("!HHIH", kind, 1, ttl_s, len(data)) + data


def _name(text: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in text.strip(".").split(".")) + b"\0"
