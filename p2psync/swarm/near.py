"""Which chunk a source on the LAN is asked for next: the rarest first, in an order that differs from node to node."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from p2psync.limits import BATCH_DIGESTS_MAX, RAREST_WINDOW
from p2psync.manifest import Chunk
from p2psync.swarm.sources import Source


class Near:
    """The queues of the LAN sources of one pull.

    A queue holds what its source has and this node lacks, in the node's own order. What may not be asked for yet is
    put aside and comes back by ``free``, so that no chunk is looked at again and again.
    """

    def __init__(self, count: int, missing: dict[int, Chunk]) -> None:
        self._missing = missing
        self._copies = array("H", bytes(2 * count))
        self._queues: dict[str, deque[int]] = {}
        self._aside: dict[str, set[int]] = {}
        self.whole = 0  # sources that hold everything without saying so chunk by chunk

    @property
    def sources(self) -> int:
        """How many LAN sources there are."""
        return len(self._queues)

    def waits(self, name: str) -> bool:
        """Whether anything is left to ask a source for."""
        return bool(self._queues[name])

    def copies(self, index: int) -> int:
        """How many LAN sources are known to hold the chunk, those that hold everything not counted."""
        return self._copies[index]

    def join(self, name: str, source: Source, order: Iterable[int]) -> None:
        """A source is here; ``order`` is every missing chunk in the order in which this node asks."""
        self.leave(name, source)
        nothing = source.holds is not None and not len(source.holds)
        self._queues[name] = deque(() if nothing else (index for index in order if source.has(index)))
        self._aside[name] = set()
        self._count(source.holds, 1)

    def leave(self, name: str, source: Source) -> None:
        """A source is gone, or joins anew."""
        if self._queues.pop(name, None) is not None:
            self._aside.pop(name)
            self._count(source.holds, -1)

    def _count(self, holds: Iterable[int] | None, step: int) -> None:
        if holds is None:
            self.whole += step
        else:
            for index in holds:
                self._copies[index] += step

    def offer(self, name: str, fresh: Sequence[int]) -> None:
        """A source has proved more chunks. Newly spread ones come first: others wait for them too."""
        for index in fresh:
            self._copies[index] += 1
        queue = self._queues.get(name)
        if queue is not None:
            queue.extendleft(index for index in reversed(fresh) if index in self._missing)
        # A second holder ends the wait for the one who is fetching the only copy.
        self.free(fresh)

    def withdraw(self, gone: Iterable[int]) -> None:
        """A source lost chunks."""
        for index in gone:
            self._copies[index] -= 1

    def free(self, indexes: Iterable[int]) -> None:
        """These may be asked for again."""
        for name, aside in self._aside.items():
            if aside:
                back = [index for index in dict.fromkeys(indexes) if index in aside]
                aside.difference_update(back)
                self._queues[name].extendleft(reversed(back))

    def requeue(self, source_of: Callable[[str], Source], indexes: Sequence[int]) -> None:
        """Chunks that were asked for and did not come."""
        for name, queue in self._queues.items():
            queue.extendleft(index for index in reversed(indexes) if source_of(name).has(index))

    def take(self, name: str, source: Source, free: Callable[[int], bool | None]) -> list[Chunk]:
        """What one request of a source asks for, in order; empty when there is nothing.

        ``free`` says of a chunk: True, take it; None, not from this source now; False, somebody is asked for it.
        """
        batch: list[Chunk] = []
        if not self._queues[name]:
            return batch
        budget = source.budget_bytes()
        chosen: set[int] = set()
        while len(batch) < BATCH_DIGESTS_MAX:
            # What came back to the queue after a failure may stand in it twice.
            index = self._rarest(name, source, lambda index: index not in chosen and free(index))
            if index is None:
                break
            chunk = self._missing[index]
            if batch and chunk.length > budget:
                self._queues[name].appendleft(index)
                break
            chosen.add(index)
            batch.append(chunk)
            budget -= chunk.length
        return batch

    def _rarest(self, name: str, source: Source, free: Callable[[int], bool | None]) -> int | None:
        """Take the rarest of the first few free chunks out of a queue; the others keep their places."""
        queue, aside = self._queues[name], self._aside[name]
        seen: list[int] = []
        best: int | None = None
        while queue and len(seen) < RAREST_WINDOW:
            index = queue.popleft()
            if index not in self._missing or not source.has(index):
                continue
            verdict = free(index)
            if verdict is None:
                aside.add(index)
            elif verdict:
                seen.append(index)
                if best is None or self._copies[index] < self._copies[best]:
                    best = index
                if self._copies[best] <= 1:
                    break
        queue.extendleft(index for index in reversed(seen) if index != best)
        return best
