"""Honest nodes: they do what ``Session`` says, over links that take their time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from p2psync.limits import RESPONSE_TIMEOUT_S
from p2psync.manifest import Chunk
from p2psync.swarm import Ask, Fault, Inventory, Message, Session
from tests.simulation.links import SharedPort, Transfer
from tests.simulation.runs import Answer, Run, Tally
from tests.simulation.world import LAN, MEETING_S, ROOT, World

TICK_S = 0.25
# News are acted on together, as an event loop does it.
TURN_S = 0.0005
SEED = "seed"
# As in a node: what a port gives is judged over windows in which several readers took something.
_WINDOWS, _WINDOWS_MIN, _READERS_MIN = 8, 4, 2


class Node:
    """A node that pulls: ``holds`` is what it has before, ``wanted`` what it wants, ``port`` its port in bytes/s."""

    honest = True

    def __init__(
        self,
        world: World,
        name: str,
        *,
        holds: Iterable[int] = (),
        wanted: Iterable[int] | None = None,
        selection: bytes = bytes(8),
        port: float = LAN,
        alone: bool = False,
    ) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.up = SharedPort(world.clock, port)
        self.down = SharedPort(world.clock, port)
        self.have = Inventory(len(world.table), holds)
        self.wanted = tuple(range(len(world.table)) if wanted is None else wanted)
        self.session = Session(
            world.table,
            self.wanted,
            self.have.copy(),
            root=ROOT,
            me="" if alone else name,
            selection=selection,
        )
        self.tally = Tally()
        self.done_s: float | None = None
        self.full = False
        self._alone = alone
        self._runs: dict[Ask, Run] = {}
        self._due = False
        self._timer_s: float | None = None
        self._windows: deque[float] = deque(maxlen=_WINDOWS)
        self._sampled = (0.0, 0, 0.0)

    def begin(self, *, outside: bool = True) -> None:
        """Switch the node on."""
        if self.session.done:
            self.done_s = self._now_s
        if self._alone:
            self.world.members[self.name] = self
        else:
            self.world.enter(self)
        if outside:
            # A node asks outside when it has had the time to find its neighbours.
            self.world.clock.after(0.0 if self._alone else MEETING_S[1], self._reach_seed)
        self.world.clock.after(TICK_S * self.world.random.random(), self._tick)
        self._stir()

    def _reach_seed(self) -> None:
        if self.alive:
            self.session.join(SEED, outside=True, holds=None, now_s=self._now_s)
            self._stir()

    @property
    def _now_s(self) -> float:
        return self.world.clock.now_s

    # What the world tells it.

    def meet(self, other: str) -> None:
        """A channel is open."""
        self.session.meet(other, self._now_s)
        self._stir()

    def part(self, other: str) -> None:
        """It is closed."""
        self.session.part(other, self._now_s)
        self._stir()

    def hear(self, other: str, message: Message) -> None:
        """Somebody speaks."""
        self.session.hear(other, message, self._now_s)
        self._stir()

    def stir(self, other: str, *, apart: bool) -> None:
        """What comes from a node stops, or goes on."""
        for run in [run for run in self._runs.values() if run.holder == other]:
            if apart:
                self._halt(run)
                run.paused = True
            elif run.paused:
                run.paused = False
                self._ask_peer(run)

    def die(self) -> None:
        """End at once; the kernel closes what was open."""
        self.alive = False
        for run in list(self._runs.values()):
            self._halt(run)
        self.world.closing(self.name)
        self.up.set_cut(cut=True)

    def fill(self) -> None:
        """Nothing more fits on the disk: the pull ends, and what is here is still served."""
        self.full = True
        for run in list(self._runs.values()):
            self._end(run, Fault.CANCELLED)
        self.session.finish()
        self._stir()

    def answer(self, chunk: Chunk) -> Answer:
        """What is said to a peer that asks for a chunk."""
        return Answer.GOOD if chunk.index in self.have else Answer.ABSENT

    # Carrying out what the session says.

    def _stir(self) -> None:
        if not self._due and self.alive:
            self._due = True
            self.world.clock.after(TURN_S, self._turn)

    def _turn(self) -> None:
        self._due = False
        if not self.alive:
            return
        session, now_s = self.session, self._now_s
        for name in () if self.full else list(session.sources):
            while (ask := session.next_ask(name, now_s)) is not None:
                self._start(ask)
        for ask in session.take_stops():
            if ask in self._runs:
                self._end(self._runs[ask], Fault.CANCELLED)
        for node, message in session.take_outbox():
            takers = [n for n, p in session.company.peers.items() if p.wants] if node is None else [node]
            self.world.send(self.name, takers, message)
        at_s = session.tell_at_s
        if at_s is not None and self._timer_s != at_s:
            self._timer_s = at_s
            self.world.clock.at(at_s, self._tell)

    def _tell(self) -> None:
        if self.alive:
            self.session.tick(self._now_s)
            self._stir()

    def _tick(self) -> None:
        if not self.alive:
            return
        now_s = self._now_s
        for run in list(self._runs.values()):
            self._measure(run)
            if now_s - run.moved_s > RESPONSE_TIMEOUT_S:
                self._end(run, Fault.BROKEN)
        for watch in self.world.ticks:
            watch(self.name)
        self._sample()
        self.session.company.lan_rate = max(self._windows) if len(self._windows) >= _WINDOWS_MIN else 0.0
        self.session.tick(now_s)
        self._turn()
        if not self.session.done or self.session.company.peers:
            self.world.clock.after(TICK_S, self._tick)

    def _sample(self) -> None:
        moved, readers, at_s = self.up.moved, self.up.readers, self._now_s
        before, lasting, since_s = self._sampled
        if min(readers, lasting) >= _READERS_MIN and at_s - since_s > TICK_S / 2:
            self._windows.append((moved - before) / (at_s - since_s))
        self._sampled = (moved, readers, at_s)

    def _measure(self, run: Run) -> None:
        got = run.fixed
        if run.ways:
            got += min(port.received(transfer) for port, transfer in run.ways)
        elif run.transfer is not None:
            got += self.world.outside.received(self.name, run.transfer)
        run.ask.meter.received = got
        if got > run.seen:
            run.seen, run.moved_s = got, self._now_s

    # Requests.

    def _start(self, ask: Ask) -> None:
        run = self._runs[ask] = Run(ask, deque(ask.chunks), ask.source, moved_s=self._now_s)
        self.world.note("ask", self.name, ask.source, [c.index for c in ask.chunks], ask.part and ask.part.start)
        if ask.outside:
            for watch in self.world.watch:
                watch(self.name, ask)
            size = ask.part.length if ask.part else sum(chunk.length for chunk in ask.chunks)
            run.transfer = Transfer(size, self.world.luck(), lambda: self._came_from_outside(run))
            if self.world.seed_down:
                self.world.clock.after(self.world.outside.rtt_s, self._end_late, run, Fault.BROKEN)
            else:
                self.world.outside.start(self.name, run.transfer)
        else:
            run.paused = self.world.apart(self.name, ask.source)
            if not run.paused:
                self.world.clock.after(self.world.delay_s, self._ask_peer, run)

    def _ask_peer(self, run: Run) -> None:
        """The request for the next chunk reaches the peer."""
        peer = self.world.members[run.holder]
        if run.ask not in self._runs or run.paused or run.ways:
            return
        if not peer.alive:
            self._end(run, Fault.BROKEN)
            return
        chunk = run.rest[0]
        run.answer = peer.answer(chunk)
        if run.answer is Answer.ABSENT:
            self.world.clock.after(self.world.delay_s, self._end_late, run, Fault.WITHDRAWN)
        elif run.answer is not Answer.SILENT:
            size = chunk.length * 99 // 100 if run.answer is Answer.RESET else chunk.length
            size -= run.fixed - run.base
            for port in (peer.up, self.down):
                run.ways.append((port, Transfer(max(1, size), 1.0, lambda: self._passed(run))))
            for port, transfer in list(run.ways):
                port.start(transfer)

    def _passed(self, run: Run) -> None:
        """One of the two ports has passed a chunk."""
        if run.ways and all(transfer.over for _, transfer in run.ways):
            size = run.ways[0][1].size
            run.ways.clear()
            run.fixed += size
            self.world.clock.after(self.world.delay_s / 4, self._came_from_peer, run)

    def _came_from_peer(self, run: Run) -> None:
        if run.ask not in self._runs:
            return
        chunk = run.rest.popleft()
        run.base = run.fixed
        self._measure(run)
        if run.answer is Answer.RESET:
            self._end(run, Fault.BROKEN)
        elif run.answer is Answer.BAD:
            self.tally.bad += 1
            self._end(run, Fault.CORRUPT)
        else:
            self._arrived(run.ask, chunk)
            if run.rest:
                self._ask_peer(run)
            else:
                self._end(run, None)

    def _came_from_outside(self, run: Run) -> None:
        if run.ask not in self._runs or run.transfer is None:
            return
        run.fixed += run.transfer.size
        run.transfer = None
        self._measure(run)
        if run.ask.part is None:
            for chunk in run.ask.chunks:
                self._arrived(run.ask, chunk)
        elif self.session.landed(run.ask, self._now_s):
            self._arrived(run.ask, run.ask.chunks[0])
        self._end(run, None)

    def _arrived(self, ask: Ask, chunk: Chunk) -> None:
        self.world.note("here", self.name, ask.source, chunk.index)
        if self.session.misses(chunk.index):
            self.tally.useful += chunk.length
            self.tally.by_source[ask.source] = self.tally.by_source.get(ask.source, 0) + chunk.length
        self.have.add((chunk.index,))
        self.session.arrived(ask, chunk, self._now_s)
        if self.session.done and self.done_s is None:
            self.done_s = self._now_s
            self.session.finish()
            self.world.note("done", self.name)

    def _end_late(self, run: Run, fault: Fault) -> None:
        if run.ask in self._runs:
            self._end(run, fault)

    def _halt(self, run: Run) -> None:
        """Stop the transfer that is running; what came of it stays counted."""
        self._measure(run)
        run.fixed = run.ask.meter.received
        for port, transfer in run.ways:
            port.stop(transfer)
        run.ways.clear()
        if run.transfer is not None:
            self.world.outside.stop(self.name, run.transfer)
            run.transfer = None

    def _end(self, run: Run, fault: Fault | None) -> None:
        if self._runs.pop(run.ask, None) is None:
            return
        self._halt(run)
        if run.ask.outside:
            self.tally.outside += run.fixed
        else:
            self.tally.lan += run.fixed
        self.world.faults += fault is not None
        self.session.ended(run.ask, fault, self._now_s)
        self._stir()

    def outside_runs(self) -> list[Run]:
        """Requests to the seed that are under way."""
        return [run for run in self._runs.values() if run.ask.outside]

    def received(self, index: int) -> int:
        """Bytes of a chunk that have come from outside by now."""
        for run in self.outside_runs():
            self._measure(run)
        return self.session.received(index)

    @property
    def brought_outside(self) -> int:
        """Bytes that this node has taken from the seed, those that are on their way included."""
        for run in self.outside_runs():
            self._measure(run)
        return self.tally.outside + sum(run.ask.meter.received for run in self.outside_runs())

    def break_outside(self) -> None:
        """The seed resets every connection."""
        for run in self.outside_runs():
            self._end(run, Fault.BROKEN)

    def unplug(self) -> None:
        """Nothing comes in any more, and nobody says so. What the node does from now on nobody sees."""
        self.alive = False
        for run in list(self._runs.values()):
            self._halt(run)
