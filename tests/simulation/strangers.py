"""Nodes that say more than they do: they greet like any other, and answer as badly as they like."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from p2psync.limits import BEAT_S
from p2psync.manifest import Chunk
from p2psync.swarm import Hello, Inventory, Message, topic_of
from p2psync.swarm.messages import Beat, Claim, Job
from tests.simulation.links import SharedPort
from tests.simulation.runs import Answer
from tests.simulation.world import LAN, ROOT, World


class Stranger:
    """A node that says it holds chunks (all of them, unless told otherwise) and answers each request by ``rule``."""

    def __init__(
        self,
        world: World,
        name: str,
        rule: Callable[[Chunk], Answer],
        *,
        holds: Iterable[int] | None = None,
        port: float = LAN,
        honest: bool = False,
    ) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.honest = honest
        self.up = SharedPort(world.clock, port)
        self.asked = 0
        self._rule = rule
        count = len(world.table)
        self._holds = Inventory.whole(count) if holds is None else Inventory(count, holds)

    def begin(self) -> None:
        """Switch it on."""
        self.world.enter(self)

    def meet(self, other: str) -> None:
        """Boast."""
        self.world.send(self.name, [other], Hello(ROOT, False, False, False, bytes(8), self._holds.copy()))

    def part(self, other: str) -> None:
        """It does not care."""

    def hear(self, other: str, message: Message) -> None:
        """It does not listen, but for being greeted."""
        if isinstance(message, Hello) and not message.answer:
            self.world.send(self.name, [other], Hello(ROOT, False, False, True, bytes(8), self._holds.copy()))

    def stir(self, other: str, *, apart: bool) -> None:
        """It fetches nothing."""

    def answer(self, chunk: Chunk) -> Answer:
        """Whatever the rule says."""
        self.asked += 1
        return self._rule(chunk)


class Claimant(Stranger):
    """A node that holds nothing, says that it is bringing everything from outside, and never does.

    With ``growing`` it says twice a second that more of it has come.
    """

    def __init__(self, world: World, name: str, *, growing: bool) -> None:
        super().__init__(world, name, lambda _chunk: Answer.ABSENT, holds=())
        self._growing = growing
        self._received = 0

    def meet(self, other: str) -> None:
        """Take part, and claim all."""
        self.world.send(self.name, [other], Hello(ROOT, True, True, False, bytes(8), self._holds.copy()))
        everything = tuple(range(len(self.world.table)))
        self.world.send(self.name, [other], Claim(topic_of(ROOT), True, False, everything))
        self.world.clock.after(BEAT_S, self._beat, other)

    def hear(self, other: str, message: Message) -> None:
        """Take part when greeted, too."""
        if isinstance(message, Hello) and not message.answer:
            self.world.send(self.name, [other], Hello(ROOT, True, True, True, bytes(8), self._holds.copy()))

    def _beat(self, other: str) -> None:
        self._received += 1000 if self._growing else 0
        now_ms = int(self.world.clock.now_s * 1000)
        jobs = tuple(Job(chunk.index, self._received, now_ms) for chunk in self.world.table)
        self.world.send(self.name, [other], Beat(topic_of(ROOT), True, 150_000, 0, jobs))
        if self.world.linked(self.name, other):
            self.world.clock.after(BEAT_S, self._beat, other)
