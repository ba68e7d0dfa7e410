"""The requests that are running: who was asked for what, how much has come, and which are to be stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from p2psync.manifest import Chunk
from p2psync.swarm.parts import Meter, Part


@dataclass(slots=True, eq=False)
class Ask:
    """One request of one source: whole chunks in order, or with ``part`` one range of one chunk.

    ``left`` is what has not arrived. ``news_s`` is when it last brought a chunk, or was made.
    """

    source: str
    chunks: tuple[Chunk, ...]
    part: Part | None
    asked_s: float
    meter: Meter
    outside: bool = False
    left: dict[int, Chunk] = field(default_factory=dict)
    news_s: float = 0.0

    def rest_s(self, now_s: float) -> float:
        """Seconds until its next chunk is here, if it goes on as it did since the last one."""
        chunk = next(iter(self.left.values()), None)
        if chunk is None:
            return 0.0
        landed = sum(c.length for c in self.chunks if c.index not in self.left)
        came = min(self.meter.received - landed, chunk.length)
        return (chunk.length - came) * (now_s - self.news_s) / came if came > 0 else float("inf")


# Nothing is late before this.
LATE_FLOOR_S: Final = 2.0


class Requests:
    """All running requests of one pull. Kept in the order in which they were made, so that runs can be repeated."""

    def __init__(self) -> None:
        self._of: dict[str, dict[Ask, None]] = {}
        self._brought: dict[str, int] = {}
        self._askers: dict[int, list[Ask]] = {}
        self._stops: dict[Ask, None] = {}
        self._none_late_until_s = float("-inf")
        self.outside = 0
        self.near = 0

    def open(self, ask: Ask) -> None:
        """A request is made."""
        self._of.setdefault(ask.source, {})[ask] = None
        self.outside += ask.outside
        self.near += not ask.outside
        for index in ask.left:
            self._askers.setdefault(index, []).append(ask)

    def close(self, ask: Ask) -> bool:
        """A request is over. Returns whether it was running."""
        running = self._of.get(ask.source, {})
        if ask not in running:
            return False
        del running[ask]
        self.outside -= ask.outside
        self.near -= not ask.outside
        self._stops.pop(ask, None)
        self._brought[ask.source] = self._brought.get(ask.source, 0) + ask.meter.received
        for index in ask.left:
            asks = self._askers.get(index)
            if asks is not None and ask in asks:
                asks.remove(ask)
                if not asks:
                    del self._askers[index]
        return True

    def abandon(self, ask: Ask) -> bool:
        """A request is over for us, though it runs: its source is gone. Returns whether it was running."""
        running = self.close(ask)
        if running:
            self._stops[ask] = None
        return running

    def of(self, source: str) -> list[Ask]:
        """The running requests of a source."""
        return list(self._of.get(source, ()))

    def forget(self, source: str) -> None:
        """A source is gone. Its requests must have been closed."""
        self._of.pop(source, None)
        self._brought.pop(source, None)

    def brought(self, source: str) -> int:
        """Bytes that a source has brought since it joined, those of running requests counted."""
        return self._brought.get(source, 0) + sum(ask.meter.received for ask in self._of.get(source, ()))

    def askers(self, index: int) -> Sequence[Ask]:
        """The running requests for a chunk."""
        return self._askers.get(index, ())

    def arrived(self, ask: Ask, index: int) -> None:
        """A chunk is here by ``ask``: the others that bring it may stop."""
        ask.left.pop(index, None)
        self.stop(other for other in self._askers.pop(index, ()) if other is not ask)

    def drop_outside(self, index: int) -> None:
        """Stop bringing a chunk from outside; what is asked for on the LAN goes on."""
        asks = self._askers.pop(index, [])
        self.stop(ask for ask in asks if ask.outside)
        near = [ask for ask in asks if not ask.outside]
        if near:
            self._askers[index] = near

    def stop(self, asks: Iterable[Ask]) -> None:
        """Have requests stopped. Each is told once."""
        for ask in asks:
            if ask in self._of.get(ask.source, {}):
                self._stops[ask] = None

    def take_stops(self) -> list[Ask]:
        """The requests that are to be stopped and have not been told so."""
        stops = list(self._stops)
        self._stops.clear()
        return stops

    def may_be_late(self, now_s: float) -> bool:
        """Whether it is worth while to look for something late."""
        return now_s >= self._none_late_until_s

    def late(self, source: str, patience_s: float, now_s: float, may: Callable[[int], bool]) -> int | None:
        """The chunk that another source is latest with and that is asked for only once, if ``may`` allows it.

        Late is a request that has brought no chunk for ``patience_s``, at least ``LATE_FLOOR_S``, and at the rate of
        its bytes will not for as long again: one that is nearly here through a busy port is not worth asking twice.
        Parts have twins of their own.
        """
        if not self.may_be_late(now_s):
            return None
        whole = [ask for asks in self._of.values() for ask in asks if ask.part is None]
        # What is asked for later is late later: until then nobody need look again.
        self._none_late_until_s = min((ask.news_s for ask in whole), default=now_s) + LATE_FLOOR_S
        late = [
            ask
            for ask in whole
            if ask.source != source and now_s - ask.news_s > patience_s and ask.rest_s(now_s) > patience_s
        ]
        for ask in sorted(late, key=lambda ask: ask.news_s):
            for index in ask.left:
                if len(self._askers.get(index, ())) == 1 and may(index):
                    return index
        return None
