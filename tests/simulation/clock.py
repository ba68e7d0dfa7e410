"""Virtual time: things that happen, in order."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Clock:
    """A queue of events. Two at the same time happen in the order in which they were planned."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.steps = 0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._planned = 0

    def at(self, when_s: float, what: Callable[..., None], *arguments: Any) -> None:
        """Plan a call; one in the past happens now."""
        self._planned += 1
        heapq.heappush(self._queue, (max(when_s, self.now_s), self._planned, what, arguments))

    def after(self, delay_s: float, what: Callable[..., None], *arguments: Any) -> None:
        """Plan a call ``delay_s`` from now."""
        self.at(self.now_s + delay_s, what, *arguments)

    def step(self) -> bool:
        """Let the next thing happen. Returns whether there was any."""
        if not self._queue:
            return False
        self.now_s, _, what, arguments = heapq.heappop(self._queue)
        self.steps += 1
        what(*arguments)
        return True
