"""Carry out what a session decides, over real sources into one unfinished version, until every chunk is on disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from p2psync.content import DIGEST_BYTES, Digest
from p2psync.errors import (
    DigestMismatchError,
    IntegrityError,
    NetworkError,
    P2PSyncError,
    ProtocolError,
    StalledError,
    UndecodableError,
    WithdrawnError,
    worst,
)
from p2psync.limits import BAN_S, JOURNAL_BYTES_MAX, JOURNAL_INTERVAL_S, PULL_BUFFERS, STALL_S
from p2psync.manifest import Chunk
from p2psync.node.counts import Counts
from p2psync.node.decoding import Decoder
from p2psync.node.landing import Landing
from p2psync.node.rates import Rates
from p2psync.node.sources import SourceSet
from p2psync.store import Incoming
from p2psync.swarm import Ask, Fault, Inventory, Message, Part, Session
from p2psync.transport import BufferPool, Source, SourceKind

if TYPE_CHECKING:
    from p2psync.node.neighbours import Neighbour
    from p2psync.node.site import Site

Emit = Callable[[dict[str, Any]], None]

TICK_S = 0.25
PROGRESS_S = 0.5


@dataclass(frozen=True, slots=True)
class Version:
    """What is fetched: the version's root, all of its chunks in manifest order, and which files are wanted.

    ``encoded`` counts the version's encoded chunks, ``decoder`` knows those that may be fetched instead of chunks, and
    ``instead`` says which, by the chunk's number.
    """

    root: Digest
    table: Sequence[Chunk]
    selection: bytes = bytes(8)
    encoded: int = 0
    decoder: Decoder | None = None
    instead: Mapping[int, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many numbers the version has: chunks, then encoded chunks."""
        return len(self.table) + self.encoded

    def numbers(self) -> list[Chunk]:
        """Everything that may be asked for, by number. Encoded chunks that nobody will ask for are blanks."""
        blank = Digest(bytes(DIGEST_BYTES))
        rows = self.decoder.rows() if self.decoder is not None else {}
        every = list(self.table)
        for number in range(len(self.table), self.count):
            row = rows.get(number)
            every.append(Chunk(number, row.digest, row.length, ()) if row else Chunk(number, blank, 0, ()))
        return every


