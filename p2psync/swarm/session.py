"""What one node does about one version: who is asked for which chunk, and what its peers are told. No I/O, no clock.

Theory of operation: the caller reports what happened (a source joined, a peer spoke, a chunk arrived, a request
ended) with the time; ``next_ask`` returns what a source is asked for now, ``take_outbox`` what to tell whom, and
``take_stops`` which requests to stop. The same calls in the same order give the same decisions, in a node as in the
simulator.

Six rules decide:

1. A chunk that a fit source on the LAN holds is never asked outside: the outside link is the thin one.
2. A chunk that another node is bringing from outside is waited for. A claim is sticky, told to all and acted on at
   once; only the nodes that ``fetchers`` names claim. All connections of a fetcher work on its oldest chunk.
3. A chunk of which the LAN has one copy is taken by one node at a time where that copy's holder is slow to give:
   the others get it from the first, at the speed of two ports.
4. Where the bytes of a chunk can be had in another form, that form is wanted in its place; a peer that holds the chunk
   itself, and not that form, ends this.
5. A chunk is asked from one source at a time. When a source has nothing else to do, it may ask once more for a chunk
   whose first request takes far longer than its own would; the loser is told to stop.
6. Blame is exact (see ``sources``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from p2psync.content import Digest
from p2psync.limits import RECORDS_KEPT_MAX, WAN_LANES
from p2psync.manifest import Chunk
from p2psync.swarm.company import Company, News
from p2psync.swarm.inventory import Inventory
from p2psync.swarm.lan import Lan
from p2psync.swarm.messages import Hello, Leave, Message, topic_of
from p2psync.swarm.outside import Outside
from p2psync.swarm.ranking import Keys, rank, salt_of
from p2psync.swarm.requests import Ask
from p2psync.swarm.sources import Fault, Source
from p2psync.swarm.state import State
from p2psync.swarm.voice import Voice

# A source that failed this often in a row is not counted as a way outside, until it delivers.
_UNREACHABLE: Final = 4


class Session:
    """The decisions of one node about one version. See the module's text for the rules."""

    def __init__(  # noqa: PLR0913 - what a pull is, named one by one
        self,
        table: Sequence[Chunk],
        wanted: Iterable[int],
        have: Inventory,
        *,
        root: Digest,
        me: str = "",
        selection: bytes = bytes(8),
        start: int = 0,
        connections: int = WAN_LANES,
        serves: bool = True,
        instead: Mapping[int, int] | None = None,
    ) -> None:
        """Begin.

        Args:
            table: Every chunk of the version, in manifest order, and after them its encoded chunks.
            wanted: The chunks that are missing here and wanted.
            have: What is here.
            root: The version.
            me: This node's id, empty where it has no peers.
            selection: The same for nodes that want the same chunks, 8 bytes.
            start: Rotates the order of a node that is alone.
            connections: Requests to outside sources of the whole site together.
            serves: Whether peers can ask this node for what it holds.
            instead: Which wanted number gives the bytes of a chunk that is not wanted itself, by that chunk's number.
        """
        missing = {index: table[index] for index in wanted if index not in have}
        topic = topic_of(root)
        keys = Keys(table)
        self._have = have
        self._lacks = Inventory(len(table), missing)
        self._root = root
        self._selection = selection
        self._start = start
        self._keys = keys
        self._salt = salt_of(me, root)
        self.company = Company(me, root, keys, selection, serves=serves)
        self._voice = Voice(topic, self.company)
        self._state = State(table, missing, self.company, self._voice, connections)
        self.sources = self._state.sources
        self._requests = self._state.requests
        self._departed: dict[str, Source] = {}
        self._ranked: list[int] = []
        self._instead = dict(instead or {})
        self._left_forms: dict[int, int] = {}
        self._lan = Lan(self._state)
        self._outside = Outside(self._state, self._order(), self._lan.holds)

    # What is known.

    @property
    def connections(self) -> int:
        """Requests to outside sources of the whole site together. May be changed at any time."""
        return self._state.connections

    @connections.setter
    def connections(self, connections: int) -> None:
        self._state.connections = connections

    @property
    def done(self) -> bool:
        """Whether every wanted chunk has arrived."""
        return not self._state.missing

    @property
    def missing(self) -> list[Chunk]:
        """The wanted chunks that have not arrived, in manifest order."""
        return [self._state.table[index] for index in self._lacks]

    @property
    def missing_count(self) -> int:
        """How many wanted chunks have not arrived."""
        return len(self._state.missing)

    def misses(self, index: int) -> bool:
        """Whether the chunk is wanted and has not arrived."""
        return index in self._state.missing

    def brings(self, index: int) -> bool:
        """Whether the chunk is coming in parts, or its beginning is kept: what has landed of it must be."""
        return self._outside.brings(index)

    def received(self, index: int) -> int:
        """Bytes of a chunk that have come from outside."""
        return self._outside.received(index)

    def expects(self, ask: Ask) -> bool:
        """Whether what ``ask`` brings is still wanted. A range of a chunk that was given up must not be kept."""
        if ask.part is not None:
            return self._outside.expects(ask.part)
        return any(index in self._state.missing for index in ask.left)

    def is_banned(self, source: str) -> bool:
        """Whether ``source`` will not be asked again."""
        record = self.sources.get(source)
        return record is None or record.banned

    def hopeless(self) -> list[Chunk]:
        """The missing chunks that no source which may still be asked holds and no peer may bring from outside."""
        if self.company.helps_outside():
            return []
        alive = [s for s in self.sources.values() if not s.banned]
        if any(s.holds is None and not s.denied for s in alive):
            return []
        unheld = self._lacks.minus(*(s.holds for s in alive if s.holds is not None and not s.denied))
        doubtful = [s for s in alive if s.denied]
        return [self._state.table[i] for i in unheld if not any(s.has(i) for s in doubtful)]

    # Sources.

    def join(self, name: str, *, outside: bool, holds: Inventory | None, now_s: float) -> None:
        """A source is ready; ``holds`` None is everything.

        One that joins again brings a new inventory; what it did before still counts.
        """
        record = self.sources.get(name)
        if record is None:
            record = self.sources[name] = Source(outside, holds)
            if name in self._departed:
                record.remember(self._departed.pop(name))
            if not outside:
                self._lan.join(name, record, self._order())
        elif outside:
            record.holds = holds
        elif holds is None or record.holds is None:
            self._lan.leave(name, record)
            record.holds = holds
            self._lan.join(name, record, self._order())
        else:
            self._lan.renew(name, record, holds)
        if outside:
            self.company.reach(now_s)
            self._voice.hurry()
            self._choose(now_s)
        elif holds is not None:
            self._take_as_held(index for index in self._instead if index in holds)

    def leave(self, name: str, now_s: float) -> None:
        """A source is gone; what it owed is free again."""
        record = self.sources.get(name)
        if record is None:
            return
        for ask in self._requests.of(name):
            self._requests.abandon(ask)
            self._over(ask, record, Fault.CANCELLED, now_s)
        self._unbind(name)
        if not record.outside:
            self._lan.leave(name, record)
        del self.sources[name]
        self._requests.forget(name)
        if record.denied or record.nonsense or record.banned:
            self._departed[name] = record
            if len(self._departed) > RECORDS_KEPT_MAX:
                del self._departed[next(iter(self._departed))]
        self.company.outside = any(s.outside for s in self.sources.values())
        self._return_to_forms()
        self._outside.free_all()

    def _order(self) -> list[int]:
        """In which order this node asks.

        Alone from ``start`` on, so that disks and packs are read in order; in company by rank, so that nodes spread
        over the chunks.
        """
        missing = self._state.missing
        if self.company.is_empty:
            order = sorted(missing)
            cut = self._start % len(order) if order else 0
            return order[cut:] + order[:cut]
        if not self._ranked:
            keys, salt = self._keys, self._salt
            self._ranked = sorted(missing, key=lambda index: (rank(salt, keys[index]), -index), reverse=True)
        return self._ranked

    # Peers.

    def meet(self, node: str, now_s: float) -> None:
        """A channel to another node of the site is open: tell it what is here, and hear the same."""
        alone = self.company.is_empty
        self.company.meet(node, now_s)
        if alone:
            self._outside.reorder(self._order())
        self._greet(node, now_s, answer=False)

    def part(self, node: str, now_s: float) -> None:
        """The channel to a node is closed: what it claimed is free at once."""
        self._freed(self.company.part(node))
        self.leave(node, now_s)
        self._choose(now_s)

    def hear(self, node: str, message: Message, now_s: float, *, serves: bool = True) -> None:
        """A peer spoke. ``serves`` is whether it can be asked for what it holds."""
        news = self.company.hear(node, message, now_s)
        self._freed(news.freed)
        for index in news.beaten:
            self._outside.drop(index)
            self._requeue([index])
        if serves or node in self.sources:
            self._holdings(node, news, now_s)
        elif news.fresh or news.have is not None:
            # Claims on these are over, and yet they cannot be had there.
            self._outside.free_all()
        if news.answer:
            self._greet(node, now_s, answer=True)
        if isinstance(message, Hello | Leave):
            self._choose(now_s)

    def _holdings(self, node: str, news: News, now_s: float) -> None:
        if news.have is not None:
            self.join(node, outside=False, holds=news.have.copy(), now_s=now_s)
            self._drop_held(self._outside.young(news.have))
        record = self.sources.get(node)
        if record is None or record.holds is None:
            return
        if news.fresh:
            self._lan.offer(node, record.holds.add(news.fresh))
            self._take_as_held(index for index in news.fresh if index in self._instead)
            self._drop_held(self._outside.young(news.fresh))
        if news.gone:
            self._lan.withdraw(record.holds.discard(news.gone))
            self._outside.free(news.gone)

    def _take_as_held(self, indexes: Iterable[int]) -> None:
        """A peer holds these chunks themselves. The LAN is nearer: where it has no other form of one, take it so."""
        for index in list(indexes):
            other = self._instead[index]
            if not (self._requests.askers(other) or self._outside.brings(other) or self._lan.holds(other)):
                self._left_forms[index] = other
                self.swap(other, index)

    def _return_to_forms(self) -> None:
        """A peer that had chunks themselves is gone or banned: what nobody near has comes in the smaller form again."""
        for index, other in list(self._left_forms.items()):
            if index not in self._state.missing:
                del self._left_forms[index]
            elif not (self._requests.askers(index) or self._outside.brings(index) or self._lan.holds(index)):
                del self._left_forms[index]
                self.swap(index, other)
                self._instead[index] = other

    def _drop_held(self, indexes: Iterable[int]) -> None:
        """A peer has brought what this node was bringing from outside too: the LAN is nearer."""
        for index in indexes:
            if self._lan.holds(index):
                self._outside.drop(index)
                if self.company.claims.mine.pop(index, None) is not None:
                    self._voice.release([index])
                self._requeue([index])

    def _greet(self, node: str, now_s: float, *, answer: bool) -> None:
        company = self.company
        have = self._have.copy() if company.serves else Inventory(self._have.count)
        jobs = (*self._outside.jobs(now_s), *self._lan.jobs(now_s)) if company.serves else ()
        wants = not (self.done or self._voice.left)
        self._voice.greet(node, Hello(self._root, wants, company.offers, answer, self._selection, have, jobs))

    def swap(self, old: int, new: int) -> bool:
        """Want one number in the place of another that gives the same bytes. False where that one is not missing."""
        state = self._state
        if not state.has(old):
            return False
        self._requests.stop(self._requests.askers(old))
        self._outside.drop(old)
        self._back([old])
        self._lacks.discard((old,))
        self._instead.pop(new, None)
        if new not in self._have:
            state.want(new)
            self._lacks.add((new,))
            self._ranked += [new] if self._ranked else []
            self._requeue([new])
        return True

    def made(self, indexes: Sequence[int], now_s: float) -> None:
        """Chunks that were not asked for are here: they were made of what was."""
        self._voice.arrived(self._have.add(indexes), now_s)

    def withdrew(self, indexes: Sequence[int]) -> None:
        """Chunks that were here are not any more."""
        self._voice.lost(self._have.discard(indexes))

    # Asking.

    def next_ask(self, name: str, now_s: float) -> Ask | None:
        """What ``name`` is asked for now, None when there is nothing for it or enough is under way."""
        record = self.sources.get(name)
        if record is None or record.banned or now_s < record.rest_until_s or not self._state.missing:
            return None
        return (self._outside if record.outside else self._lan).next_ask(name, record, now_s)

    def rest_s(self, name: str, now_s: float) -> float:
        """Seconds until ``name`` may be asked again after a failure; 0 when it may now."""
        record = self.sources.get(name)
        return max(0.0, record.rest_until_s - now_s) if record else 0.0

    # Outcomes.

    def landed(self, ask: Ask, now_s: float) -> bool:
        """The range of a part is here. Returns whether with it the chunk is complete and is to be proved."""
        record = self.sources.get(ask.source)
        if ask.part is None or record is None:
            return False
        record.measure(ask.part.length, ask.asked_s, now_s)
        if record.failures:
            # Not proved yet, but the way there is open again: the others may count on it.
            record.failures = 0
            self._voice.hurry()
        return self._outside.landed(ask, ask.part)

    def arrived(self, ask: Ask, chunk: Chunk, now_s: float) -> None:
        """A chunk proved and is on disk."""
        record = self.sources.get(ask.source)
        if record is not None:
            record.delivered()
        if not ask.outside:
            self._lan.took(now_s - ask.news_s)
        ask.news_s = now_s
        index = chunk.index
        self._requests.arrived(ask, index)
        self._outside.arrived(index)
        self._lan.unclaim(index)
        if self._state.has(index):
            self._lacks.discard((index,))
            self._voice.arrived(self._have.add((index,)), now_s)

    def ended(self, ask: Ask, fault: Fault | None, now_s: float) -> None:
        """A request is over; ``fault`` None when it brought everything. Call it once for each ask.

        For CORRUPT and WITHDRAWN the first chunk that did not arrive is meant.
        """
        record = self.sources.get(ask.source)
        if self._requests.close(ask) and record is not None:
            self._over(ask, record, fault, now_s)

    def _over(self, ask: Ask, record: Source, fault: Fault | None, now_s: float) -> None:
        record.requests -= 1
        if fault is None and ask.part is None:
            # Over the whole request: chunks of one that share a read would seem to have come in no time.
            record.measure(sum(chunk.length for chunk in ask.chunks), ask.asked_s, now_s)
        if fault is not None:
            concerned = next(iter(ask.left), None)
            gone = record.failed(fault, concerned, now_s)
            if not record.outside:
                self._lan.withdraw(gone)
            if ask.part is None:
                self._broke([i for i in ask.left if i in self._state.missing and not self._requests.askers(i)])
            elif self._outside.failed(ask.part, record, fault):
                self._give_up(ask.part.index, keep=fault is Fault.BROKEN and not record.banned)
        if record.banned:
            self._unbind(ask.source)
            self._return_to_forms()
        if fault is Fault.CORRUPT and not record.outside:
            # What else it is sending is as likely wrong: two bad chunks are all that anybody may cost.
            self._requests.stop(self._requests.of(ask.source))
        if record.banned or fault not in (None, Fault.CANCELLED):
            self._outside.free_all()

    def _broke(self, indexes: Sequence[int]) -> None:
        """Whole chunks did not come. One that this node has begun to bring in parts, too, stays its own."""
        begun = [index for index in indexes if self._outside.works_on(index)]
        for index in begun:
            self._lan.unclaim(index)
        self._lan.requeue(begun)
        self._back([index for index in indexes if index not in begun])

    def _unbind(self, name: str) -> None:
        """A source brings nothing more: what it had begun is free for others."""
        for index in self._outside.bound(name):
            self._give_up(index)

    def _give_up(self, index: int, *, keep: bool = False) -> None:
        (self._outside.park if keep else self._outside.drop)(index)
        self._back([index])

    def _back(self, indexes: Sequence[int]) -> None:
        """Chunks that did not come are free again, here and for everybody."""
        mine = self.company.claims.mine
        given = [i for i in indexes if (mine.pop(i, None) is not None) | self._lan.unclaim(i)]
        self._voice.release(given)
        self._requeue(indexes)

    def _requeue(self, indexes: Sequence[int]) -> None:
        wanted = [index for index in indexes if index in self._state.missing]
        self._outside.requeue(sorted(wanted, reverse=True))
        self._outside.free(wanted)
        self._lan.requeue(wanted)

    def _freed(self, indexes: Sequence[int]) -> None:
        if indexes:
            self._outside.free(indexes)
            self._lan.free(indexes)

    # Time.

    def tick(self, now_s: float) -> list[str]:
        """Judge silence, end leases, tell what is due; call it a few times a second. Returns who has become slow."""
        slow = [name for name, s in self.sources.items() if s.judge(self._requests.brought(name), now_s)]
        if any(not self.sources[name].outside for name in slow):
            self._outside.free_all()
        self._outside.look(now_s)
        far, near = self.company.expire(now_s)
        self._freed(far + near)
        self._choose(now_s)
        self._voice.tell(now_s)
        if self._voice.beat_due(now_s):
            self._measure()
            self._voice.beat([*self._outside.jobs(now_s), *self._lan.jobs(now_s)], now_s)
        return slow

    def _measure(self) -> None:
        outside = [s for s in self.sources.values() if s.outside]
        self.company.outside_rate = max((s.rate for s in outside), default=0.0)
        self.company.outside = any(not s.banned and s.failures < _UNREACHABLE for s in outside)

    def _choose(self, now_s: float) -> None:
        if not self.company.choose(self._state.connections, now_s):
            return
        self._outside.rank_anew()
        if self.company.me not in self.company.fetchers:
            # No longer a fetcher: give back young claims, finish the rest.
            for index in self._outside.young():
                self._give_up(index)

    # What the caller carries out.

    def finish(self) -> None:
        """Everything wanted is here, or the pull is over: say so, and claim nothing any more."""
        self._voice.leave()

    def take_outbox(self) -> list[tuple[str | None, Message]]:
        """Messages to send, in order: to one node, or (None) to every peer that takes part."""
        return self._voice.take()

    def take_stops(self) -> list[Ask]:
        """Requests to stop. Each still ends by a call of ``ended``."""
        return self._requests.take_stops()

    @property
    def tell_at_s(self) -> float | None:
        """When a ``tick`` is due for news that wait, None when none do."""
        return self._voice.due_s
