"""Asking sources outside the site, over a share of the link: what no peer has and nobody else is bringing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from p2psync.limits import CHUNK_BYTES, CLAIM_LEASE_S, LAN_LANES, MIB, PART_BYTES_MAX, PART_BYTES_MIN
from p2psync.manifest import Chunk
from p2psync.swarm.far import Far
from p2psync.swarm.inventory import Inventory
from p2psync.swarm.messages import Job
from p2psync.swarm.parts import Part, Parts, part_bytes
from p2psync.swarm.requests import LATE_FLOOR_S, Ask
from p2psync.swarm.sources import Fault, Source
from p2psync.swarm.state import LATE_FACTOR, State

# A claim of another node is doubled only after this: a lease, which ends dead claims, is shorter.
RESCUE_FLOOR_S: Final = 4.0
# A node that is no fetcher and gets nothing from anywhere for this long looks for itself.
STARVED_S: Final = 10.0
# Sixteen connections are for links where one gets a share that is too small. A source that brings this much over
# four is not on such a link, and more connections only cost CPU.
THICK_BYTES_PER_S: Final = 32 * MIB
_JUDGE_S: Final = 0.25
# With more missing than this, parts have their full size whatever the others hold; more chunks are not looked at one
# by one.
_TAIL_BYTES: Final = 64 * MIB
_TAIL_CHUNKS: Final = 256


class Outside:
    """What this node brings from outside, and its claims on it.

    ``order`` is in which order it asks, ``on_lan`` whether a chunk can be had from a peer.
    """

    def __init__(self, state: State, order: Iterable[int], on_lan: Callable[[int], bool]) -> None:
        self._state = state
        self._on_lan = on_lan
        self._far = Far(state.missing, order)
        self._parts = Parts()
        self._thin: set[str] = set()
        self._seen: dict[str, int] = {}
        self._judged_s = float("-inf")
        self._brought: dict[str, int] = {}
        self._news_s = float("inf")  # when bytes last came, from whoever may be counted on
        self._near_s = float("inf")  # the same, from peers
        self.free = self._far.free
        self.free_all = self._far.free_all
        self.requeue = self._far.requeue
        self.reorder = self._far.reorder
        self.rank_anew = self._far.rank_anew

    def brings(self, index: int) -> bool:
        """Whether the chunk is coming in parts, or was."""
        return index in self._parts

    def works_on(self, index: int) -> bool:
        """Whether the chunk is coming in parts, and they were not put aside."""
        return self._parts.is_open(index)

    def expects(self, part: Part) -> bool:
        """Whether a range is still wanted: its chunk was not given up since it was asked for."""
        return self._parts.expects(part)

    # Asking.

    def next_ask(self, name: str, source: Source, now_s: float) -> Ask | None:
        """What a source outside is asked for now."""
        state = self._state
        if state.requests.outside >= self._quota(now_s) or not state.company.settled(now_s):
            return None
        part = self._parts.next(name, part_bytes(self._left_bytes(), state.connections), now_s)
        if part is None and (state.company.fetchers.get(state.company.me) or self._helps_itself(now_s)):
            ask = self._new_chunks(name, source, now_s) or self._left_to_trial(name, source, now_s)
            if ask is not None:
                return ask
        if part is None:
            own_s = PART_BYTES_MAX / source.rate if source.rate else LATE_FLOOR_S / 2
            part = self._parts.late(name, max(LATE_FLOOR_S, LATE_FACTOR * own_s), now_s)
        if part is not None:
            return state.ask(name, [state.table[part.index]], part, now_s)
        return self._double(name, source, now_s) or self._rescue(name, source, now_s)

    def _new_chunks(self, name: str, source: Source, now_s: float) -> Ask | None:
        """Claim what is next: whole chunks of a thick link, small ones together, else one chunk in parts."""
        whole = source.rate * LAN_LANES >= THICK_BYTES_PER_S and name not in self._thin
        batch = self._far.take(
            source,
            lambda index: self._is_free(index, now_s),
            self._state.company.own,
            # Small chunks share a request, yet not so many that one slow connection holds up the rest.
            budget=source.budget_bytes() if whole else part_bytes(self._left_bytes(), self._state.connections),
        )
        if not batch:
            return None
        self._claim(batch, now_s)
        if whole or len(batch) > 1:
            return self._state.ask(name, batch, None, now_s)
        return self._first(name, batch[0], now_s)

    def _left_to_trial(self, name: str, source: Source, now_s: float) -> Ask | None:
        """Claim a chunk that one peer on trial is asked for, and nobody else.

        Silent peers that say that they hold a chunk would otherwise take turns with it for ever.
        """
        state = self._state
        for peer, record in state.sources.items():
            for ask in () if record.outside or record.fit else state.requests.of(peer):
                for index in ask.left:
                    claimed = state.company.claims.taken(index, now_s) or index in state.company.claims.mine
                    alone = len(state.requests.askers(index)) == 1 and not claimed and not self._on_lan(index)
                    if alone and index in state.missing and source.has(index):
                        self._claim([state.missing[index]], now_s)
                        return self._first(name, state.missing[index], now_s)
        return None

    def _first(self, name: str, chunk: Chunk, now_s: float) -> Ask:
        """Begin a chunk: in parts, unless it is small."""
        part = None
        if chunk.length > PART_BYTES_MAX:
            self._parts.open(chunk, name)
            part = self._parts.next(name, part_bytes(self._left_bytes(), self._state.connections), now_s)
        return self._state.ask(name, [chunk], part, now_s)

    def _left_bytes(self) -> int:
        """What the site still lacks, as far as the size of the next request depends on it."""
        state = self._state
        if state.left_bytes >= _TAIL_BYTES or len(state.missing) >= _TAIL_CHUNKS:
            return min(state.left_bytes, _TAIL_BYTES)
        return sum(chunk.length for chunk in state.missing.values() if not self._on_lan(chunk.index))

    def _quota(self, now_s: float) -> int:
        """Requests that this node may have out to outside sources: its share, or what its last claims still need."""
        state, company = self._state, self._state.company
        allowed = company.fetchers.get(company.me, 0)
        if not allowed and self._helps_itself(now_s):
            # Nobody waits for what a reader brings, so it need not hold back.
            allowed = 1 if company.serves else state.connections
        if not allowed and company.claims.mine:
            allowed = max(1, state.connections // max(1, len(company.fetchers)))
        thick = not any(source.outside and name in self._thin for name, source in state.sources.items())
        return min(allowed, LAN_LANES) if thick else allowed

    def _helps_itself(self, now_s: float) -> bool:
        """Whether this node asks outside though it is no fetcher.

        Where nobody is known to reach a source each tries, or a seed that comes back is never noticed. And who waits in
        vain for what others promise must not wait for ever: they may be liars. A reader, for which nobody waits, is not
        patient at all once its peers bring nothing.
        """
        company = self._state.company
        if not company.serves and now_s - self._near_s > CLAIM_LEASE_S:
            return True
        return now_s - self._news_s > STARVED_S or not (company.outside or company.helps_outside())

    def _is_free(self, index: int, now_s: float) -> bool:
        state = self._state
        return not (state.requests.askers(index) or state.company.claims.taken(index, now_s) or self._on_lan(index))

    def _claim(self, batch: Sequence[Chunk], now_s: float, *, again: bool = False) -> None:
        for chunk in batch:
            self._state.company.claims.claim(chunk.index, now_s, again=again)
        self._state.voice.claim([chunk.index for chunk in batch], outside=True, again=again)

    def _double(self, name: str, source: Source, now_s: float) -> Ask | None:
        """The endgame: one more request for the latest of the late chunks, never a third."""
        claims = self._state.company.claims
        own_s = CHUNK_BYTES / source.rate if source.rate else 0.0
        index = self._state.requests.late(
            name,
            max(LATE_FLOOR_S, LATE_FACTOR * own_s),
            now_s,
            lambda index: source.has(index) and not self._on_lan(index) and not claims.taken(index, now_s),
        )
        return None if index is None else self._again(name, index, now_s)

    def _rescue(self, name: str, source: Source, now_s: float) -> Ask | None:
        """Ask for a chunk that another node has claimed and is far too slow with. One node does, by rank."""
        state = self._state
        own_s = CHUNK_BYTES / (source.rate * max(1, self._quota(now_s))) if source.rate else RESCUE_FLOOR_S
        patience_s = max(RESCUE_FLOOR_S, LATE_FACTOR * own_s)
        starved = self._helps_itself(now_s)
        for index, held in state.company.claims.others.items():
            age_s = now_s - held.since_s
            if age_s <= RESCUE_FLOOR_S or index not in state.missing or state.requests.askers(index):
                continue
            # What its holder says it has is believed up to a point: one that says it has all of it is late, too.
            length = state.table[index].length
            got = min(max(held.received, 1), length)
            late = max(length - got, PART_BYTES_MIN) * age_s / got > patience_s
            turn = starved or state.company.second(index, held.holder)
            if late and turn and source.has(index) and not self._on_lan(index):
                return self._again(name, index, now_s)
        return None

    def _again(self, name: str, index: int, now_s: float) -> Ask:
        chunk = self._state.missing[index]
        self._state.company.rescue(index)
        self._claim([chunk], now_s, again=True)
        return self._first(name, chunk, now_s)

    # Outcomes.

    def landed(self, ask: Ask, part: Part) -> bool:
        """A range is here. Returns whether with it its chunk is complete."""
        twins = self._parts.twins(part)
        self._state.requests.stop(other for other in self._state.requests.of(ask.source) if other.part in twins)
        return self._parts.landed(part)

    def arrived(self, index: int) -> None:
        """A chunk is here, from wherever."""
        self._parts.close(index)
        self._state.company.claims.mine.pop(index, None)

    def failed(self, part: Part, source: Source, fault: Fault) -> bool:
        """A range did not come. Returns whether its chunk is better given up: somebody else may bring it."""
        self._parts.failed(part)
        if part.index not in self._parts:
            return False
        if fault in (Fault.CORRUPT, Fault.WITHDRAWN) or source.banned:
            return True
        if fault is Fault.CANCELLED or source.fit or self._state.requests.askers(part.index):
            # One broken connection is an accident: what has landed is worth another try.
            return False
        return self._state.company.helps_outside() or any(s.outside and s.fit for s in self._state.sources.values())

    def drop(self, index: int) -> None:
        """Stop bringing a chunk; what had landed of it is lost."""
        self._parts.close(index)
        self._state.requests.drop_outside(index)

    def park(self, index: int) -> None:
        """Stop bringing a chunk for now; what has landed of it is kept for when its source is back."""
        self._state.requests.drop_outside(index)
        self._parts.park(index)

    def bound(self, name: str) -> list[int]:
        """The chunks that are coming in parts from one source."""
        return self._parts.bound(name)

    def young(self, held: Inventory | Sequence[int] | None = None) -> list[int]:
        """The chunks in parts, of ``held`` where that is given, of which less than half is here.

        Half is what an idle boast of a peer may cost: a liar that says it holds everything stops only these.
        """
        mine = [index for index in self._state.company.claims.mine if index in self._parts]
        if held is not None and mine:
            here = held if isinstance(held, Inventory) else set(held)
            mine = [index for index in mine if index in here]
        return [index for index in mine if self._parts.received(index) < self._parts.length(index) // 2]

    # Time.

    def look(self, now_s: float) -> None:
        """Look at what the sources bring: whether anything comes, and whether one outside needs many connections."""
        span_s = now_s - self._judged_s
        if span_s < _JUDGE_S:
            return
        self._judged_s = now_s
        self._look_for_news(now_s)
        for name, source in self._state.sources.items():
            if source.outside:
                brought = self._state.requests.brought(name)
                # Until it has been looked at twice nothing is known, and few connections will do.
                slow = brought - self._seen.get(name, brought - THICK_BYTES_PER_S) < THICK_BYTES_PER_S * min(
                    span_s, 1.0
                )
                (self._thin.add if slow else self._thin.discard)(name)
                self._seen[name] = brought

    def _look_for_news(self, now_s: float) -> None:
        """Note when bytes last came. Those of a source that trickles, or breaks off each chunk, are no news."""
        if self._news_s == float("inf"):
            self._news_s = self._near_s = now_s
        before, self._brought = self._brought, {}
        for name, source in self._state.sources.items():
            brought = self._brought[name] = self._state.requests.brought(name)
            if brought > before.get(name, 0) and source.fit:
                self._news_s = now_s
                self._near_s = self._near_s if source.outside else now_s

    def jobs(self, now_s: float) -> list[Job]:
        """This node's claims, and how much of each is here."""
        mine = self._state.company.claims.mine
        for index, claim in mine.items():
            claim.got(self.received(index), now_s)
        return [Job(index, claim.received, int((now_s - claim.since_s) * 1000)) for index, claim in mine.items()]

    def received(self, index: int) -> int:
        """Bytes of a chunk that have come; of a batch, what has come of the whole."""
        if index in self._parts:
            return self._parts.received(index)
        return max((ask.meter.received for ask in self._state.requests.askers(index)), default=0)
