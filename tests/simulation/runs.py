"""What is under way in a simulated site: requests, how they are answered, and what came of them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

from p2psync.manifest import Chunk
from p2psync.swarm import Ask
from tests.simulation.links import SharedPort, Transfer


class Answer(Enum):
    """What a node does with a request for a chunk."""

    GOOD = auto()
    BAD = auto()  # other bytes
    ABSENT = auto()  # says that it does not have it
    SILENT = auto()  # takes the request and says nothing
    RESET = auto()  # breaks off shortly before the end


@dataclass(slots=True, eq=False)
class Run:
    """One request under way.

    ``base`` are the bytes of its chunks that are complete, ``fixed`` those before the transfer that is running. On the
    LAN a chunk passes two ports at once, and is here when both have passed it.
    """

    ask: Ask
    rest: deque[Chunk]
    holder: str
    ways: list[tuple[SharedPort, Transfer]] = field(default_factory=list)
    transfer: Transfer | None = None
    base: int = 0
    fixed: int = 0
    seen: int = 0
    moved_s: float = 0.0
    paused: bool = False
    answer: Answer = Answer.GOOD


@dataclass(slots=True)
class Tally:
    """What a node has taken: bytes over the LAN and from outside, those it needed, and bad chunks."""

    lan: int = 0
    outside: int = 0
    useful: int = 0
    bad: int = 0
    by_source: dict[str, int] = field(default_factory=dict)
