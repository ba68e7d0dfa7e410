"""Decide which source is asked for which chunks of one pull. No sockets, no disk, no clock.

Theory of operation: the caller reports what happened (a source joined, a chunk arrived, a request failed)
with the time, and ``next_batch`` returns what one free lane of a source asks for now. The same calls in the
same order give the same answers.

Four rules decide:

1. A chunk that a fit source on the LAN holds is never asked outside: the outside link is the thin one.
2. A chunk is asked from one source at a time. When a source has nothing else to do, it may ask once more for
   a chunk whose first request takes far longer than its own would; the loser is told to stop.
3. Blame is exact. The first chunk that does not prove costs the source that chunk (its disk may rot), the
   second bans it. Slow is apart from bad: a slow or silent source is passed over while others deliver, and
   is asked again when it recovers.
4. A source that breaks rests for a growing while and comes back: a restarted seed continues a pull.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from p2psync.limits import BATCH_BYTES_MAX, BATCH_DIGESTS_MAX, CHUNK_BYTES
from p2psync.manifest import Chunk

# Work that one lane takes at once, in seconds at its measured rate: long enough to hide a round trip,
# short enough that little is lost when it breaks.
BATCH_S = 0.5
# A source that owes chunks and has been silent for this long is unfit until it delivers again.
SILENT_S = 2.0
# A first request is doubled when it has taken this many times what the asker itself needs for a chunk.
LATE_FACTOR = 4.0
LATE_FLOOR_S = 1.0
REST_FIRST_S = 0.25
REST_MAX_S = 4.0
# Answers outside the protocol, with no good chunk between them, that ban a source.
NONSENSE_MAX = 3
CORRUPT_MAX = 2


class Fault(Enum):
    """Why a request did not give its chunk."""

    CORRUPT = auto()  # the bytes do not prove
    NONSENSE = auto()  # the answer is outside the protocol
    WITHDRAWN = auto()  # the source does not have it (any more)
    BROKEN = auto()  # connection, silence, too slow: the network
    CANCELLED = auto()  # we stopped it: nobody's fault


@dataclass(slots=True)
class _Source:
    outside: bool
    holds: bytes | None
    queue: deque[int] = field(default_factory=deque)
    deferred: list[int] = field(default_factory=list)
    denied: set[int] = field(default_factory=set)
    asked: dict[int, float] = field(default_factory=dict)
    lane_rate: float = 0.0
    last_news_s: float = 0.0
    rest_until_s: float = 0.0
    failures: int = 0
    nonsense: int = 0
    corrupt: int = 0
    banned: bool = False
    slow: bool = False

    def has(self, index: int) -> bool:
        if self.banned or index in self.denied:
            return False
        return self.holds is None or (index >> 3 < len(self.holds) and bool(self.holds[index >> 3] >> (index & 7) & 1))


class Picker:
    """The decisions of one pull. See the module's text for the rules."""

    def __init__(self, missing: Iterable[Chunk]) -> None:
        self._missing: dict[int, Chunk] = {c.index: c for c in missing}
        self._askers: dict[int, list[str]] = {}
        self._sources: dict[str, _Source] = {}

    @property
    def done(self) -> bool:
        """Whether every chunk has arrived."""
        return not self._missing

    @property
    def missing(self) -> list[Chunk]:
        """The chunks that have not arrived, in manifest order."""
        return [self._missing[i] for i in sorted(self._missing)]

    def misses(self, index: int) -> bool:
        """Whether the chunk with this number has not arrived."""
        return index in self._missing

    def join(self, source: str, *, outside: bool, holds: bytes | None, now_s: float, start: int = 0) -> None:
        """A source is ready. ``holds`` is its inventory (bit i of byte i // 8, lowest first), None for all.

        ``start`` rotates the order in which it is asked, so that several pulls spread over the chunks.
        A source that joins again brings a new inventory and keeps its record.
        """
        old = self._sources.get(source)
        entry = old or _Source(outside, holds)
        entry.holds, entry.last_news_s = holds, now_s
        order = [i for i in sorted(self._missing) if entry.has(i)]
        cut = start % len(order) if order else 0
        entry.queue = deque(order[cut:] + order[:cut])
        entry.deferred.clear()
        self._sources[source] = entry

    def next_batch(self, source: str, now_s: float) -> list[Chunk]:
        """What a free lane of ``source`` asks for now, in order; empty when there is nothing for it."""
        entry = self._sources[source]
        if entry.banned or now_s < entry.rest_until_s:
            return []
        batch: list[Chunk] = []
        budget = min(BATCH_BYTES_MAX, max(CHUNK_BYTES, int(entry.lane_rate * BATCH_S)))
        while entry.queue and len(batch) < BATCH_DIGESTS_MAX:
            index = entry.queue[0]
            chunk = self._missing.get(index)
            if chunk is not None and not self._askers.get(index) and entry.has(index):
                if entry.outside and self._on_lan(index):
                    entry.deferred.append(index)
                elif batch and chunk.length > budget:
                    break
                else:
                    batch.append(chunk)
                    budget -= chunk.length
            entry.queue.popleft()
        if not batch:
            batch = self._double(source, entry, now_s)
        if batch and not entry.asked:
            entry.last_news_s = now_s
        for chunk in batch:
            entry.asked[chunk.index] = now_s
            self._askers.setdefault(chunk.index, []).append(source)
        return batch

    def arrived(self, source: str, chunk: Chunk, now_s: float) -> list[str]:
        """A chunk from ``source`` proved. Returns the other sources that are still asked for it: stop those."""
        entry = self._sources[source]
        asked_s = entry.asked.pop(chunk.index, now_s)
        took_s = max(now_s - max(asked_s, entry.last_news_s), 1e-4)
        rate = chunk.length / took_s
        entry.lane_rate = rate if not entry.lane_rate else entry.lane_rate * 0.8 + rate * 0.2
        entry.last_news_s = now_s
        entry.failures = entry.nonsense = 0
        entry.slow = False
        self._missing.pop(chunk.index, None)
        return [other for other in self._askers.pop(chunk.index, []) if other != source]

    def failed(self, source: str, chunks: Sequence[Chunk], fault: Fault, now_s: float) -> None:
        """A request of ``source`` ended without these chunks. For CORRUPT and WITHDRAWN the first one is meant."""
        entry = self._sources[source]
        for chunk in chunks:
            entry.asked.pop(chunk.index, None)
            askers = self._askers.get(chunk.index, [])
            if source in askers:
                askers.remove(source)
        if chunks and fault in (Fault.CORRUPT, Fault.WITHDRAWN):
            entry.denied.add(chunks[0].index)
        if fault is Fault.CORRUPT:
            entry.corrupt += 1
        # Lanes that break together are one event: what fails while the source rests was asked before.
        if fault in (Fault.BROKEN, Fault.NONSENSE) and now_s >= entry.rest_until_s:
            entry.nonsense += fault is Fault.NONSENSE
            entry.rest_until_s = now_s + min(REST_MAX_S, REST_FIRST_S * 2**entry.failures)
            entry.failures = min(entry.failures + 1, 16)
        entry.banned = entry.banned or entry.corrupt >= CORRUPT_MAX or entry.nonsense >= NONSENSE_MAX
        if entry.banned or fault is not Fault.CANCELLED:
            self._undefer()
        self._requeue([c.index for c in chunks])

    def leave(self, source: str) -> None:
        """A source is gone for this pull; what it owed is free again."""
        entry = self._sources.pop(source, None)
        if entry is None:
            return
        for index in entry.asked:
            askers = self._askers.get(index, [])  # None are left for a chunk that a rival has just brought.
            if source in askers:
                askers.remove(source)
        self._undefer()
        self._requeue(entry.asked)

    def tick(self, now_s: float) -> list[str]:
        """Judge silence; call it a few times a second. Returns the sources that have just become slow."""
        fresh = []
        for name, entry in self._sources.items():
            if entry.asked and not entry.slow and now_s - entry.last_news_s > SILENT_S:
                entry.slow = True
                fresh.append(name)
        if fresh:
            self._undefer()
        return fresh

    def is_banned(self, source: str) -> bool:
        """Whether ``source`` will not be asked again in this pull."""
        entry = self._sources.get(source)
        return entry is None or entry.banned

    def rest_s(self, source: str, now_s: float) -> float:
        """Seconds until ``source`` may be asked again after a failure; 0 when it may now."""
        entry = self._sources.get(source)
        return max(0.0, entry.rest_until_s - now_s) if entry else 0.0

    def hopeless(self) -> list[Chunk]:
        """The missing chunks that no source which may still be asked holds."""
        alive = [s for s in self._sources.values() if not s.banned]
        return [c for c in self.missing if not any(s.has(c.index) for s in alive)]

    def _fit(self, entry: _Source) -> bool:
        return not (entry.banned or entry.slow or entry.failures)

    def _on_lan(self, index: int) -> bool:
        return any(s.has(index) and self._fit(s) for s in self._sources.values() if not s.outside)

    def _requeue(self, indexes: Iterable[int]) -> None:
        free = [i for i in sorted(indexes, reverse=True) if i in self._missing and not self._askers.get(i)]
        for entry in self._sources.values():
            entry.queue.extendleft(i for i in free if entry.has(i))

    def _undefer(self) -> None:
        for entry in self._sources.values():
            if entry.deferred:
                entry.queue.extendleft(reversed(entry.deferred))
                entry.deferred.clear()

    def _double(self, source: str, entry: _Source, now_s: float) -> list[Chunk]:
        """The endgame: one more request for the latest of the late chunks, never a third."""
        own_s = CHUNK_BYTES / entry.lane_rate if entry.lane_rate else 0.0
        patience_s = max(LATE_FLOOR_S, LATE_FACTOR * own_s)
        late: tuple[float, int] | None = None
        for index, askers in self._askers.items():
            if len(askers) != 1 or askers[0] == source or not entry.has(index):
                continue
            asked_s = self._sources[askers[0]].asked.get(index, now_s)
            if now_s - asked_s > patience_s and (late is None or asked_s < late[0]):
                late = (asked_s, index)
        return [] if late is None else [self._missing[late[1]]]
