"""The chunks that a node is bringing from outside in parts, so that all of its connections work on the oldest one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from p2psync.limits import PART_BYTES_MAX, PART_BYTES_MIN
from p2psync.manifest import Chunk

# Chunks of which the beginning is kept while their source is away; each is a buffer in memory.
_PARKED_MAX: Final = 16


@dataclass(slots=True, eq=False)
class Meter:
    """Bytes of one answer that have arrived. The transport raises it while the answer lands."""

    received: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One range of one chunk, asked for once. ``meter`` shows how much of it is here."""

    index: int
    start: int
    length: int
    asked_s: float
    meter: Meter


@dataclass(slots=True)
class _Open:
    chunk: Chunk
    source: str
    unasked: list[tuple[int, int]]  # (start, end), lowest last
    landed: dict[int, int] = field(default_factory=dict)  # start: length
    asked: list[Part] = field(default_factory=list)
    parked: bool = False

    @property
    def left(self) -> int:
        return self.chunk.length - sum(self.landed.values())


def part_bytes(left_bytes: int, connections: int) -> int:
    """How much one request asks for: ``PART_BYTES_MAX``, and less towards the end.

    Guided self-scheduling (Polychronopoulos and Kuck, 1987): small parts at the tail end together, large ones before
    cost fewer idle round trips. ``left_bytes`` is what the whole site still lacks.
    """
    step = PART_BYTES_MIN
    return max(step, min(PART_BYTES_MAX, left_bytes // (2 * max(1, connections)) // step * step))


class Parts:
    """Chunks under way in parts. A chunk is bound to one source, so that blame for its bytes is exact."""

    def __init__(self) -> None:
        self._open: dict[int, _Open] = {}

    def __contains__(self, index: int) -> bool:
        return index in self._open

    def is_open(self, index: int) -> bool:
        """Whether a chunk is under way, not parked."""
        entry = self._open.get(index)
        return entry is not None and not entry.parked

    def open(self, chunk: Chunk, source: str) -> None:
        """Begin to bring a chunk from a source, or go on where it was parked."""
        entry = self._open.get(chunk.index)
        if entry is not None and entry.parked and entry.source == source:
            entry.parked = False
            return
        self._open[chunk.index] = _Open(chunk, source, [(0, chunk.length)])

    def next(self, source: str, size: int, now_s: float) -> Part | None:
        """The next range of the oldest chunk of ``source`` that has bytes nobody asked for."""
        for index, entry in self._open.items():
            if entry.source == source and entry.unasked and not entry.parked:
                start, end = entry.unasked.pop()
                length = min(size, end - start)
                if start + length < end:
                    entry.unasked.append((start + length, end))
                return self._ask(index, entry, start, length, now_s)
        return None

    def late(self, source: str, patience_s: float, now_s: float) -> Part | None:
        """The longest outstanding range of ``source``, once more, when it has taken longer than ``patience_s``."""
        late = [
            (part.asked_s, index, part)
            for index, entry in self._open.items()
            if entry.source == source
            for part in entry.asked
            if now_s - part.asked_s > patience_s and sum(p.start == part.start for p in entry.asked) == 1
        ]
        if not late:
            return None
        _, index, part = min(late, key=lambda entry: entry[:2])
        return self._ask(index, self._open[index], part.start, part.length, now_s)

    def landed(self, part: Part) -> bool:
        """A range is here. Returns whether with it the chunk is complete; never for a chunk that was given up since."""
        entry = self._open.get(part.index)
        if entry is None or part not in entry.asked:
            return False
        entry.asked.remove(part)
        if part.start in entry.landed:
            return False
        entry.landed[part.start] = part.length
        return not entry.left

    def expects(self, part: Part) -> bool:
        """Whether a range is still wanted: its chunk was not given up since, nor did a twin bring it."""
        entry = self._open.get(part.index)
        return entry is not None and part in entry.asked and part.start not in entry.landed

    def twins(self, part: Part) -> list[Part]:
        """Other requests for the same range, which may be stopped when one has landed."""
        entry = self._open.get(part.index)
        return [p for p in entry.asked if p.start == part.start and p is not part] if entry else []

    def failed(self, part: Part) -> None:
        """A request ended without its range; unless a twin still brings it, it is to be asked again."""
        entry = self._open.get(part.index)
        if entry is None or part not in entry.asked:
            return
        entry.asked.remove(part)
        if part.start not in entry.landed and not any(p.start == part.start for p in entry.asked):
            entry.unasked.append((part.start, part.start + part.length))

    def park(self, index: int) -> None:
        """Keep what has landed of a chunk for when its source is back, unless that would be too much."""
        entry = self._open.get(index)
        if entry is None or entry.asked or sum(other.parked for other in self._open.values()) >= _PARKED_MAX:
            self.close(index)
        else:
            entry.parked = True

    def close(self, index: int) -> list[Part]:
        """Forget a chunk. Returns the requests that are still out for it."""
        entry = self._open.pop(index, None)
        return entry.asked if entry else []

    def bound(self, source: str) -> list[int]:
        """The chunks under way from ``source``."""
        return [index for index, entry in self._open.items() if entry.source == source]

    def received(self, index: int) -> int:
        """Bytes of the chunk that are here or on their way in."""
        entry = self._open.get(index)
        if entry is None:
            return 0
        flying: dict[int, int] = {}
        for part in entry.asked:
            if part.start in entry.landed:
                continue
            flying[part.start] = max(flying.get(part.start, 0), min(part.meter.received, part.length))
        return sum(entry.landed.values()) + sum(flying.values())

    def length(self, index: int) -> int:
        """The chunk's length in bytes."""
        return self._open[index].chunk.length

    def _ask(self, index: int, entry: _Open, start: int, length: int, now_s: float) -> Part:
        part = Part(index, start, length, now_s, Meter())
        entry.asked.append(part)
        return part
