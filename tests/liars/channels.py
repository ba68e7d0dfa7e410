"""Neighbours on a site channel that lie, once they have proved a key: each ``lie`` speaks on an open channel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

import aiohttp

from p2psync.content import Digest
from p2psync.limits import CHUNKS_PER_VERSION_MAX
from p2psync.swarm.gossip import Whereabouts, encode_gossip
from p2psync.swarm.varint import varint
from tests.neighbourhood import closing_word, introduce, raw_channel

# The tag, and the flag of who wants the version.
_HELLO = b"\x01\x01"


class Gossiper:
    """A neighbour that is what it says it is. Each subclass says something that is not so."""

    number: ClassVar[int] = 9

    def __init__(self, url: str) -> None:
        self.url = url

    @asynccontextmanager
    async def joined(self, port: int = 0) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """An open channel to the node at the URL."""
        async with raw_channel(self.url) as webs:
            await introduce(webs, self.number, port=port)
            yield webs

    async def lie(self, webs: aiohttp.ClientWebSocketResponse) -> None:
        """Say it."""

    async def parted(self) -> str:
        """Say it, and return the word by which the node parts."""
        async with self.joined() as webs:
            await self.lie(webs)
            return await closing_word(webs)


class GiantHaveMap(Gossiper):
    """C 43: greets with a version of 10^9 chunks, of which it says that it holds all, in one run."""

    chunks: ClassVar[int] = 10**9

    async def lie(self, webs: aiohttp.ClientWebSocketResponse) -> None:
        have = b"\0" + varint(0) + varint(self.chunks)
        await webs.send_bytes(_hello(self.chunks, have))


class GiantBitset(GiantHaveMap):
    """C 43: the same, and begins to list them bit by bit, in the largest message that there may be."""

    async def lie(self, webs: aiohttp.ClientWebSocketResponse) -> None:
        await webs.send_bytes(_hello(CHUNKS_PER_VERSION_MAX + 1, b"\1" + b"\xff" * (1 << 19)))


class EndlessRuns(GiantHaveMap):
    """C 43: a list of runs that sums up to far more than the version has, each of them small."""

    chunks: ClassVar[int] = 1000

    async def lie(self, webs: aiohttp.ClientWebSocketResponse) -> None:
        await webs.send_bytes(_hello(self.chunks, b"\0" + (varint(0) + varint(1)) * (1 << 18)))


class Misleader(Gossiper):
    """C 44: says that nodes are where none is: at this machine itself, at a cloud's metadata, everywhere, nowhere."""

    places: ClassVar[tuple[str, ...]] = (
        "169.254.169.254",
        "169.254.170.2",
        "fd00:ec2::254",
        "224.0.0.251",
        "255.255.255.255",
        "0.0.0.0",
        "8.8.8.8",
        "fe80::1",
        "ff02::fb",
        "::",
        "::ffff:127.0.0.1",
    )

    async def lie(self, webs: aiohttp.ClientWebSocketResponse) -> None:
        told = [Whereabouts(f"{number:016x}", place, 6379) for number, place in enumerate(self.places)]
        await webs.send_bytes(encode_gossip(told))


class Greeter(GiantHaveMap):
    """C 43: greets again and again, each time with another version of four million chunks that it says it holds."""

    count: ClassVar[int] = 2000

    async def lie(self, webs: aiohttp.ClientWebSocketResponse, count: int | None = None) -> None:
        have = b"\0" + varint(0) + varint(CHUNKS_PER_VERSION_MAX)
        for number in range(count or self.count):
            root = Digest.of(number.to_bytes(4, "big"))
            await webs.send_bytes(_hello(CHUNKS_PER_VERSION_MAX, have, root))


def _hello(chunks: int, have: bytes, root: Digest | None = None) -> bytes:
    """A greeting of the layers above the channel (docs/protocol.md, section 14), without jobs."""
    return _HELLO + (root or Digest.of(b"of nobody")) + bytes(8) + varint(chunks) + varint(0) + have
