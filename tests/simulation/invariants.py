"""What must hold in every run, looked at with each step."""

from __future__ import annotations

from dataclasses import dataclass

from p2psync.limits import CLAIM_LEASE_S
from p2psync.swarm import Ask
from tests.simulation.nodes import Node
from tests.simulation.world import World

# What a node said this long ago has been heard by all that can hear it; bytes that rose are said within a beat more.
_HEARD_S = 0.3
_TOLD_S = 1.0
_BELIEVED = 3


class BrokenInvariantError(AssertionError):
    """Something happened that never may."""


@dataclass(slots=True)
class _Lease:
    """A claim as it truly is: the most bytes that its holder had, since when, and since when without a gap.

    ``before`` is how often the same node had claimed the chunk and not brought it: such a claim is soon not believed.
    """

    since_s: float
    rose_s: float
    steady_s: float
    before: int
    received: int = 0


class Invariants:
    """Watches a world. ``check`` after every step; requests to the outside are looked at as they are made."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._faults = 0
        self._leases: dict[tuple[str, int], _Lease] = {}
        self.conflicts = 0
        world.watch.append(self._asked_outside)
        world.ticks.append(self._follow)

    @property
    def _nodes(self) -> list[Node]:
        return [member for member in self._world.members.values() if isinstance(member, Node)]

    def check(self) -> None:
        """Honest nodes are never banned, nor is the seed. A ban follows a fault, so it is looked at after each."""
        if self._world.faults == self._faults:
            return
        self._faults = self._world.faults
        for node in self._nodes:
            for name, source in node.session.sources.items():
                if source.banned and (name not in self._world.members or self._world.members[name].honest):
                    raise BrokenInvariantError(f"{node.name} banned {name}, which is honest")

    def _follow(self, name: str) -> None:
        node = self._world.members[name]
        if isinstance(node, Node):
            for index, claim in node.session.company.claims.mine.items():
                self._look(name, index, claim.since_s, node.received(index))

    def _look(self, name: str, index: int, since_s: float, received: int) -> _Lease:
        now_s = self._world.clock.now_s
        lease = self._leases.get((name, index))
        if lease is None or lease.since_s != since_s:
            before = 0 if lease is None else lease.before + 1
            lease = self._leases[name, index] = _Lease(since_s, since_s, since_s, before)
        if received > lease.received:
            if now_s - lease.rose_s > CLAIM_LEASE_S - _TOLD_S:
                lease.steady_s = now_s
            lease.received, lease.rose_s = received, now_s
        return lease

    def _asked_outside(self, name: str, ask: Ask) -> None:
        """A chunk is asked outside once while its holder is alive and within its lease."""
        asker = self._world.members[name]
        now_s = self._world.clock.now_s
        for chunk in ask.chunks:
            mine = asker.session.company.claims.mine.get(chunk.index) if isinstance(asker, Node) else None
            if mine is not None and mine.again:
                continue
            for node in self._nodes:
                claim = node.session.company.claims.mine.get(chunk.index)
                if node is asker or node.full or claim is None or claim.again or not self._hears(node, name):
                    continue
                lease = self._look(node.name, chunk.index, claim.since_s, node.received(chunk.index))
                if lease.before >= _BELIEVED or self._world.outside.cut or self._world.seed_down:
                    # While nothing comes from outside every lease ends, at each node when it heard of it.
                    continue
                if now_s - lease.rose_s > CLAIM_LEASE_S - _TOLD_S or now_s - lease.steady_s < _TOLD_S:
                    self.conflicts += 1
                elif now_s - claim.since_s > _HEARD_S:
                    raise BrokenInvariantError(
                        f"{now_s:.3f}: {name} asks outside for {chunk.index}, which {node.name} brings since "
                        f"{claim.since_s:.3f}"
                    )

    def _hears(self, node: Node, other: str) -> bool:
        """Whether what ``node`` says has been heard by ``other`` for a while."""
        peer = node.session.company.peers.get(other)
        known = peer is not None and self._world.clock.now_s - peer.met_s > _TOLD_S
        linked = self._world.linked(node.name, other) and self._world.linked_s(node.name, other) > _HEARD_S
        return node.alive and known and linked
