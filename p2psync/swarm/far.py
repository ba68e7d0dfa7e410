"""Which chunk a node asks for outside next: its own by rank first, then whatever nobody has claimed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from p2psync.limits import BATCH_DIGESTS_MAX
from p2psync.manifest import Chunk
from p2psync.swarm.sources import Source


class Far:
    """The one queue for all outside sources of a pull.

    ``order`` differs from node to node. A rank never gives a chunk away for good: a fetcher with nothing of its own
    left takes what is free, so nobody is idle and nobody waits for a slow owner.
    """

    def __init__(self, missing: dict[int, Chunk], order: Iterable[int]) -> None:
        self._missing = missing
        self._ahead = deque(order)
        self._passed: deque[int] = deque()
        self._aside: set[int] = set()

    def reorder(self, order: Iterable[int]) -> None:
        """Ask in another order from now on: the node is no longer alone."""
        self._ahead = deque(order)
        self._passed.clear()
        self._aside.clear()

    def rank_anew(self) -> None:
        """Other nodes fetch now, so other chunks are this node's own."""
        self._passed.extend(self._ahead)
        self._ahead, self._passed = self._passed, deque()

    def free(self, indexes: Iterable[int]) -> None:
        """These may be asked for again: a claim ended, or its holder is gone."""
        back = [index for index in indexes if index in self._aside]
        self._aside.difference_update(back)
        self._ahead.extendleft(reversed(back))

    def free_all(self) -> None:
        """Whatever was put aside is looked at again: a source that it was left to is no longer fit."""
        self.free(sorted(self._aside))

    def requeue(self, indexes: Iterable[int]) -> None:
        """Chunks that were asked for and did not come."""
        self._ahead.extendleft(indexes)

    def take(
        self, source: Source, free: Callable[[int], bool], own: Callable[[int], bool], *, budget: int
    ) -> list[Chunk]:
        """What one request of a source asks for: at least one chunk where any is free, and up to ``budget`` bytes."""
        batch: list[Chunk] = []
        skipped: list[int] = []
        chosen: set[int] = set()
        while len(batch) < BATCH_DIGESTS_MAX:
            queue = self._next(source, lambda index: index not in chosen and free(index), own, skipped)
            if queue is None:
                break
            chunk = self._missing[queue[0]]
            if batch and chunk.length > budget:
                break
            chosen.add(queue.popleft())
            batch.append(chunk)
            budget -= chunk.length
        self._ahead.extendleft(reversed(skipped))
        return batch

    def _next(
        self, source: Source, free: Callable[[int], bool], own: Callable[[int], bool], skipped: list[int]
    ) -> deque[int] | None:
        """The queue whose first chunk is next."""
        for queue, any_will_do in ((self._ahead, False), (self._passed, True)):
            while queue:
                index = queue[0]
                if index in self._missing:
                    if not free(index):
                        self._aside.add(index)
                    elif not source.has(index):
                        skipped.append(index)
                    elif any_will_do or own(index):
                        return queue
                    else:
                        self._passed.append(index)
                queue.popleft()
        return None
