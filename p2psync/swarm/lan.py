"""Asking nodes of the site: the rarest chunk first, and one taker at a time for what only a slow port has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from p2psync.limits import CHUNK_BYTES, LAN_LANES, LAN_REQUESTS_MAX
from p2psync.manifest import Chunk
from p2psync.swarm.inventory import Inventory
from p2psync.swarm.messages import Job
from p2psync.swarm.near import Near
from p2psync.swarm.requests import Ask
from p2psync.swarm.sources import Source
from p2psync.swarm.state import LATE_FACTOR, State

# A holder that gives a chunk within this is not worth waiting beside.
_QUICK_S: Final = 0.25
# What a peer owes is not late before this. A port of 100 Mbit/s that fifteen nodes ask at once gives each its chunk in
# 1.3 s on average, and TCP leaves some of them without a byte for twice that.
_LATE_S: Final = 3.0
# Behind a slow port of this node's own, many requests at once would all take minutes, and nothing be proved meanwhile.
# So it begins with few, and has one more out for each chunk that came quickly, a quarter fewer for each that took long.
_OUT_FIRST: Final = 4
_OUT_MIN: Final = 2
_QUICKLY_S: Final = 2.0
_LONG_S: Final = 4.0


class Lan:
    """What this node asks of its peers."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._near = Near(len(state.table), state.missing)
        self._claims: dict[int, float] = {}
        self._allowed = _OUT_FIRST

    # Who holds what.

    def join(self, name: str, source: Source, order: Iterable[int]) -> None:
        """A source is here; ``order`` is in which order this node asks."""
        self._near.join(name, source, order)

    def leave(self, name: str, source: Source) -> None:
        """A source is gone."""
        self._near.leave(name, source)

    def renew(self, name: str, source: Source, holds: Inventory) -> None:
        """A source tells anew what it holds: look only at what differs."""
        before = source.holds if source.holds is not None else Inventory(holds.count)
        source.holds = holds
        self._near.withdraw(before.minus(holds))
        self._near.offer(name, list(holds.minus(before)))

    def offer(self, name: str, fresh: Sequence[int]) -> None:
        """A source has more chunks."""
        self._near.offer(name, fresh)

    def withdraw(self, gone: Iterable[int]) -> None:
        """A source has fewer chunks."""
        self._near.withdraw(gone)

    def holds(self, index: int) -> bool:
        """Whether a source on the LAN that may be counted on has the chunk."""
        if not self._near.copies(index) and not self._near.whole:
            return False
        return any(not s.outside and s.fit and s.has(index) for s in self._state.sources.values())

    def requeue(self, indexes: Sequence[int]) -> None:
        """These were asked for and did not come."""
        self._near.requeue(self._state.sources.__getitem__, sorted(indexes))
        self._near.free(indexes)

    def free(self, indexes: Iterable[int]) -> None:
        """Nobody else takes these any more."""
        self._near.free(indexes)

    # Asking.

    def next_ask(self, name: str, source: Source, now_s: float) -> Ask | None:
        """What a source on the LAN is asked for now."""
        if not self._near.waits(name) and not self._state.requests.may_be_late(now_s):
            return None
        if source.requests and source.requests >= self._depth(source):
            return None
        if self._is_full():
            return None
        batch = self._near.take(name, source, lambda index: self._verdict(index, source, now_s))
        if not batch:
            return self._double(name, source, now_s)
        if self._reluctant(source):
            self._claim([chunk for chunk in batch if self._near.copies(chunk.index) == 1], now_s)
        return self._state.ask(name, batch, None, now_s)

    def _is_full(self) -> bool:
        """Whether enough is under way. What slow sources owe is not: they must not keep the others from being asked."""
        allowed, out = self._allowed, self._state.requests.near
        return out >= allowed and out - sum(s.requests for s in self._state.sources.values() if s.slow) >= allowed

    def took(self, seconds: float) -> None:
        """A chunk came ``seconds`` after it was asked for, or after the one before it in its request."""
        if seconds <= _QUICKLY_S:
            self._allowed = min(LAN_REQUESTS_MAX, self._allowed + 1)
        elif seconds > _LONG_S:
            self._allowed = max(_OUT_MIN, self._allowed * 3 // 4)

    def _depth(self, source: Source) -> int:
        """Requests that one source may have out: one until it has shown that it is quick, then a share of all.

        A port that many ask at once gives each a little of everything, and all of it at the end: with one request
        each, the first chunks are there after a share of that time, and nodes go on to give them to each other. A
        liar, too, is known after one chunk.
        """
        if source.on_trial or self._reluctant(source):
            return 1
        return max(1, min(LAN_LANES, LAN_REQUESTS_MAX // max(1, self._near.sources)))

    def _verdict(self, index: int, source: Source, now_s: float) -> bool | None:
        if self._state.requests.askers(index):
            return False
        company = self._state.company
        if self._near.copies(index) == 1 and company.is_awaited(index, now_s) and self._reluctant(source):
            return None
        return True

    def _reluctant(self, source: Source) -> bool:
        return not source.rate or CHUNK_BYTES / source.rate > _QUICK_S

    def _double(self, name: str, source: Source, now_s: float) -> Ask | None:
        own_s = CHUNK_BYTES / source.rate if source.rate else 0.0
        patience_s = max(_LATE_S, LATE_FACTOR * own_s)
        index = self._state.requests.late(name, patience_s, now_s, source.has)
        return None if index is None else self._state.ask(name, [self._state.missing[index]], None, now_s)

    # What others are told.

    def _claim(self, single: Sequence[Chunk], now_s: float) -> None:
        if not self._state.company.is_empty:
            indexes = [chunk.index for chunk in single]
            self._claims.update(dict.fromkeys(indexes, now_s))
            self._state.voice.claim(indexes, outside=False)

    def unclaim(self, index: int) -> bool:
        """This node no longer takes the only copy. Returns whether it did."""
        return self._claims.pop(index, None) is not None

    def jobs(self, now_s: float) -> list[Job]:
        """The only copies that this node takes, and how much of them has come."""
        requests = self._state.requests
        return [
            Job(
                index,
                max((ask.meter.received for ask in requests.askers(index)), default=0),
                int((now_s - since_s) * 1000),
                outside=False,
            )
            for index, since_s in self._claims.items()
        ]
