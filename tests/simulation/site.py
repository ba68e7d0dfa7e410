"""Run a site to its end: who takes part, what goes wrong when, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from p2psync.manifest import Chunk
from tests.simulation.invariants import Invariants
from tests.simulation.nodes import Node
from tests.simulation.world import LINE, World

# A run that takes longer than this in virtual time will not end.
PATIENCE_S = 3000.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run. Times in seconds, from the beginning; ``outside`` is bytes over the link by unique bytes."""

    done_s: dict[str, float]
    outside: float
    outside_bytes: float
    unique_bytes: int
    duplicates: float
    control: float
    conflicts: int
    bad: dict[str, int]
    trace: str
    steps: int

    @property
    def last_s(self) -> float:
        """When the last node had everything."""
        return max(self.done_s.values())


class Site:
    """Some nodes, one seed, one link. ``nodes`` are those that are to converge."""

    def __init__(
        self, table: Sequence[Chunk], seed: int, *, line: float = LINE, delay_s: float = 0.01, checked: bool = True
    ) -> None:
        self.world = World(table, seed, line=line, delay_s=delay_s)
        self.invariants = Invariants(self.world) if checked else None
        self.nodes: dict[str, Node] = {}
        self._here: set[int] = set()

    def add(self, name: str, *, at_s: float = 0.0, outside: bool = True, **options: object) -> Node:
        """A node that pulls, from ``at_s`` on."""
        node = Node(self.world, name, **options)  # type: ignore[arg-type] - the options are the node's own
        self.nodes[name] = node
        self._here.update(node.have)
        self.world.clock.at(at_s, lambda: node.begin(outside=outside))
        return node

    def at(self, when_s: float, what: Callable[[], None]) -> None:
        """Something happens at a time."""
        self.world.clock.at(when_s, what)

    def when(self, share: float, what: Callable[[], None]) -> None:
        """Something happens when this share of the unique bytes has come over the link."""
        if self.world.outside.moved >= share * self.unique_bytes:
            what()
        else:
            self.world.clock.after(0.05, self.when, share, what)

    # What goes wrong.

    def kill(self, name: str) -> None:
        """SIGKILL: the kernel closes the sockets."""
        self.nodes.pop(name).die()

    def pull_cable(self, name: str) -> None:
        """The cable of a node is pulled: nobody is told."""
        self.nodes.pop(name).unplug()
        self.world.pull(name)

    def fill(self, name: str) -> None:
        """The disk of a node is full: it fetches no more, and stays."""
        self.nodes.pop(name).fill()

    def divide(self, *side: str) -> None:
        """These hear only each other, and the others only each other; with none named all hear all."""
        self.world.divide(dict.fromkeys(side, 1))

    def cut(self) -> None:
        """The outside link is cut."""
        self.world.outside.set_cut(cut=True)

    def mend(self) -> None:
        """It is back."""
        self.world.outside.set_cut(cut=False)

    def stop_seed(self) -> None:
        """The seed goes down: what was open breaks, what is asked is refused."""
        self.world.seed_down = True
        for node in self.nodes.values():
            node.break_outside()

    def start_seed(self) -> None:
        """It is back."""
        self.world.seed_down = False

    def busiest(self) -> str:
        """The node that has taken most from outside."""
        return max(self.nodes, key=lambda name: (self.nodes[name].brought_outside, name))

    # The run.

    @property
    def unique_bytes(self) -> int:
        """What the site lacks: every wanted chunk that no node holds, once."""
        wanted = {i for node in self.nodes.values() for i in node.wanted}
        return sum(self.world.table[i].length for i in wanted - self._here)

    def run(self) -> Outcome:
        """Let everything happen until every node has all it wants.

        Raises:
            AssertionError: a node never gets there.
        """
        clock = self.world.clock
        unique = self.unique_bytes
        while any(node.done_s is None for node in self.nodes.values()):
            moving = clock.step()
            if not moving or clock.now_s > PATIENCE_S:
                left = {n: node.session.missing_count for n, node in self.nodes.items() if node.done_s is None}
                raise AssertionError(f"not done after {clock.now_s:.0f} s, chunks missing: {left}")
            if self.invariants is not None:
                self.invariants.check()
        took = sum(node.tally.lan + node.tally.outside for node in self.nodes.values())
        useful = sum(node.tally.useful for node in self.nodes.values())
        outside = self.world.outside.moved
        return Outcome(
            {name: node.done_s or 0.0 for name, node in self.nodes.items()},
            outside / unique if unique else outside,
            outside,
            unique,
            took / useful - 1 if useful else 0.0,
            self.world.control_bytes / useful if useful else 0.0,
            self.invariants.conflicts if self.invariants else 0,
            {name: node.tally.bad for name, node in self.nodes.items()},
            self.world.trace,
            clock.steps,
        )


def lone(table: Sequence[Chunk], seed: int, *, line: float = LINE) -> float:
    """How long one node alone needs with all connections, in seconds."""
    site = Site(table, seed, line=line)
    site.add("lone", alone=True)
    return site.run().last_s
