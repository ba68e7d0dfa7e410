"""Whom a node knows of, whom it dials next, and which of two channels to one node stays.

Theory of operation: the caller reports what it heard, what it was told and how each dial ended, with the time;
``due`` returns the addresses to dial now. An address comes from one of three: the operator (kept for ever, dialled as
given), discovery, or a neighbour's word. None of them proves anything: who is there is known after the handshake.
Every table is bounded, and what was proven, spoken of lately, or said by discovery outlives what was not. A node is
named here by its id, or by the first 16 digits of it where no more is known.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from p2psync.errors import UsageError
from p2psync.limits import (
    BANS_MAX,
    CHANNELS_MAX,
    DIALS_MAX,
    HANDSHAKE_TIMEOUT_S,
    NEXT_ADDRESS_S,
    PLACE_KEEP_S,
    PLACES_MAX,
    PLACES_PER_NODE_MAX,
    PLACES_PER_TELLER_MAX,
    REDIAL_MAX_S,
    REDIAL_MIN_S,
    REDIAL_SETTLED_S,
    STATIC_PEERS_MAX,
    YIELD_S,
)

PREFIX_CHARS: Final = 16
# Who spoke of an address, where it was no neighbour.
_DISCOVERY: Final = ""
_OPERATOR: Final = "operator"
# Doubling from 1 s reaches 60 s after six failures; more of them must not overflow.
_DOUBLINGS_MAX: Final = 6
# Where a table is full, room for so many is made at once: a flood must stay cheap.
_ROOM: Final = 32


class Verdict(Enum):
    """What becomes of a channel that has just proved who is there."""

    KEEP = "keep"
    REPLACE = "replace"  # Keep it and end the one there was.
    REFUSE = "refuse"  # End it, the one there was stays.


class Objection(Enum):
    """Why a node is not to be spoken with now. The words are those of docs/protocol.md."""

    BANNED = "banned"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Ban:
    """A node that is not spoken with until a time."""

    node: str
    reason: str
    until_s: float


@dataclass(slots=True)
class _Place:
    url: str
    teller: str
    prefix: str | None
    heard_s: float
    due_s: float
    proven: bool = False
    failures: int = 0
    dialled_s: float | None = None

    @property
    def static(self) -> bool:
        return self.teller == _OPERATOR

    def rank(self) -> tuple[bool, bool, float]:
        """The lowest is the first to be forgotten."""
        return self.proven, self.teller == _DISCOVERY, self.heard_s


@dataclass(frozen=True, slots=True)
class _Live:
    by_me: bool
    since_s: float


class Acquaintances:
    """The addresses that one node knows. Pure: the caller brings time and entropy."""

    def __init__(self, me: str, static: Sequence[str], now_s: float, *, dialled: bool = True) -> None:
        """Know the operator's addresses.

        Args:
            me: This node's id.
            static: Base URLs that are always kept.
            now_s: The time, on the clock that all calls use.
            dialled: Others can dial this node, so it lets smaller ids do that first.

        Raises:
            UsageError: more addresses than a node keeps.
        """
        if len(static) > STATIC_PEERS_MAX:
            raise UsageError(f"{len(static)} peers were named; {STATIC_PEERS_MAX} is the most")
        self._me = me
        self._dialled = dialled
        self._places = {url: _Place(url, _OPERATOR, None, now_s, now_s) for url in static}
        # How many of the places each neighbour spoke of, and which each node has: floods must stay cheap to refuse.
        self._said: Counter[str] = Counter()
        self._of_node: dict[str, set[str]] = {}
        self._live: dict[str, _Live] = {}
        self._live_prefixes: Counter[str] = Counter()
        self._bans: dict[str, Ban] = {}

    def __len__(self) -> int:
        return len(self._places)

    @property
    def live(self) -> frozenset[str]:
        """Ids of the nodes with a channel."""
        return frozenset(self._live)

    def named(self, node: str) -> bool:
        """True if the operator gave an address at which this node was met."""
        return any(place.static for place in self._places_of(node[:PREFIX_CHARS]))

    def heard(self, prefix: str, urls: Iterable[str], now_s: float) -> None:
        """Discovery heard a node at these addresses; others that it had given for it are forgotten."""
        kept = [url for url, _ in zip(urls, range(PLACES_PER_NODE_MAX), strict=False)]
        self.lost(prefix, except_urls=kept)
        for url in kept:
            self._learn(url, prefix, _DISCOVERY, now_s)

    def lost(self, prefix: str, except_urls: Sequence[str] = ()) -> None:
        """Discovery heard a node take its leave: what it alone had said of it is forgotten, but for a live node."""
        for place in self._places_of(prefix):
            if place.teller == _DISCOVERY and place.url not in except_urls and self._droppable(place):
                self._forget(place)

    def told(self, teller: str, prefix: str, url: str, now_s: float) -> None:
        """A neighbour said that a node is at this address. Its oldest words make room for its newest."""
        if url not in self._places and self._said[teller] >= PLACES_PER_TELLER_MAX:
            self._drop(_ROOM, [place for place in self._places.values() if place.teller == teller])
        self._learn(url, prefix, teller, now_s)

    def due(self, now_s: float, allowed: Callable[[str], bool]) -> list[str]:
        """The addresses to dial now; each counts as being dialled until ``failed`` or ``reached``.

        ``allowed`` says whether a learnt address lies inside the site's own networks now; the operator's are
        dialled as given. Of a node's addresses the next is tried when the one before was silent for a second.
        """
        self._expire(now_s)
        dialling = [place for place in self._places.values() if place.dialled_s is not None]
        busy = {place.prefix for place in dialling if now_s - (place.dialled_s or 0.0) < NEXT_ADDRESS_S}
        shunned = self._shunned(now_s)
        chosen: list[str] = []
        for place in sorted(self._places.values(), key=lambda place: place.due_s):
            if len(dialling) + len(chosen) >= DIALS_MAX or place.due_s > now_s:
                break
            unwanted = place.prefix is not None and place.prefix in busy | shunned
            if place.dialled_s is not None or unwanted or not (place.static or allowed(place.url)):
                continue
            place.dialled_s = now_s
            busy.add(place.prefix)
            chosen.append(place.url)
        return chosen

    def next_s(self, now_s: float) -> float | None:
        """When ``due`` may have something new, if nothing else happens; None while there is nothing to wait for."""
        shunned = self._shunned(now_s)
        times = [
            max(place.due_s, now_s + NEXT_ADDRESS_S) if place.due_s <= now_s else place.due_s
            for place in self._places.values()
            if place.dialled_s is None and place.prefix not in shunned
        ]
        return min(times, default=None)

    def failed(self, url: str, now_s: float, entropy: float, *, settled: bool = False) -> None:
        """A dial ended without a channel.

        Args:
            url: The address.
            now_s: The time.
            entropy: In [0, 1): spreads what failed together, so that it does not come back together.
            settled: Somebody answered and is none of ours, so there is no hurry: another site, or this node itself.
        """
        place = self._places.get(url)
        if place is None:
            return
        place.dialled_s = None
        place.failures = min(place.failures + 1, _DOUBLINGS_MAX + 1)
        backoff_s = min(REDIAL_MAX_S, REDIAL_MIN_S * 2.0 ** (place.failures - 1))
        place.due_s = now_s + (REDIAL_SETTLED_S if settled else backoff_s) * (0.5 + entropy)

    def reached(self, url: str, node: str, now_s: float, *, proven: bool = True) -> None:
        """A dial ended with a node that is one of ours, or says so, whether or not the channel stays."""
        place = self._places.get(url)
        if place is not None:
            self._label(place, place.teller, node[:PREFIX_CHARS])
            place.proven, place.failures = place.proven or proven, 0
            place.heard_s, place.dialled_s, place.due_s = now_s, None, now_s + REDIAL_MIN_S

    def objection(self, node: str, now_s: float) -> Objection | None:
        """Why this node keeps no channel to that one now."""
        if self._banned(node, now_s):
            return Objection.BANNED
        if node not in self._live and len(self._live) >= CHANNELS_MAX:
            return Objection.FULL
        return None

    def crosses(self, node: str, now_s: float, *, by_me: bool) -> bool:
        """True if a channel that is coming about with a node would be a second one.

        This node never makes two channels to one node, so whoever sees it dial again knows that it lost the first.
        Of two dials that cross, the smaller id's goes on: it turns the other one down while its own is young.
        """
        if by_me:
            return node in self._live
        dials = [place.dialled_s for place in self._places_of(node[:PREFIX_CHARS]) if place.dialled_s is not None]
        return self._me < node and any(now_s - dialled_s < NEXT_ADDRESS_S for dialled_s in dials)

    def joined(self, node: str, url: str | None, now_s: float, *, by_me: bool) -> Verdict:
        """A channel to a node has come about. ``url`` is where its server is reached, None if it serves nowhere.

        Both ends settle two channels alike: of two that came about together, the one dialled by the smaller id
        stays. Nobody dials a node that it has a channel to, so a later one means that the other side lost the first.
        """
        verdict, old = Verdict.KEEP, self._live.get(node)
        if old is not None:
            verdict = Verdict.REPLACE
            if old.by_me != by_me and now_s - old.since_s < HANDSHAKE_TIMEOUT_S:
                smaller_dialled = by_me == (self._me < node)
                verdict = Verdict.REPLACE if smaller_dialled else Verdict.REFUSE
        if old is None:
            self._live_prefixes[node[:PREFIX_CHARS]] += 1
        if verdict is not Verdict.REFUSE:
            self._live[node] = _Live(by_me, now_s)
        if url is not None:
            self._learn(url, node[:PREFIX_CHARS], node, now_s)
        return verdict

    def left(self, node: str, now_s: float, entropy: float) -> None:
        """The channel to a node has ended. It is dialled again soon, at each of its addresses."""
        if self._live.pop(node, None) is not None:
            self._live_prefixes[node[:PREFIX_CHARS]] -= 1
            self._live_prefixes += Counter()  # Forgets what is zero.
        for place in self._places_of(node[:PREFIX_CHARS]):
            place.heard_s = now_s
            place.failures = 0
            place.due_s = max(place.due_s, now_s + REDIAL_MIN_S * (0.5 + entropy))

    def ban(self, node: str, reason: str, until_s: float) -> None:
        """Do not speak with a node until then. Of more bans than are kept, the one that ends first is dropped."""
        self._bans[node] = Ban(node, reason, until_s)
        if len(self._bans) > BANS_MAX:
            del self._bans[min(self._bans.values(), key=lambda ban: ban.until_s).node]

    def bans(self, now_s: float) -> list[Ban]:
        """The bans that hold."""
        return [ban for ban in self._bans.values() if ban.until_s > now_s]

    def _banned(self, node: str, now_s: float) -> bool:
        ban = self._bans.get(node)
        return ban is not None and ban.until_s > now_s

    def _places_of(self, prefix: str) -> list[_Place]:
        return [self._places[url] for url in self._of_node.get(prefix, ())]

    def _shunned(self, now_s: float) -> set[str]:
        """Prefixes that are not dialled: those with a channel, those banned, and this node's own."""
        nodes = [self._me, *self._live, *(ban.node for ban in self.bans(now_s))]
        return {node[:PREFIX_CHARS] for node in nodes}

    def _learn(self, url: str, prefix: str, teller: str, now_s: float) -> None:
        if prefix == self._me[:PREFIX_CHARS]:
            return
        place = self._places.get(url)
        if place is None:
            of_node = self._places_of(prefix)
            if len(of_node) >= PLACES_PER_NODE_MAX and not self._drop(1, of_node):
                return
            if len(self._places) >= PLACES_MAX and not self._drop(_ROOM, self._places.values()):
                return
            yield_s = YIELD_S if self._dialled and prefix < self._me else 0.0
            place = self._places[url] = _Place(url, teller, None, now_s, now_s + yield_s)
            self._said[teller] += 1
            self._label(place, teller, prefix)
            return
        place.heard_s = now_s
        # A neighbour's word does not change what discovery or another neighbour said.
        if teller in (_DISCOVERY, place.teller) and not (place.static or place.proven or place.dialled_s is not None):
            self._label(place, teller, prefix)

    def _label(self, place: _Place, teller: str, prefix: str) -> None:
        """Note who spoke of a place and whose it is."""
        if place.prefix is not None and place.prefix != prefix:
            self._unlink(place.prefix, place.url)
        self._of_node.setdefault(prefix, set()).add(place.url)
        self._said[teller] += 1
        self._said[place.teller] -= 1
        place.teller, place.prefix = teller, prefix

    def _unlink(self, prefix: str, url: str) -> None:
        of_node = self._of_node[prefix]
        of_node.discard(url)
        if not of_node:
            del self._of_node[prefix]

    def _drop(self, count: int, places: Iterable[_Place]) -> bool:
        """Forget the least of these; False if all must stay."""
        least = heapq.nsmallest(count, filter(self._droppable, places), key=_Place.rank)
        for place in least:
            self._forget(place)
        return bool(least)

    def _droppable(self, place: _Place) -> bool:
        live = place.prefix is not None and self._live_prefixes[place.prefix] > 0
        return not (place.static or live or place.dialled_s is not None)

    def _expire(self, now_s: float) -> None:
        for place in list(self._places.values()):
            if now_s - place.heard_s > PLACE_KEEP_S and self._droppable(place):
                self._forget(place)
        for ban in [ban for ban in self._bans.values() if ban.until_s <= now_s]:
            del self._bans[ban.node]

    def _forget(self, place: _Place) -> None:
        del self._places[place.url]
        self._said[place.teller] -= 1
        if not self._said[place.teller]:
            del self._said[place.teller]
        if place.prefix is not None:
            self._unlink(place.prefix, place.url)
