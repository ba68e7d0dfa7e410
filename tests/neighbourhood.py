"""Nodes that only keep site channels: a real server without a store, and neighbours that write down what happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from p2psync.manifest import SigningKey
from p2psync.node.neighbours import Neighbour, Neighbours
from p2psync.transport import ChannelTimes, Hello, ServeLimits, Server
from p2psync.transport.handshake import check_proof, decode_hello, encode_hello, transcript

# A hang guard, far above what anything takes.
PATIENCE_S = 20.0


class EmptyLibrary:
    """A server's library with nothing in it."""

    def head(self, name: str, selector: str) -> None:
        return None

    def node(self, digest: Any) -> None:
        return None

    def locate(self, digest: Any) -> None:
        return None

    def inventory(self, root: Any) -> None:
        return None


def key_of(number: int) -> SigningKey:
    """A fixed key for each number."""
    return SigningKey(bytes([number]) * 32)


@dataclass
class SiteNode:
    """One node and all that it was told."""

    server: Server
    neighbours: Neighbours
    url: str
    joined: list[Neighbour] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    messages: list[tuple[str, bytes]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.neighbours.node

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def ids(self) -> set[str]:
        """Ids of its neighbours now."""
        return {neighbour.id for neighbour in self.neighbours.live()}

    def refusals(self) -> list[str]:
        return [event["reason"] for event in self.events if event["state"] == "refused"]

    async def stop(self) -> None:
        await self.neighbours.stop()
        await self.server.stop(1.0)


async def start_node(
    number: int,
    *peers: str,
    site: str = "berlin",
    host: str = "127.0.0.1",
    port: int = 0,
    discover: bool = False,
    times: ChannelTimes | None = None,
    allowed: ServeLimits | None = None,
) -> SiteNode:
    """Start a node; on a free port unless one is named."""
    events: list[dict[str, Any]] = []
    joined: list[Neighbour] = []
    server = Server(EmptyLibrary(), node_id="", site=site, allowed=allowed)
    url = await server.start(host, port)
    node: SiteNode
    neighbours = Neighbours(
        key_of(number),
        site=site,
        host=host,
        port=int(url.rpartition(":")[2]),
        discover=discover,
        announce=discover,
        peers=peers,
        on_join=joined.append,
        on_leave=lambda neighbour, reason: node.left.append((neighbour.id, reason)),
        on_message=lambda sender, message: node.messages.append((sender, message)),
        emit=events.append,
        times=times,
    )
    node = SiteNode(server, neighbours, url, joined=joined, events=events)
    server.open_site(neighbours.accept)
    await neighbours.start()
    return node


@asynccontextmanager
async def site(*starts: Any) -> AsyncIterator[list[SiteNode]]:
    """Start nodes one after another and stop them all at the end."""
    async with AsyncExitStack() as stack:
        nodes = []
        for start in starts:
            node = await start
            stack.push_async_callback(node.stop)
            nodes.append(node)
        yield nodes


async def until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Wait for something that must become true."""
    async with asyncio.timeout(patience_s):
        while not condition():
            await asyncio.sleep(0.005)


async def meet(*nodes: SiteNode) -> None:
    """Wait until each of them has a channel to each other."""
    ids = {node.id for node in nodes}
    await until(lambda: all(node.ids() >= ids - {node.id} for node in nodes))


@asynccontextmanager
async def raw_channel(url: str, **headers: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A WebSocket to a node's site route that says nothing by itself."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/v1/site", headers=headers, autoping=False) as webs,
    ):
        yield webs


async def closing_word(webs: aiohttp.ClientWebSocketResponse) -> str:
    """Read until the other side closes, and return the reason that it gives."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            message = await webs.receive()
            if message.type is aiohttp.WSMsgType.CLOSE:
                return str(message.extra)
            assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.PING), message


async def introduce(
    webs: aiohttp.ClientWebSocketResponse, number: int, *, site: str = "berlin", port: int = 0
) -> Hello:
    """The dialler's half of the handshake by hand; after it the test may do what it likes. Returns who is there."""
    own = encode_hello(Hello(key_of(number).verify_key, bytes([number]) * 32, site, port, "puppet"))
    await webs.send_bytes(own)
    theirs = await webs.receive_bytes()
    await webs.send_bytes(key_of(number).sign(transcript(of_dialler=True, dialler=own, listener=theirs)))
    hello = decode_hello(theirs)
    proof = await webs.receive_bytes()
    check_proof(hello, transcript(of_dialler=False, dialler=own, listener=theirs), proof)
    return hello
