"""The facts of one pull that everybody who decides about it looks at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from p2psync.manifest import Chunk
from p2psync.swarm.company import Company
from p2psync.swarm.parts import Meter, Part
from p2psync.swarm.requests import Ask, Requests
from p2psync.swarm.sources import Source
from p2psync.swarm.voice import Voice

# A first request is doubled when it has taken this many times what the asker itself needs for a chunk.
LATE_FACTOR: Final = 4.0


@dataclass(slots=True, eq=False)
class State:
    """What is missing, who may be asked, who else is there, and what is under way.

    ``connections`` are requests to outside sources of the whole site together; ``left_bytes`` are what is missing.
    """

    table: Sequence[Chunk]
    missing: dict[int, Chunk]
    company: Company
    voice: Voice
    connections: int
    sources: dict[str, Source] = field(default_factory=dict)
    requests: Requests = field(default_factory=Requests)
    left_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.left_bytes = sum(chunk.length for chunk in self.missing.values())

    def want(self, index: int) -> None:
        """A chunk is missing from now on."""
        self.missing[index] = self.table[index]
        self.left_bytes += self.table[index].length

    def has(self, index: int) -> bool:
        """A chunk is missing no more. Returns whether it was."""
        chunk = self.missing.pop(index, None)
        self.left_bytes -= chunk.length if chunk is not None else 0
        return chunk is not None

    def ask(self, name: str, batch: Iterable[Chunk], part: Part | None, now_s: float) -> Ask:
        """Make a request of a source."""
        record = self.sources[name]
        chunks = tuple(batch)
        meter = part.meter if part is not None else Meter()
        left = {chunk.index: chunk for chunk in chunks}
        ask = Ask(name, chunks, part, now_s, meter, record.outside, left, now_s)
        record.began(now_s)
        self.requests.open(ask)
        return ask