class Fetch:
    """One fetch: some chunks, some sources, one ``Incoming``. Use ``run`` once.

    ``counts`` is what it has brought.
    """

    def __init__(  # noqa: PLR0913 - what a fetch is, named one by one
        self,
        incoming: Incoming,
        version: Version,
        sources: SourceSet,
        emit: Emit,
        *,
        site: Site | None = None,
        rates: Rates | None = None,
        patient: bool = False,
        start: int = 0,
        stall_s: float = STALL_S,
    ) -> None:
        self._incoming = incoming
        self._sources = sources
        self._emit = emit
        self._site = site
        self._rates = rates or Rates()
        self._patient = patient
        self._stall_s = stall_s
        self._decoder = version.decoder
        self._session = Session(
            version.numbers(),
            [version.instead.get(chunk.index, chunk.index) for chunk in incoming.missing],
            Inventory.from_bits(incoming.inventory(), version.count),
            root=version.root,
            me=site.node if site is not None else "",
            selection=version.selection,
            start=start,
            serves=site is None or site.serves,
            instead=version.instead,
        )
        self.root = version.root
        self.count = version.count
        self._pool = BufferPool(PULL_BUFFERS)
        self._landing = Landing(incoming, version.decoder)
        self._over = asyncio.Event()
        self._named: dict[str, Source] = {}
        self._tasks: dict[Ask, asyncio.Task[Fault | None]] = {}
        self._assembled: dict[int, bytearray] = {}
        self._errors: dict[str, P2PSyncError] = {}
        self._fatal: BaseException | None = None
        self._unsynced_bytes = 0
        self._last_byte_s = time.monotonic()
        self._due = False
        self._timer: asyncio.TimerHandle | None = None
        self.counts = Counts()

    @property
    def errors(self) -> dict[str, P2PSyncError]:
        """The latest fault of each source that had one, by its url."""
        return dict(self._errors)

    async def run(self, sources: Sequence[Source], inventories: dict[str, bytes | None]) -> None:
        """Fetch every missing chunk.

        Raises:
            StalledError: no proved byte from anywhere within the limit.
            P2PSyncError: no source that may still be asked holds what is missing, or this disk refused.
        """
        now_s = self._last_byte_s = time.monotonic()
        if self._site is not None:
            self._site.enter(self)
        for source in sources:
            bits = inventories[source.url]
            holds = None if bits is None else Inventory.from_bits(bits, self.count)
            self._join(source.url, source, holds, now_s)
        background = [asyncio.create_task(self._judge()), asyncio.create_task(self._journal())]
        self._dispatch()
        try:
            if not self._session.done:
                await self._over.wait()
            if self._fatal is not None:
                raise self._fatal
        finally:
            await self._stop(background)
        await asyncio.to_thread(self._incoming.sync)
        self._report()

    async def _stop(self, background: Sequence[asyncio.Task[None]]) -> None:
        self._over.set()
        tasks: list[asyncio.Task[Any]] = [*self._tasks.values(), *background]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._landing.close()
        if self._timer is not None:
            self._timer.cancel()
        self._session.finish()
        self._flush()
        if self._site is not None:
            self._site.exit(self)

    def _join(self, name: str, source: Source, holds: Inventory | None, now_s: float) -> None:
        self._named[name] = source
        self.counts.by_source.setdefault(source.url, 0)
        self._session.join(name, outside=source.kind is SourceKind.WAN, holds=holds, now_s=now_s)

    # What the site calls.

    def met(self, neighbour: Neighbour) -> None:
        """A neighbour is there: say what is here and hear the same. See ``Spread``."""
        if neighbour.url is not None:
            source = self._sources.add(neighbour.url, SourceKind.LAN, named=False)
            # It was named as a source, perhaps, before its channel was there; one record of a node is enough.
            self._session.leave(source.url, time.monotonic())
            self._named[neighbour.id] = source
            self.counts.by_source.setdefault(source.url, 0)
        self._session.meet(neighbour.id, time.monotonic())
        self._dispatch_soon()

    def parted(self, node: str) -> None:
        """See ``Spread``."""
        self._session.part(node, time.monotonic())
        self._dispatch_soon()

    def told(self, node: str, message: Message) -> None:
        """See ``Spread``."""
        self._session.hear(node, message, time.monotonic(), serves=node in self._named)
        self._dispatch_soon()

    def about(self, node: str) -> dict[str, Any] | None:
        """See ``Spread``."""
        record, peer = self._session.sources.get(node), self._session.company.peers.get(node)
        if peer is None:
            return None
        return {
            "digest": str(self.root),
            "chunks": self.count,
            "holds": len(record.holds) if record is not None and record.holds is not None else 0,
            "wants": peer.wants,
            "fetches": node in self._session.company.fetchers,
            "claims": sum(held.holder == node for held in self._session.company.claims.others.values()),
            "rate": int(record.rate) if record is not None else 0,
            "slow": record is not None and record.slow,
            "banned": record is not None and record.banned,
        }

    # Asking.

    def _dispatch_soon(self) -> None:
        """Look for work once all that has just happened is known."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Give every source what it is to be asked for now, and tell the neighbours what they should know."""
        self._due = False
        if self._over.is_set():
            return
        now_s = time.monotonic()
        try:
            for name in list(self._session.sources):
                while (ask := self._session.next_ask(name, now_s)) is not None:
                    self._start(ask)
            self._flush()
        except Exception as error:  # noqa: BLE001 - nobody else would see it, and the pull would wait for ever
            self._fail(error)

    def _start(self, ask: Ask) -> None:
        task = asyncio.create_task(self._run(ask), name=f"ask {self._named[ask.source].url}")
        self._tasks[ask] = task
        # Not at the end of the coroutine: one that is cancelled before its first step never gets there.
        task.add_done_callback(lambda done: self._ended(ask, Fault.CANCELLED if done.cancelled() else done.result()))

    def _ended(self, ask: Ask, fault: Fault | None) -> None:
        """Whatever happened, what did not arrive goes back to the session."""
        del self._tasks[ask]
        self._rates.tally.asked(fault)
        self.counts.took(SourceKind.WAN if ask.outside else SourceKind.LAN, ask.meter.received)
        self._session.ended(ask, fault, time.monotonic())
        if ask.part is not None and not self._session.brings(ask.part.index):
            self._assembled.pop(ask.part.index, None)
        self._ban_liar(ask)
        self._dispatch_soon()

    def _flush(self) -> None:
        for ask in self._session.take_stops():
            task = self._tasks.get(ask)
            if task is not None:
                task.cancel()
        outbox = self._session.take_outbox()
        if self._site is None:
            return
        takers = [node for node, peer in self._session.company.peers.items() if peer.wants]
        for node, message in outbox:
            self._site.send(takers if node is None else (node,), message)
        at_s = self._session.tell_at_s
        if at_s is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, at_s - time.monotonic()), self._tell)

    def _tell(self) -> None:
        self._timer = None
        self._tick()
        self._flush()

    async def _run(self, ask: Ask) -> Fault | None:
        """One request, and why it did not give all of its chunks, if so."""
        source = self._named[ask.source]
        try:
            await self._rates.before(source.kind, ask)
            if ask.part is not None:
                return None if await self._bring_part(source, ask, ask.part) else Fault.CANCELLED
            async with aclosing(source.chunks(ask.chunks, self._pool, ask.meter)) as arrivals:
                async for chunk, buffer in arrivals:
                    try:
                        await self._accept(source, ask, chunk, buffer.view(chunk.length))
                    finally:
                        buffer.release()
            return None
        except DigestMismatchError as error:
            return self._note(source, error, Fault.CORRUPT)
        except WithdrawnError as error:
            return self._note(source, error, Fault.WITHDRAWN)
        except (ProtocolError, IntegrityError) as error:
            return self._note(source, error, Fault.NONSENSE)
        except NetworkError as error:
            return self._note(source, error, Fault.BROKEN)
        except Exception as error:  # noqa: BLE001 - this disk's fault, or a bug: it ends the pull, not one request of it
            self._fail(error)
            return Fault.CANCELLED

    async def _bring_part(self, source: Source, ask: Ask, part: Part) -> bool:
        """One range of a chunk; when it was the last one, prove the chunk and write it. False if it came too late."""
        chunk = ask.chunks[0]
        buffer = await source.part(chunk, part.start, part.length, self._pool, ask.meter)
        try:
            # The chunk may have been given up and begun again from another source: these bytes are not for that.
            if not self._session.expects(ask):
                return False
            whole = self._assembled.setdefault(part.index, bytearray(chunk.length))
            whole[part.start : part.start + part.length] = buffer.view(part.length)
        finally:
            buffer.release()
        if self._session.landed(ask, time.monotonic()):
            with memoryview(whole) as view:
                await self._accept(source, ask, chunk, view)
        return True

    async def _accept(self, source: Source, ask: Ask, chunk: Chunk, view: memoryview) -> None:
        """Have one chunk proved and written, and tell the session. When it does not decode, ask for the chunk itself.

        Raises:
            DigestMismatchError: it does not prove. Nothing was written.
        """
        try:
            landed = await self._landing.take(source.url, chunk, view)
        except UndecodableError as error:
            self._refuse_form(chunk, str(error))
            return
        now_s = time.monotonic()
        self._report_chunk(source, ask, chunk, landed.length, now_s)
        if landed.made is not None:
            self._session.made((landed.made,), now_s)
            if not landed.kept:
                self._session.withdrew((chunk.index,))

    def _refuse_form(self, chunk: Chunk, reason: str) -> None:
        raw = self._decoder.chunk_of(chunk.index) if self._decoder is not None else None
        if raw is None:
            return
        self._rates.tally.forms_refused += 1
        self._emit({"event": "form", "chunk": str(raw.digest), "state": "refused", "reason": reason})
        self._session.swap(chunk.index, raw.index)
        self._dispatch_soon()

    def _report_chunk(self, source: Source, ask: Ask, chunk: Chunk, length: int, now_s: float) -> None:
        """Count a chunk of ``length`` bytes that is on disk, once, and tell the session, each time."""
        if self._session.misses(chunk.index):
            self._unsynced_bytes += length
            self._last_byte_s = now_s
            patch = self._decoder is not None and self._decoder.is_patch(chunk.index)
            self.counts.useful(source.url, source.kind, chunk.length, length, patch=patch)
        self._assembled.pop(chunk.index, None)
        self._rates.tally.chunks_proved += 1
        self._session.arrived(ask, chunk, now_s)
        if self._session.done:
            self._over.set()
        self._dispatch_soon()

    # Time.

    async def _judge(self) -> None:
        """Look at silence a few times a second, and end the pull when nobody can help."""
        told_s = 0.0
        while True:
            await asyncio.sleep(TICK_S)
            now_s = time.monotonic()
            self._tick()
            if now_s - told_s >= PROGRESS_S:
                told_s = now_s
                self._report()
            hopeless = self._without_forms(self._session.hopeless())
            if hopeless and len(hopeless) == self._session.missing_count and not self._patient:
                self._fail(self._verdict(hopeless))
            elif now_s - self._last_byte_s > self._stall_s and not self._patient:
                self._fail(self._stalled())
            self._dispatch()

    def _without_forms(self, hopeless: list[Chunk]) -> list[Chunk]:
        """Ask for chunks themselves where nobody has the form that was chosen. Returns what is beyond that help."""
        left = []
        for chunk in hopeless:
            raw = self._decoder.chunk_of(chunk.index) if self._decoder is not None else None
            if raw is None or not self._session.swap(chunk.index, raw.index):
                left.append(chunk)
        return left if len(left) == len(hopeless) else []

    def _tick(self) -> None:
        now_s = time.monotonic()
        self._rates.sample(now_s)
        self._session.company.lan_rate = self._rates.lan_rate
        for name in self._session.tick(now_s):
            self._emit({"event": "source", "url": self._named[name].url, "state": "slow", "reason": "silent"})

    async def _journal(self) -> None:
        while True:
            waited_s = 0.0
            while self._unsynced_bytes < JOURNAL_BYTES_MAX and waited_s < JOURNAL_INTERVAL_S:
                await asyncio.sleep(0.02)
                waited_s += 0.02
            if self._unsynced_bytes:
                self._unsynced_bytes = 0
                try:
                    await asyncio.to_thread(self._incoming.sync)
                except P2PSyncError as error:
                    self._fail(error)
                    return

    # Verdicts.

    def _verdict(self, hopeless: list[Chunk]) -> P2PSyncError:
        count, size = len(hopeless), sum(c.length for c in hopeless)
        if not self._errors:
            return WithdrawnError(f"{count} chunks ({size} bytes) are missing and no source has them")
        error = worst(list(self._errors.values()))
        return type(error)(f"{error.message}; {count} chunks ({size} bytes) are missing", hint=error.hint)

    def _stalled(self) -> P2PSyncError:
        missing = self._session.missing
        size = sum(c.length for c in missing)
        why = "; ".join(sorted({str(e) for e in self._errors.values()}))[:400]
        return StalledError(
            f"no proved byte for {self._stall_s:.0f} s; {len(missing)} chunks ({size} bytes) are missing"
            + (f": {why}" if why else ""),
            hint="run the same pull again: what arrived is kept",
        )

    def _note(self, source: Source, error: P2PSyncError, fault: Fault) -> Fault:
        known = self._errors.get(source.url)
        self._errors[source.url] = error if known is None else worst([error, known])
        if known is None or type(known) is not type(error):
            self._emit({"event": "source", "url": source.url, "state": "dropped", "reason": str(error)})
        return fault

    def _ban_liar(self, ask: Ask) -> None:
        """A neighbour whose bytes were wrong twice is a liar for every pull, not for this one alone."""
        met = ask.source in self._session.company.peers
        if self._site is not None and met and self._session.is_banned(ask.source):
            self._site.ban(ask.source, str(self._errors.get(self._named[ask.source].url, "wrong bytes")), BAN_S)

    def _fail(self, error: BaseException) -> None:
        if self._fatal is None:
            self._fatal = error
        self._over.set()

    def _report(self) -> None:
        reused = self._incoming.reused_bytes + self._incoming.resumed_bytes
        counts = self.counts
        self._emit(
            {
                "event": "progress",
                "done": reused + counts.lan + counts.wan + counts.patched,
                "total": self._incoming.total_bytes,
                "reused": reused,
                "lan": counts.lan,
                "wan": counts.wan,
                "patched": counts.patched,
            }
        )
