"""A site in virtual time: who can hear whom, what went over which link, and a record of everything that happened."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from p2psync.content import Digest
from p2psync.limits import CHANNEL_SILENCE_S, CHUNK_BYTES
from p2psync.manifest import Chunk, Place
from p2psync.swarm import Ask, Message, decode, encode
from tests.simulation.clock import Clock
from tests.simulation.links import Outside, SharedPort

ROOT = Digest.of(b"the simulated version")
LINE = 20e6 / 8
LAN = 1e9 / 8
RTT_S = 0.05
LUCK_SIGMA = 0.25
# Two nodes that find each other need this long for a connection and its handshake.
MEETING_S = (0.02, 0.2)


class Member(Protocol):
    """A node of the site, honest or not."""

    name: str
    alive: bool
    honest: bool
    up: SharedPort

    def meet(self, other: str) -> None:
        """A channel to another node is open."""

    def part(self, other: str) -> None:
        """It is closed."""

    def hear(self, other: str, message: Message) -> None:
        """The other says something."""

    def stir(self, other: str, *, apart: bool) -> None:
        """The way to another node is cut, or mended: whatever runs between the two stops or goes on."""


def table_of(lengths: Iterable[int]) -> list[Chunk]:
    """A version of chunks of these lengths."""
    offset = 0
    table = []
    for index, length in enumerate(lengths):
        table.append(Chunk(index, Digest.of(index.to_bytes(4, "little")), length, (Place(0, offset),)))
        offset += length
    return table


def even_table(count: int, length: int = CHUNK_BYTES) -> list[Chunk]:
    """A version of equal chunks."""
    return table_of([length] * count)


class World:
    """One site, its link and its clock. Everything random comes from ``seed``.

    ``watch`` are called with each new request to the outside, before it is made; ``ticks`` with the name of a node
    that looks at its clock.
    """

    def __init__(self, table: Sequence[Chunk], seed: int, *, line: float = LINE, delay_s: float = 0.01) -> None:
        self.table = table
        self.clock = Clock()
        self.random = random.Random(seed)
        self.outside = Outside(self.clock, line, RTT_S)
        self.delay_s = delay_s
        self.members: dict[str, Member] = {}
        self.watch: list[Callable[[str, Ask], None]] = []
        self.ticks: list[Callable[[str], None]] = []
        self.seed_down = False
        self.control_bytes = 0
        self.wire = True
        self.faults = 0
        self._sides: dict[str, int] = {}
        self._pulled: set[str] = set()
        self._healed_s: dict[frozenset[str], float] = {}
        self._channels: dict[frozenset[str], float] = {}  # since when nothing has come through, 0 while it does
        self._waiting: dict[frozenset[str], list[tuple[str, str, Message, bytes]]] = {}
        self._record = hashlib.blake2b(digest_size=16)

    def note(self, *what: object) -> None:
        """Write down that something happened."""
        self._record.update(repr((self.clock.now_s, *what)).encode())

    @property
    def trace(self) -> str:
        """What stands for everything that happened so far."""
        return self._record.hexdigest()

    def luck(self) -> float:
        """How much better or worse one connection fares than another; 1 on average."""
        return self.random.lognormvariate(-(LUCK_SIGMA**2) / 2, LUCK_SIGMA)

    # Who can hear whom.

    def enter(self, member: Member) -> None:
        """A node is switched on: it and the others find each other."""
        others = [other for other in self.members.values() if other.alive]
        self.members[member.name] = member
        for other in others:
            self.clock.after(self.random.uniform(*MEETING_S), self.introduce, member.name, other.name)

    def introduce(self, one: str, other: str) -> None:
        """Two nodes open a channel, if they can."""
        pair = frozenset((one, other))
        if pair in self._channels or self.apart(one, other) or not self._live(pair):
            return
        self._channels[pair] = 0.0
        for name, peer in ((one, other), (other, one)):
            self.members[name].meet(peer)

    def _live(self, pair: Iterable[str]) -> bool:
        return all(self.members[name].alive for name in pair)

    def apart(self, one: str, other: str) -> bool:
        """Whether nothing gets from one node to another."""
        return self._sides.get(one, 0) != self._sides.get(other, 0) or one in self._pulled or other in self._pulled

    def linked(self, one: str, other: str) -> bool:
        """Whether two nodes have a channel and can use it."""
        return frozenset((one, other)) in self._channels and not self.apart(one, other)

    def linked_s(self, one: str, other: str) -> float:
        """For how long two nodes that are linked have been so without a break, as far as divisions go."""
        return self.clock.now_s - self._healed_s.get(frozenset((one, other)), float("-inf"))

    def close(self, one: str, other: str) -> None:
        """A channel ends; both sides learn it as they are there to."""
        pair = frozenset((one, other))
        if self._channels.pop(pair, None) is None:
            return
        self._waiting.pop(pair, None)
        for name, peer in ((one, other), (other, one)):
            if self.members[name].alive:
                self.members[name].part(peer)

    def closing(self, name: str) -> None:
        """A node is gone and its kernel says so: every channel to it closes."""
        for other in list(self.members):
            if frozenset((name, other)) in self._channels:
                self.clock.after(self.delay_s, self.close, name, other)

    def divide(self, sides: dict[str, int]) -> None:
        """Only nodes of one side hear each other, from now on; those that are not named are of side 0."""
        self._change(lambda: setattr(self, "_sides", sides))

    def pull(self, name: str) -> None:
        """Pull a node's cable: nobody is told."""
        self._change(lambda: self._pulled.add(name))

    def _change(self, change: Callable[[], None]) -> None:
        names = list(self.members)
        pairs = [(one, other) for place, one in enumerate(names) for other in names[:place]]
        before = {pair for pair in pairs if self.apart(*pair)}
        change()
        for one, other in pairs:
            was, now = (one, other) in before, self.apart(one, other)
            if was == now:
                continue
            for name, peer in ((one, other), (other, one)):
                self.members[name].stir(peer, apart=now)
            if now:
                self._silence(one, other)
            else:
                self._heal(one, other)

    def _silence(self, one: str, other: str) -> None:
        pair = frozenset((one, other))
        if pair in self._channels:
            self._channels[pair] = self.clock.now_s
            self.clock.after(CHANNEL_SILENCE_S, self._give_up, one, other, self.clock.now_s)

    def _give_up(self, one: str, other: str, since_s: float) -> None:
        if self._channels.get(frozenset((one, other))) == since_s:
            self.close(one, other)

    def _heal(self, one: str, other: str) -> None:
        pair = frozenset((one, other))
        self._healed_s[pair] = self.clock.now_s
        if pair in self._channels:
            self._channels[pair] = 0.0
            for sender, taker, message, data in self._waiting.pop(pair, []):
                self.clock.after(self.delay_s, self._deliver, sender, taker, message, data)
        else:
            self.clock.after(self.random.uniform(*MEETING_S), self.introduce, one, other)

    # What is said.

    def send(self, sender: str, takers: Iterable[str], message: Message) -> None:
        """A node says something to others over their channels."""
        data = encode(message)
        for taker in takers:
            pair = frozenset((sender, taker))
            if pair not in self._channels:
                continue
            self.control_bytes += len(data)
            if self.apart(sender, taker):
                self._waiting.setdefault(pair, []).append((sender, taker, message, data))
            else:
                self.clock.after(self.delay_s, self._deliver, sender, taker, message, data)

    def _deliver(self, sender: str, taker: str, message: Message, data: bytes) -> None:
        member = self.members[taker]
        if not member.alive or frozenset((sender, taker)) not in self._channels:
            return
        if self.apart(sender, taker):
            self._waiting.setdefault(frozenset((sender, taker)), []).append((sender, taker, message, data))
            return
        heard = decode(data, lambda _topic: len(self.table)) if self.wire else message
        if heard is not None:
            member.hear(sender, heard)
