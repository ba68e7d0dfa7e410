"""The other nodes of the site that have to do with one version: what they said, and what follows for this node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from p2psync.content import Digest
from p2psync.limits import CLAIM_LEASE_S, FIRST_CLAIM_WAIT_S, HAVE_DELAY_S
from p2psync.swarm.claims import Claims, Held
from p2psync.swarm.fetchers import Candidate, share
from p2psync.swarm.inventory import Inventory
from p2psync.swarm.messages import Beat, Claim, Have, Hello, Job, Leave, Lost, Message, Release
from p2psync.swarm.ranking import Keys, rank, salt_of

# A node of whose claims this many had to be brought by others, with nothing from it between, is no fetcher.
_RESCUED_MAX: Final = 2


@dataclass(slots=True)
class Peer:
    """What one other node said. ``met_s`` is when it was met, ``heard_s`` when it last spoke of this version.

    ``rescued`` are claims of it that somebody else had to ask for once more since it last brought anything.
    """

    salt: int
    met_s: float
    heard_s: float = float("-inf")
    answered: bool = False
    wants: bool = False
    outside: bool = False
    selection: bytes = b""
    outside_rate: float = 0.0
    lan_rate: float = 0.0
    rescued: int = 0


@dataclass(slots=True)
class News:
    """What a message says: what its sender holds (``have`` all of it, ``fresh`` also, ``gone`` no more), and more.

    ``beaten`` are own claims that lost, ``freed`` what nobody is bringing any more.
    """

    have: Inventory | None = None
    fresh: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    freed: list[int] = field(default_factory=list)
    beaten: list[int] = field(default_factory=list)
    answer: bool = False


class Company:
    """The peers of one version and the claims between them. ``me`` is this node's id, empty when it is alone.

    A node that ``serves`` nobody takes part as a reader: what it brought from outside would help it alone, so it leaves
    that to the others while there are any.
    """

    def __init__(self, me: str, root: Digest, keys: Keys, selection: bytes, *, serves: bool = True) -> None:
        self.me = me
        self.serves = serves
        self.peers: dict[str, Peer] = {}
        self.coming: dict[int, Held] = {}
        self.outside_rate = 0.0
        self.lan_rate = 0.0
        self.outside = False
        self._reached_s = float("-inf")
        self._root = root
        self._selection = selection
        self._keys = keys
        self._salts = {me: salt_of(me, root)}
        self.claims = Claims(me, keys, self._salt)
        self.fetchers: dict[str, int] = {me: 0}
        self._alike: dict[str, int] = {me: self._salts[me]}  # fetchers that want what this node wants: their salts

    def _salt(self, node: str) -> int:
        salt = self._salts.get(node)
        if salt is None:
            salt = self._salts[node] = salt_of(node, self._root)
        return salt

    @property
    def is_empty(self) -> bool:
        """Whether no other node takes part."""
        return not self.peers

    def meet(self, node: str, now_s: float) -> None:
        """A channel to a node is open."""
        self.peers[node] = Peer(self._salt(node), now_s)

    def part(self, node: str) -> list[int]:
        """A node is gone. Returns the chunks that are free again."""
        if self.peers.pop(node, None) is None:
            return []
        if node != self.me:
            self._salts.pop(node, None)
        return self.claims.leave(node) + self._forget(node)

    @property
    def offers(self) -> bool:
        """Whether the others may count on this node to bring chunks from outside."""
        return self.outside and self.serves

    def reach(self, now_s: float) -> None:
        """This node has found a source outside."""
        if not self.outside:
            self.outside, self._reached_s = True, now_s

    def settled(self, now_s: float) -> bool:
        """Whether every node that was met has said what it holds, or has had its time to.

        Nodes that start together find the source together: each waits until the others may know that it does.
        """
        if self.peers and now_s < self._reached_s + HAVE_DELAY_S:
            return False
        return all(p.answered or now_s - p.met_s > FIRST_CLAIM_WAIT_S for p in self.peers.values())

    def helps_outside(self) -> bool:
        """Whether another node that takes part reaches a source outside, as far as its word counts."""
        return any(p.wants and p.outside and p.rescued <= _RESCUED_MAX for p in self.peers.values())

    def choose(self, connections: int, now_s: float) -> bool:
        """Settle who fetches from outside. Returns whether it is others than before."""
        candidates = [
            Candidate(node, p.salt, p.selection, p.outside_rate, p.lan_rate)
            for node, p in self.peers.items()
            if p.wants and p.outside and p.rescued <= _RESCUED_MAX and now_s - p.heard_s <= CLAIM_LEASE_S
        ]
        if self.outside and (self.serves or not candidates):
            own = Candidate(self.me, self._salts[self.me], self._selection, self.outside_rate, self.lan_rate)
            candidates.append(own)
        chosen = share(candidates, connections) if candidates else {}
        changed = chosen.keys() != self.fetchers.keys()
        self.fetchers = chosen
        if changed:
            # Nodes that want other chunks do not bring these: a rank that counts them would leave chunks to nobody.
            self._alike = {c.node: c.salt for c in candidates if c.node in chosen and c.selection == self._selection}
        return changed

    def own(self, index: int) -> bool:
        """Whether the chunk is this node's by rank among the fetchers."""
        key = self._keys[index]
        mine = rank(self._salts[self.me], key)
        return all(rank(salt, key) <= mine for salt in self._alike.values())

    def second(self, index: int, holder: str) -> bool:
        """Whether this node is the one to ask once more for a chunk that ``holder`` is late with."""
        key = self._keys[index]
        ranks = {node: rank(salt, key) for node, salt in self._alike.items() if node != holder}
        return bool(ranks) and max(ranks, key=ranks.__getitem__) == self.me

    def rescue(self, index: int) -> None:
        """Somebody asks once more for a chunk that another node claimed and is far too slow with."""
        held = self.claims.others.get(index)
        peer = self.peers.get(held.holder) if held is not None else None
        if peer is not None:
            peer.rescued += 1

    def is_awaited(self, index: int, now_s: float) -> bool:
        """Whether another node is taking the only copy on the LAN."""
        held = self.coming.get(index)
        return held is not None and now_s - held.rose_s <= CLAIM_LEASE_S

    def expire(self, now_s: float) -> tuple[list[int], list[int]]:
        """Forget what nobody keeps up. Returns the chunks that are free outside, and those that are free on the LAN."""
        near = [index for index in self.coming if not self.is_awaited(index, now_s)]
        for index in near:
            del self.coming[index]
        return self.claims.expire(now_s), near

    def hear(self, node: str, message: Message, now_s: float) -> News:
        """Take in what a node said."""
        peer = self.peers.get(node)
        news = News()
        if peer is None:
            return news
        peer.heard_s = now_s
        match message:
            case Hello():
                self._hello(node, peer, message, now_s, news)
            case Claim():
                for index in message.indexes:
                    if message.again:
                        self.rescue(index)
                    self._claimed(node, Job(index, 0, 0, message.outside), now_s, news, again=message.again)
            case Beat():
                peer.outside = message.outside
                peer.outside_rate, peer.lan_rate = float(message.outside_rate), float(message.lan_rate)
                self._jobs(node, message.jobs, now_s, news)
            case Have():
                peer.rescued = 0
                news.fresh = list(message.indexes)
                self._released(node, message.indexes)
            case Release():
                news.freed = self._released(node, message.indexes)
            case Lost():
                news.gone = list(message.indexes)
            case Leave():
                peer.wants = False
                news.freed = self.claims.leave(node) + self._forget(node)
        return news

    def _hello(self, node: str, peer: Peer, message: Hello, now_s: float, news: News) -> None:
        news.answer = not message.answer
        news.freed = self.claims.leave(node) + self._forget(node)
        peer.answered = True
        peer.wants, peer.outside, peer.selection = message.wants, message.outside, message.selection
        news.have = message.have
        self._jobs(node, message.jobs, now_s, news)

    def _jobs(self, node: str, jobs: Sequence[Job], now_s: float, news: News) -> None:
        # A beat tells every claim again: that heals what a node missed that came later, or what it settled wrongly.
        for job in jobs:
            self._claimed(node, job, now_s, news)

    def _claimed(self, node: str, job: Job, now_s: float, news: News, *, again: bool = False) -> None:
        told = Held(node, now_s - job.age_ms / 1000, now_s, job.received)
        if job.outside:
            if self.claims.hear(told, job.index, again=again):
                news.beaten.append(job.index)
            return
        held = self.coming.get(job.index)
        if held is not None and held.holder == node:
            if told.received > held.received:
                held.received, held.rose_s = told.received, now_s
        elif not self.is_awaited(job.index, now_s):
            self.coming[job.index] = told

    def _released(self, node: str, indexes: Iterable[int]) -> list[int]:
        return self.claims.end(indexes, node) + self._forget(node, set(indexes))

    def _forget(self, node: str, indexes: set[int] | None = None) -> list[int]:
        gone = [i for i, held in self.coming.items() if held.holder == node and (indexes is None or i in indexes)]
        for index in gone:
            del self.coming[index]
        return gone
