"""Links that several transfers share: the one outside, and the port of each node.

Transfers that share a link progress together. What each has got follows from one running sum, the bytes that a transfer
of weight 1 would have got since the beginning, so that a change of the number of transfers costs the logarithm of it
(virtual time of fair queueing: Demers, Keshav and Shenker, 1989).
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

from tests.simulation.clock import Clock

# What n cubic connections get together of a line with 1 % loss and a round trip of 50 ms: measured, and slightly low.
CURVE = ((0, 0.0), (1, 0.10), (2, 0.20), (4, 0.41), (8, 0.63), (16, 0.85), (32, 0.92))
# No luck of single connections brings more than this share of the line.
_FULL = 0.95
_NOTHING_BYTES = 1e-3


def share_of(connections: int) -> float:
    """The share of the line that so many connections get together."""
    place = bisect_left(CURVE, (connections, -1.0))
    if place == len(CURVE):
        return CURVE[-1][1]
    count, share = CURVE[place]
    if count == connections:
        return share
    below, low = CURVE[place - 1]
    return low + (share - low) * (connections - below) / (count - below)


@dataclass(slots=True, eq=False)
class Transfer:
    """Bytes on their way. ``done`` is called when the last one is there."""

    size: int
    weight: float
    done: Callable[[], None]
    begun: float = math.nan  # the running sum when it began
    over: bool = False


class Lane:
    """Transfers that progress together, each by ``weight`` times ``pace`` bytes/s."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sum = 0.0
        self._sum_s = clock.now_s
        self._heap: list[tuple[float, int, Transfer]] = []
        self._order = 0
        self._alarm = 0
        self.pace = 0.0
        self.count = 0
        self.weight = 0.0
        self.moved = 0.0

    def advance(self) -> None:
        """Bring the running sum up to now; before anything changes."""
        grown = self.pace * (self._clock.now_s - self._sum_s)
        self._sum += grown
        self.moved += grown * self.weight
        self._sum_s = self._clock.now_s

    def add(self, transfer: Transfer) -> None:
        """A transfer begins."""
        transfer.begun = self._sum
        self._order += 1
        self.count += 1
        self.weight += transfer.weight
        heapq.heappush(self._heap, (self._sum + transfer.size / transfer.weight, self._order, transfer))

    def remove(self, transfer: Transfer) -> None:
        """A transfer ends, done or not."""
        if not transfer.over:
            transfer.over = True
            self.count -= 1
            self.weight = self.weight - transfer.weight if self.count else 0.0

    def received(self, transfer: Transfer) -> int:
        """Bytes of a transfer that are there by now."""
        if math.isnan(transfer.begun):
            return 0
        grown = self._sum + self.pace * (self._clock.now_s - self._sum_s) - transfer.begun
        return min(transfer.size, int(grown * transfer.weight))

    def finished(self) -> list[Transfer]:
        """Take out what is complete by now."""
        done = []
        while self._heap and (self._heap[0][2].over or self._heap[0][0] <= self._sum + _NOTHING_BYTES):
            transfer = heapq.heappop(self._heap)[2]
            if not transfer.over:
                self.remove(transfer)
                done.append(transfer)
        return done

    def plan(self, wake: Callable[[int], None]) -> None:
        """Have ``wake`` called when the next transfer is complete, unless something changes before."""
        self._alarm += 1
        while self._heap and self._heap[0][2].over:
            heapq.heappop(self._heap)
        if self._heap and self.pace > 0:
            self._clock.after(max(0.0, (self._heap[0][0] - self._sum) / self.pace), wake, self._alarm)

    def is_due(self, alarm: int) -> bool:
        """Whether a call that was planned still means anything."""
        return alarm == self._alarm


