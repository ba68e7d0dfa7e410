"""Askers of a server that mean it no good: each ``lie`` is one visit, and returns the statuses that were answered."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

# Answered by 405 and the end of the connection, after everything that was asked before.
LAST = b"DELETE / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    """The bytes of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "\r\n"]).encode()


@dataclass
class Asker:
    """Connections to one server; ``address`` is where they come from, on this machine."""

    host: str
    port: int
    path: str
    address: str | None = None
    open: list[asyncio.StreamWriter] = field(default_factory=list)

    async def lie(self) -> list[int]:
        """Ask as one that means well: one chunk."""
        return await self.converse(get(self.path))

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        local = (self.address, 0) if self.address else None
        reader, writer = await asyncio.open_connection(self.host, self.port, local_addr=local)
        self.open.append(writer)
        return reader, writer

    async def converse(self, *asks: bytes) -> list[int]:
        """The statuses of answers to requests on one connection, until the server ends it."""
        reader, writer = await self.dial()
        writer.write(b"".join([*asks, LAST]))
        return [status for status in statuses(await until_end(reader, writer)) if status != 405]

    def leave(self) -> None:
        """Break everything that is open."""
        for writer in self.open:
            writer.transport.abort()


def statuses(data: bytes) -> list[int]:
    """The statuses in what a server sent."""
    return [int(status) for status in _STATUS.findall(data)]


async def until_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """All that comes until the server ends the connection."""
    data = b""
    try:
        while part := await reader.read(1 << 16):
            data += part
    except ConnectionError:
        pass
    finally:
        writer.close()
    return data


class BadRanges(Asker):
    """C 39: asks for negative, reversed, overlapping and giant ranges of a chunk."""

    ranges: ClassVar[tuple[str, ...]] = (
        "bytes=--1",
        "bytes=9-5",
        "bytes=-0",
        "bytes=" + "0-9," * 999 + "0-9",
        f"bytes={1 << 50}-{1 << 51}",
        "bytes=0-" + "9" * 4000,
    )

    async def lie(self) -> list[int]:
        return await self.converse(*(get(self.path, f"Range: {value}") for value in self.ranges))


class Prober(Asker):
    """C 40: asks for one digest after another that no version has, on many connections."""

    at_once: ClassVar[int] = 16
    each: ClassVar[int] = 400

    async def lie(self) -> list[int]:
        told = await asyncio.gather(*(self.converse(*self._asks(number)) for number in range(self.at_once)))
        return [status for one in told for status in one]

    def _asks(self, number: int) -> Iterator[bytes]:
        return (get(f"/v1/chunks/{number * self.each + n:064x}") for n in range(self.each))


class Crowd(Asker):
    """C 41: a thousand connections that ask for much and read nothing."""

    count: ClassVar[int] = 1000

    async def lie(self) -> list[int]:
        crowd = await asyncio.gather(*(self.dial() for _ in range(self.count)))
        for _, writer in crowd:
            writer.write(get(self.path) * 4)
        return []


class SlowPoster(Asker):
    """C 42: says that a body comes, and sends a byte of it now and then."""

    pause_s: ClassVar[float] = 0.05

    async def lie(self) -> list[int]:
        reader, writer = await self.dial()
        writer.write(get("/v1/chunks", "Content-Length: 32768", method="POST"))
        sending = asyncio.ensure_future(self._dribble(writer))
        try:
            return statuses(await until_end(reader, writer))
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _dribble(self, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(self.pause_s)


class HoldsOn(Asker):
    """C 41: connects, says half a request, and stays."""

    async def lie(self) -> list[int]:
        reader, writer = await self.dial()
        writer.write(b"GET /v1/no")
        return statuses(await until_end(reader, writer))
