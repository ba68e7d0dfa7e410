"""What one node knows of the sources it asks: what they hold, how fast they are, and whether they are to be believed.

Blame is exact. The first chunk that does not prove costs a source that chunk (its disk may rot), the second bans it.
Slow is apart from bad: a slow source is passed over while others deliver, and is asked again when it recovers. A
source that breaks rests for a growing while and comes back: a restarted seed continues a pull.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from p2psync.limits import BATCH_BYTES_MAX, CHUNK_BYTES
from p2psync.swarm.inventory import Inventory

# Work that one request takes at once, in seconds at its measured rate: long enough to hide a round trip,
# short enough that little is lost when it breaks.
BATCH_S: Final = 0.5
# A source that owes chunks and brought less than this over this long is unfit until it delivers again.
SLOW_WINDOW_S: Final = 2.0
SLOW_BYTES_PER_S: Final = 16 << 10
REST_FIRST_S: Final = 0.25
REST_MAX_S: Final = 4.0
# Answers outside the protocol, with no good chunk between them, that ban a source.
NONSENSE_MAX: Final = 3
CORRUPT_MAX: Final = 2
# One broken connection is an accident: what only this source holds is not yet fetched from outside for that.
_BROKEN_FIT_MAX: Final = 1
# A source that says four times running that it does not have what it announced is not counted on.
_EMPTY_FIT_MAX: Final = 3
# How much of an earlier measurement stays in a rate.
_RATE_MEMORY: Final = 0.8


class Fault(Enum):
    """Why a request did not give its chunk."""

    CORRUPT = auto()  # the bytes do not prove
    NONSENSE = auto()  # the answer is outside the protocol
    WITHDRAWN = auto()  # the source does not have it (any more)
    BROKEN = auto()  # connection, silence, too slow: the network
    CANCELLED = auto()  # we stopped it: nobody's fault


@dataclass(slots=True)
class Source:
    """The record of one source. ``holds`` None is everything. ``rate`` is of one request, in bytes/s, 0 is unknown."""

    outside: bool
    holds: Inventory | None
    denied: set[int] = field(default_factory=set)
    requests: int = 0
    rate: float = 0.0
    rest_until_s: float = 0.0
    failures: int = 0
    empty: int = 0
    nonsense: int = 0
    corrupt: int = 0
    banned: bool = False
    slow: bool = False
    window_s: float = 0.0
    window_bytes: int = 0

    @property
    def fit(self) -> bool:
        """Whether what it holds may be counted on: neither bad, nor broken, nor empty-handed, nor slow."""
        return not (self.banned or self.slow or self.failures > _BROKEN_FIT_MAX or self.empty > _EMPTY_FIT_MAX)

    @property
    def on_trial(self) -> bool:
        """Whether it is asked for one thing at a time, until it delivers."""
        return self.slow or self.failures > 0 or self.empty > 0 or self.corrupt > 0

    def has(self, index: int) -> bool:
        """Whether it may be asked for a chunk."""
        if self.banned or index in self.denied:
            return False
        return self.holds is None or index in self.holds

    def budget_bytes(self) -> int:
        """How much one request to it may ask for."""
        return min(BATCH_BYTES_MAX, max(CHUNK_BYTES, int(self.rate * BATCH_S)))

    def began(self, now_s: float) -> None:
        """A request is made of it."""
        if not self.requests:
            self.window_s = now_s
        self.requests += 1

    def measure(self, length: int, since_s: float, now_s: float) -> None:
        """Learn the rate of one request from ``length`` bytes for which it was waited since ``since_s``."""
        rate = length / max(now_s - since_s, 1e-4)
        self.rate = rate if not self.rate else self.rate * _RATE_MEMORY + rate * (1 - _RATE_MEMORY)

    def delivered(self) -> None:
        """A chunk of it proved: whatever it did before is forgiven, but for chunks that did not prove."""
        self.failures = self.nonsense = self.empty = 0
        self.slow = False

    def failed(self, fault: Fault, index: int | None, now_s: float) -> list[int]:
        """A request ended badly. ``index`` is the chunk that it concerns. Returns what it is found not to hold."""
        gone: list[int] = []
        if index is not None and fault is Fault.WITHDRAWN:
            self.empty += 1
            if self.holds is None:
                self.denied.add(index)
            else:
                # It may come back by a later announcement, where a chunk that did not prove never does.
                gone = self.holds.discard([index])
        if index is not None and fault is Fault.CORRUPT:
            self.denied.add(index)
        self.corrupt += fault is Fault.CORRUPT
        # Requests that break together are one event: what fails while the source rests was asked before.
        if fault in (Fault.BROKEN, Fault.NONSENSE) and now_s >= self.rest_until_s:
            self.nonsense += fault is Fault.NONSENSE
            self.rest_until_s = now_s + min(REST_MAX_S, REST_FIRST_S * 2**self.failures)
            self.failures = min(self.failures + 1, 16)
        self.banned = self.banned or self.corrupt >= CORRUPT_MAX or self.nonsense >= NONSENSE_MAX
        return gone

    def remember(self, earlier: Source) -> None:
        """This source was here before: what it did then still counts."""
        self.denied |= earlier.denied
        self.corrupt, self.nonsense, self.banned = earlier.corrupt, earlier.nonsense, earlier.banned

    def judge(self, received: int, now_s: float) -> bool:
        """Look at the bytes that its running requests have brought. Returns whether it has just become slow."""
        if not self.requests:
            self.window_s, self.window_bytes = now_s, received
            return False
        if received - self.window_bytes >= SLOW_WINDOW_S * SLOW_BYTES_PER_S:
            self.window_s, self.window_bytes = now_s, received
            return False
        if now_s - self.window_s <= SLOW_WINDOW_S or self.slow:
            return False
        self.slow = True
        return True
