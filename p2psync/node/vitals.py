"""How a process feels: how late its event loop is, and what it takes of the machine."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

# A stall shorter than this is seen in part: what is seen is what of it lies behind the moment the loop was due.
TICK_S: Final = 0.25
# A minute: longer than the usual interval between two scrapes, so that none misses a stall.
_WINDOW: Final = 240
_KIB: Final = 1024


class LoopLag:
    """How late an event loop ran what was due, over the last minute, in seconds."""

    def __init__(self, window: int = _WINDOW, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._late_s: deque[float] = deque(maxlen=window)

    def note(self, late_s: float) -> None:
        """Take one measurement in."""
        self._late_s.append(max(0.0, late_s))

    @property
    def max_s(self) -> float:
        """The latest that it was."""
        return max(self._late_s, default=0.0)

    @property
    def mean_s(self) -> float:
        """How late it was on average."""
        return sum(self._late_s) / len(self._late_s) if self._late_s else 0.0

    async def watch(self) -> None:
        """Measure for ever. Costs four wake-ups a second."""
        while True:
            due_s = self._clock() + TICK_S
            await asyncio.sleep(TICK_S)
            self.note(self._clock() - due_s)


@dataclass(frozen=True, slots=True)
class Process:
    """What this process takes, in bytes and descriptors."""

    resident_bytes: int
    anonymous_bytes: int
    open_fds: int


def process() -> Process | None:
    """Read it from Linux' ``/proc``; None where there is none."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            kib = {name: int(rest.split()[0]) for name, _, rest in map(_parted, status) if name in ("VmRSS", "RssAnon")}
        # The listing holds one itself.
        descriptors = len(os.listdir("/proc/self/fd")) - 1
    except OSError:
        return None
    return Process(kib.get("VmRSS", 0) * _KIB, kib.get("RssAnon", 0) * _KIB, descriptors)


def _parted(line: str) -> tuple[str, str, str]:
    return line.partition(":")
