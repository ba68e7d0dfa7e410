"""This node among the nodes of its site: which versions it and its neighbours are spreading, and who hears what.

``Neighbours`` keeps a channel to each node, ``Session`` decides; here a message finds the session that it is for, and
a node that pulls nothing still says what it holds when a neighbour asks.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, Self

from p2psync.content import Digest
from p2psync.limits import ANSWERS_PER_NODE_MAX, DISCOVERY_WAIT_S, INTERFACE_CHECK_S, READERS_MAX
from p2psync.node.holdings import holdings
from p2psync.node.identity import node_key
from p2psync.node.neighbours import Neighbour, Neighbours
from p2psync.store import Store
from p2psync.swarm import Hello, Inventory, Message, decode, encode, topic_of
from p2psync.transport import Interface, inside, parse_address, read_interfaces

Emit = Callable[[dict[str, Any]], None]

log: Final = logging.getLogger(__name__)


class Spread(Protocol):
    """A pull of one version that takes part in the site."""

    @property
    def root(self) -> Digest:
        """The version."""

    @property
    def count(self) -> int:
        """Chunks of the version."""

    def met(self, neighbour: Neighbour) -> None:
        """A neighbour is there."""

    def parted(self, node: str) -> None:
        """A neighbour is gone."""

    def told(self, node: str, message: Message) -> None:
        """A neighbour spoke of this version."""

    def about(self, node: str) -> dict[str, Any] | None:
        """What a neighbour has to do with this version, for people."""


class Site:
    """The neighbours of one node and the versions that it spreads with them. For one event loop."""

    def __init__(self, store: Store, emit: Emit, *, serves: bool) -> None:
        self.serves = serves
        self.neighbours: Neighbours | None = None
        self._store = store
        self._emit = emit
        self._spreads: dict[bytes, Spread] = {}
        self._ready_s = 0.0
        self._departed_bytes = 0
        self._one_at_a_time = asyncio.Lock()
        self._near: dict[str, bool] = {}
        self._near_until_s = 0.0
        self._interfaces: tuple[Interface, ...] = ()
        self._arrival = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        # How many greetings of each neighbour are being answered.
        self._answers: Counter[str] = Counter()

    async def open(
        self,
        home: Path,
        *,
        site: str = "",
        host: str | None = None,
        port: int = 0,
        discover: bool,
        peers: Sequence[str] = (),
    ) -> Self:
        """Find the neighbours. ``host`` None is a node that listens nowhere: it reads and is not announced.

        Raises:
            UsageError: a peer is no URL.
        """
        key = await asyncio.to_thread(node_key, home)
        neighbours = Neighbours(
            key,
            site=site,
            host=host,
            port=port,
            discover=discover,
            announce=host is not None,
            peers=peers,
            on_join=self._joined,
            on_leave=lambda neighbour, _reason: self._left(neighbour),
            on_message=self._heard,
            emit=self._emit,
        )
        await neighbours.start()
        self.neighbours = neighbours
        self._ready_s = asyncio.get_running_loop().time() + (DISCOVERY_WAIT_S if discover else 0.0)
        return self

    async def close(self) -> None:
        """Say goodbye."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.neighbours is not None:
            await self.neighbours.stop()

    @property
    def node(self) -> str:
        """This node's id."""
        return self.neighbours.node if self.neighbours is not None else ""

    def live(self) -> list[Neighbour]:
        """The neighbours that there are now."""
        return self.neighbours.live() if self.neighbours is not None else []

    def control_bytes(self) -> int:
        """Bytes that crossed the channels to neighbours so far, both ways."""
        return self._departed_bytes + sum(n.sent_bytes + n.received_bytes for n in self.live())

    def spreads(self) -> list[Spread]:
        """The versions that this node is pulling."""
        return list(self._spreads.values())

    def bans(self) -> list[dict[str, Any]]:
        """Whom this node does not speak with, and which ids two machines have, and why."""
        now_s = asyncio.get_running_loop().time()
        bans = self.neighbours.bans() if self.neighbours is not None else []
        return [{"node": b.node, "reason": b.reason, "seconds": round(b.until_s - now_s, 1)} for b in bans]

    @property
    def degraded(self) -> str | None:
        """Why nobody can be found by multicast, None while it works or is not wanted."""
        discovery = self.neighbours.discovery if self.neighbours is not None else None
        return discovery.reason if discovery is not None else None

    def near(self, address: str) -> bool:
        """Whether an address stands in the networks of this machine, or is this machine."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._near_until_s or len(self._near) > READERS_MAX:
            self._near, self._near_until_s = {}, now_s + INTERFACE_CHECK_S
            self._interfaces = read_interfaces()
        if address not in self._near:
            parsed = parse_address(address)
            own = parsed is not None and (parsed.is_link_local or parsed.is_loopback)
            self._near[address] = own or inside(address, self._interfaces, loopback=True)
        return self._near[address]

    async def settled(self, patience_s: float = 0.0) -> None:
        """Return when discovery has had its time, at the latest; with ``patience_s``, when anybody was found, too."""
        loop = asyncio.get_running_loop()
        until_s = max(self._ready_s, loop.time() + patience_s)
        while loop.time() < until_s and not (patience_s and self.live()):
            self._arrival.clear()
            try:
                async with asyncio.timeout_at(until_s):
                    await self._arrival.wait()
            except TimeoutError:
                return

    # Spreading.

    def enter(self, spread: Spread) -> None:
        """A pull begins: it meets every neighbour, and hears what they say of its version."""
        self._spreads[topic_of(spread.root)] = spread
        for neighbour in self.live():
            spread.met(neighbour)

    def exit(self, spread: Spread) -> None:
        """A pull is over."""
        self._spreads.pop(topic_of(spread.root), None)

    def send(self, nodes: Sequence[str], message: Message) -> None:
        """Queue a message. A neighbour that does not read loses its channel, which ``parted`` tells."""
        if self.neighbours is not None and nodes:
            data = encode(message)
            for node in nodes:
                self.neighbours.send(node, data)

    def ban(self, node: str, reason: str, seconds: float) -> None:
        """Have nothing to do with a node for a while."""
        if self.neighbours is not None:
            self.neighbours.ban(node, reason, seconds)

    def _joined(self, neighbour: Neighbour) -> None:
        self._arrival.set()
        for spread in list(self._spreads.values()):
            spread.met(neighbour)

    def _left(self, neighbour: Neighbour) -> None:
        self._departed_bytes += neighbour.sent_bytes + neighbour.received_bytes
        for spread in list(self._spreads.values()):
            spread.parted(neighbour.id)

    def _heard(self, node: str, data: bytes) -> None:
        message = decode(data, self._count_of)
        if message is None:
            return
        if isinstance(message, Hello):
            spread = self._spreads.get(topic_of(message.root))
            if spread is None:
                if not message.answer:
                    self._begin_answer(node, message)
                return
            if spread.count == message.have.count:
                spread.told(node, message)
            return
        spread = self._spreads.get(message.topic)
        if spread is not None:
            spread.told(node, message)

    def _count_of(self, topic: bytes) -> int | None:
        spread = self._spreads.get(topic)
        return spread.count if spread is not None else None

    def _begin_answer(self, node: str, asked: Hello) -> None:
        """Answer a neighbour soon. One that greets faster than it can be answered is not heard meanwhile."""
        if self._answers[node] >= ANSWERS_PER_NODE_MAX:
            return
        # Of the greeting only this is kept: sixty bytes of it may unpack to an inventory of half a megabyte.
        task = asyncio.create_task(self._answer(node, asked.root, asked.have.count, wants=asked.wants))
        self._answers[node] += 1
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._answered(done, node))

    def _answered(self, task: asyncio.Task[None], node: str) -> None:
        self._tasks.discard(task)
        self._answers[node] -= 1
        if not self._answers[node]:
            del self._answers[node]

    async def _answer(self, node: str, root: Digest, count: int, *, wants: bool) -> None:
        """Say what this node holds of a version that it does not pull, or that it holds nothing.

        A pull of it that has begun meanwhile has greeted every neighbour, and hears what this one holds by its answer.
        """
        held = await self._held(node, root, count, wants=wants) if self.serves else None
        if topic_of(root) not in self._spreads:
            self.send((node,), Hello(root, False, False, True, bytes(8), held or Inventory(count)))  # noqa: FBT003

    async def _held(self, node: str, root: Digest, count: int, *, wants: bool) -> Inventory | None:
        try:
            bits = await asyncio.to_thread(self._store.inventory, root)
            if bits is not None:
                return Inventory.from_bits(bits, count) if len(bits) <= (count + 7) // 8 else None
            url = next((neighbour.url for neighbour in self.live() if neighbour.id == node), None)
            empty = not self._spreads and not await asyncio.to_thread(self._store.versions)
            if url is None or empty or not wants:
                return None
            # Chunks have no version: what another one brought is as good.
            async with self._one_at_a_time:
                return await holdings(self._store, root, count, url)
        except Exception:  # what cannot be read is not here
            log.exception("what is here of %s cannot be read", root)
            return None