class Outside:
    """The one link to the world. Connections get what ``share_of`` says, each with its own luck.

    A node with a path of its own that is worse has a lane of its own, with a ceiling.
    """

    def __init__(self, clock: Clock, line: float, rtt_s: float) -> None:
        self._clock = clock
        self.line = line
        self.rtt_s = rtt_s
        self.cut = False
        self._ceilings: dict[str, float] = {"": math.inf}
        self._lanes: dict[str, Lane] = {"": Lane(clock)}

    def narrow(self, node: str, ceiling: float) -> None:
        """A node gets no more than ``ceiling`` bytes/s of it."""
        self._ceilings[node] = ceiling
        self._lanes[node] = Lane(self._clock)

    def start(self, node: str, transfer: Transfer) -> None:
        """Ask: nothing comes for a round trip, then bytes do."""
        self._clock.after(self.rtt_s, self._begin, node, transfer)

    def _begin(self, node: str, transfer: Transfer) -> None:
        if not transfer.over:
            self._changing()
            self._lane(node).add(transfer)
            self._changed()

    def stop(self, node: str, transfer: Transfer) -> None:
        """Nobody waits for it any more."""
        self._changing()
        if math.isnan(transfer.begun):
            transfer.over = True
        else:
            self._lane(node).remove(transfer)
        self._changed()

    def set_cut(self, *, cut: bool) -> None:
        """Cut the link, or mend it: connections survive, as TCP's do."""
        self._changing()
        self.cut = cut
        self._changed()

    def received(self, node: str, transfer: Transfer) -> int:
        """Bytes of a transfer that are there by now."""
        return self._lane(node).received(transfer)

    @property
    def moved(self) -> float:
        """Bytes that have come over the link."""
        self._changing()
        return sum(lane.moved for lane in self._lanes.values())

    def _lane(self, node: str) -> Lane:
        return self._lanes.get(node) or self._lanes[""]

    def _changing(self) -> None:
        for lane in self._lanes.values():
            lane.advance()

    def _changed(self) -> None:
        done = [transfer for lane in self._lanes.values() for transfer in lane.finished()]
        count = sum(lane.count for lane in self._lanes.values())
        weight = sum(lane.weight for lane in self._lanes.values())
        each = 0.0 if self.cut or not count else self.line * min(share_of(count) / count, _FULL / weight)
        for node, lane in self._lanes.items():
            lane.pace = min(each, self._ceilings[node] / lane.weight) if lane.count else 0.0
            lane.plan(lambda alarm, lane=lane: self._wake(lane, alarm))
        for transfer in done:
            transfer.done()

    def _wake(self, lane: Lane, alarm: int) -> None:
        if lane.is_due(alarm):
            self._changing()
            self._changed()


class SharedPort:
    """What a node sends on the LAN: its readers get equal shares, as TCP gives them."""

    def __init__(self, clock: Clock, rate: float) -> None:
        self._lane = Lane(clock)
        self.rate = rate
        self.cut = False

    @property
    def readers(self) -> int:
        """Transfers that are running."""
        return self._lane.count

    @property
    def moved(self) -> float:
        """Bytes that have gone out."""
        self._lane.advance()
        return self._lane.moved

    def start(self, transfer: Transfer) -> None:
        """A reader asks."""
        self._lane.advance()
        self._lane.add(transfer)
        self._changed()

    def stop(self, transfer: Transfer) -> None:
        """A reader does not wait any more."""
        self._lane.advance()
        self._lane.remove(transfer)
        self._changed()

    def set_cut(self, *, cut: bool) -> None:
        """Nothing goes out, or it does again."""
        self._lane.advance()
        self.cut = cut
        self._changed()

    def received(self, transfer: Transfer) -> int:
        """Bytes of a transfer that are there by now."""
        return self._lane.received(transfer)

    def _changed(self) -> None:
        done = self._lane.finished()
        self._lane.pace = 0.0 if self.cut or not self._lane.count else self.rate / self._lane.count
        self._lane.plan(self._wake)
        for transfer in done:
            transfer.done()

    def _wake(self, alarm: int) -> None:
        if self._lane.is_due(alarm):
            self._lane.advance()
            self._changed()
