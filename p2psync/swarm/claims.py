"""Who is bringing which chunk, as one node has heard it: claims, their leases, and how two claims are settled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from p2psync.limits import CLAIM_LEASE_S
from p2psync.swarm.ranking import Keys, rank

# A claim that is older by more than this stays; below, clocks and queues decide, so the rank does.
_AGE_MARGIN_S: Final = 1.0
# So often a node may claim one chunk and let its lease end before its word on it counts for nothing.
_LAPSES_MAX: Final = 3


@dataclass(slots=True)
class Held:
    """A claim of another node. ``rose_s`` is when its received bytes last rose, as far as heard here."""

    holder: str
    since_s: float
    rose_s: float
    received: int = 0


@dataclass(slots=True)
class _Lapse:
    """A claim of which the lease ended: what it was then, and how often that has happened."""

    since_s: float
    received: int
    times: int


@dataclass(slots=True)
class Mine:
    """A claim of this node. ``again`` marks the second request for a chunk that somebody else is late with."""

    since_s: float
    again: bool
    rose_s: float
    received: int = 0

    def got(self, received: int, now_s: float) -> None:
        """So many bytes of it are here."""
        if received > self.received:
            self.received, self.rose_s = received, now_s


def _is_live(held: Held, now_s: float) -> bool:
    return now_s - held.rose_s <= CLAIM_LEASE_S


class Claims:
    """The claims on one version's chunks. Every node applies the same rules to what it hears.

    A lease ends when its holder leaves or has received nothing new for ``CLAIM_LEASE_S``; an expired claim stops
    nobody, however often its holder tells it again, until its bytes rise. Counted in received bytes, not in finished
    ranges: a slow link has ranges that take longer than a lease. The claim that lost is remembered: its holder may
    never hear of the winner, and goes on where the winner fails.
    """

    def __init__(self, me: str, keys: Keys, salt: Callable[[str], int]) -> None:
        self._me = me
        self._keys = keys
        self._salt = salt
        self.mine: dict[int, Mine] = {}
        self.others: dict[int, Held] = {}
        self._behind: dict[int, Held] = {}  # who brings a chunk if the one in ``others`` does not
        self._lapsed: dict[int, dict[str, _Lapse]] = {}  # by chunk and holder

    def claim(self, index: int, now_s: float, *, again: bool = False) -> None:
        """This node fetches a chunk from now on."""
        self.mine[index] = Mine(now_s, again, now_s)
        if not again:
            self.others.pop(index, None)
            self._behind.pop(index, None)

    def taken(self, index: int, now_s: float) -> bool:
        """Whether another node is fetching the chunk and its lease runs."""
        return any(
            held is not None and _is_live(held, now_s) for held in (self.others.get(index), self._behind.get(index))
        )

    def hear(self, told: Held, index: int, *, again: bool = False) -> bool:
        """Another node claims a chunk, or says again that it does. Returns whether this node's own claim loses by that.

        Third parties settle two live claims by the same rule: one that takes the newest for granted trusts the loser.
        """
        if self._again_from_holder(told, index):
            return False
        if self._is_stale(told, index):
            return False
        mine = self.mine.get(index)
        if mine is not None:
            # A second request was made because the first is late: neither of the two settles the other.
            if again or mine.again:
                return False
            # An expired claim stops nobody, one's own included: everybody else has forgotten it by now.
            live = told.rose_s - mine.rose_s <= CLAIM_LEASE_S
            if live and self._wins(self._me, mine.since_s, told, index):
                return False
            del self.mine[index]
        self._settle(told, index, again=again)
        return mine is not None

    def _again_from_holder(self, told: Held, index: int) -> bool:
        held = self.others.get(index)
        if held is None or held.holder != told.holder:
            return False
        if told.received > held.received:
            held.received, held.rose_s = told.received, told.rose_s
        elif self._is_another(told, held):
            self._lapse(index)
            return False
        return True

    @staticmethod
    def _is_another(told: Held, known: Held) -> bool:
        """Whether a holder claims a chunk anew: it lost to a node that failed since, and began again."""
        return told.since_s - known.since_s > _AGE_MARGIN_S

    def _settle(self, told: Held, index: int, *, again: bool) -> None:
        # Who takes over from a claim whose lease is over must not spare it the record of that.
        while index in self.others and not _is_live(self.others[index], told.rose_s):
            self._lapse(index)
        if self._again_from_holder(told, index):
            return
        held = self.others.get(index)
        if held is None:
            self.others[index] = told
        elif not again and not self._wins(held.holder, held.since_s, told, index):
            self.others[index], self._behind[index] = told, held
        elif not again:
            self._follow(told, index)

    def _follow(self, told: Held, index: int) -> None:
        behind = self._behind.get(index)
        if behind is not None and behind.holder == told.holder and told.received <= behind.received:
            if not self._is_another(told, behind):
                return
            self._count(behind, index)
        self._behind[index] = told

    def end(self, indexes: Iterable[int], holder: str) -> list[int]:
        """Claims that ``holder`` gives up. Returns the chunks that it held."""
        ended = []
        for index in indexes:
            self._forgive(index, holder)
            behind = self._behind.get(index)
            if behind is not None and behind.holder == holder:
                del self._behind[index]
            held = self.others.get(index)
            if held is not None and held.holder == holder and not self._succeeded(index):
                ended.append(index)
        return ended

    def _succeeded(self, index: int) -> bool:
        """End the claim on a chunk. Returns whether another that is known takes its place; its lease may be over."""
        held, behind = self.others.pop(index), self._behind.pop(index, None)
        if behind is None or held.holder == behind.holder:
            return False
        self.others[index] = behind
        return True

    def leave(self, holder: str) -> list[int]:
        """A node is gone, and with it all that it promised. Returns the chunks that are free again."""
        for index in [index for index, lapsed in self._lapsed.items() if holder in lapsed]:
            self._forgive(index, holder)
        for index in [index for index, behind in self._behind.items() if behind.holder == holder]:
            del self._behind[index]
        return self.end([index for index, held in self.others.items() if held.holder == holder], holder)

    def expire(self, now_s: float) -> list[int]:
        """Set aside claims whose lease has ended. Returns the chunks that are free again."""
        ended = [index for index, held in self.others.items() if not _is_live(held, now_s)]
        for index in ended:
            self._lapse(index)
        return [index for index in ended if not self.taken(index, now_s)]

    def _lapse(self, index: int) -> None:
        """The lease of the claim on a chunk is over: remember that, and turn to who else brings it."""
        self._count(self.others[index], index)
        self._succeeded(index)

    def _count(self, held: Held, index: int) -> None:
        lapsed = self._lapsed.setdefault(index, {})
        times = lapsed[held.holder].times + 1 if held.holder in lapsed else 1
        lapsed[held.holder] = _Lapse(held.since_s, held.received, times)

    def _is_stale(self, told: Held, index: int) -> bool:
        """Whether a claim is one that has lapsed, told again, or one too many of a node that never brings the chunk."""
        lapse = self._lapsed.get(index, {}).get(told.holder)
        if lapse is None or told.received > lapse.received:
            return False
        return lapse.times >= _LAPSES_MAX or told.since_s - lapse.since_s <= _AGE_MARGIN_S

    def _forgive(self, index: int, holder: str) -> None:
        lapsed = self._lapsed.get(index)
        if lapsed is not None and lapsed.pop(holder, None) is not None and not lapsed:
            del self._lapsed[index]

    def _wins(self, node: str, since_s: float, rival: Held, index: int) -> bool:
        """Whether the first claim stays: the clearly older one, else the one whose node ranks higher for the chunk."""
        if abs(since_s - rival.since_s) > _AGE_MARGIN_S:
            return since_s < rival.since_s
        key = self._keys[index]
        return rank(self._salt(node), key) > rank(self._salt(rival.holder), key)
