"""What the peers of one version are told: news at once and then together, claims, and a beat twice a second."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from p2psync.limits import BEAT_S, CLAIMS_IN_MESSAGE_MAX, HAVE_DELAY_S, INDEXES_IN_MESSAGE_MAX
from p2psync.swarm.company import Company
from p2psync.swarm.messages import Beat, Claim, Have, Hello, Job, Leave, Lost, Message, Release


class Voice:
    """The messages that wait to be sent. A node that nobody can ask says only that it is there, and that it leaves."""

    def __init__(self, topic: bytes, company: Company) -> None:
        self._topic = topic
        self._company = company
        self._fresh: list[int] = []
        self._told_s = self._beat_s = float("-inf")
        self._hurried = False
        self._outbox: list[tuple[str | None, Message]] = []
        self.left = False

    def take(self) -> list[tuple[str | None, Message]]:
        """What is to be sent, in order: to one node, or (None) to every peer that takes part."""
        outbox, self._outbox = self._outbox, []
        if not self._company.serves:
            # Nobody may wait for what a reader fetches, nor ask it for what it holds.
            return [(node, message) for node, message in outbox if isinstance(message, Hello | Leave)]
        return outbox

    @property
    def due_s(self) -> float | None:
        """When ``tell`` has something to say, None when it has nothing."""
        if self._company.is_empty or self.left:
            return None
        if self._hurried:
            return self._beat_s
        return self._told_s + HAVE_DELAY_S if self._fresh else None

    def greet(self, node: str, hello: Hello) -> None:
        """Say to one node what is here."""
        self._outbox.append((node, hello))

    def arrived(self, fresh: Iterable[int], now_s: float) -> None:
        """Chunks are newly here."""
        self._fresh += fresh
        self.tell(now_s)

    def tell(self, now_s: float) -> None:
        """Say what is newly here, unless something was said a moment ago."""
        if self._company.is_empty:
            # Whoever comes is greeted with all of it.
            self._fresh.clear()
        elif self._fresh and now_s >= self._told_s + HAVE_DELAY_S:
            self._told_s = now_s
            self._tell_all(Have, self._fresh)
            self._fresh = []

    def lost(self, indexes: Sequence[int]) -> None:
        """Chunks are not here any more."""
        gone = set(indexes)
        self._fresh = [index for index in self._fresh if index not in gone]
        self._tell_all(Lost, indexes)

    def claim(self, indexes: Sequence[int], *, outside: bool, again: bool = False) -> None:
        """This node is fetching chunks from now on."""
        if indexes and not self._company.is_empty:
            self._outbox.append((None, Claim(self._topic, outside, again, tuple(indexes))))

    def release(self, indexes: Sequence[int]) -> None:
        """This node no longer fetches chunks."""
        self._tell_all(Release, indexes)

    def beat_due(self, now_s: float) -> bool:
        """Whether it is time to beat."""
        if self._company.is_empty or self.left:
            return False
        return self._hurried or now_s >= self._beat_s + BEAT_S

    def hurry(self) -> None:
        """Something changed that the others are to know at once."""
        self._hurried = True

    def beat(self, jobs: Sequence[Job], now_s: float) -> None:
        """Tell claims again and what was measured."""
        self._beat_s, self._hurried = now_s, False
        company = self._company
        rates = int(company.outside_rate), int(company.lan_rate)
        self._outbox.append((None, Beat(self._topic, company.offers, *rates, tuple(jobs[:CLAIMS_IN_MESSAGE_MAX]))))

    def leave(self) -> None:
        """Say what is newly here, and that nothing more is wanted."""
        if not self.left:
            self.left = True
            self._tell_all(Have, self._fresh)
            self._fresh = []
            self._outbox.append((None, Leave(self._topic)))

    def _tell_all(self, kind: type[Have | Lost | Release], indexes: Sequence[int]) -> None:
        if self._company.is_empty:
            return
        for start in range(0, len(indexes), INDEXES_IN_MESSAGE_MAX):
            self._outbox.append((None, kind(self._topic, tuple(indexes[start : start + INDEXES_IN_MESSAGE_MAX]))))
