"""Askers that ask for what is not here: how much of that one address gets before it has to wait.

Theory: each address has a budget that refills with time. Honest askers miss too: an inventory may be old, a version
may just have gone, so the budget is that of a large version. Who has spent it is told so after a pause and on a
connection that then ends: with a bound on its connections, what an address can make a server do is bounded as well.
What is here is given meanwhile, since many askers may stand behind one address.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import ceil

from p2psync.limits import MISS_ADDRESSES_MAX


class Misses:
    """Counts what each address missed. The clock is the caller's."""

    def __init__(self, burst: int, per_s: float, clock: Callable[[], float]) -> None:
        """Give each address ``burst`` misses at once and ``per_s`` of them a second after that."""
        self._burst = burst
        self._per_s = per_s
        self._clock = clock
        # What each address has spent, and when that was reckoned; the one that missed last stands last.
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._spent)

    def missed(self, address: str, cost: float) -> int | None:
        """Take note that an address asked in vain. None if it may; else the whole seconds that it should wait.

        What is refused costs nothing: who goes on asking is let in at the same rate as who waits.
        """
        now_s = self._clock()
        spent, at_s = self._spent.pop(address, (0.0, now_s))
        spent = max(0.0, spent - (now_s - at_s) * self._per_s)
        over = spent + cost - self._burst
        self._spent[address] = (spent if over > 0 else spent + cost, now_s)
        if len(self._spent) > MISS_ADDRESSES_MAX:
            self._spent.popitem(last=False)
        return max(1, ceil(over / self._per_s)) if over > 0 else None
