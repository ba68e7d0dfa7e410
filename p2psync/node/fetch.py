"""Run the picker over real sources into one unfinished version, until every chunk is proved and on disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from p2psync.content import Digest
from p2psync.errors import (
    DigestMismatchError,
    IntegrityError,
    NetworkError,
    P2PSyncError,
    ProtocolError,
    StalledError,
    WithdrawnError,
    worst,
)
from p2psync.limits import (
    JOURNAL_BYTES_MAX,
    JOURNAL_INTERVAL_S,
    LAN_LANES,
    MIB,
    PULL_BUFFERS,
    STALL_S,
    WAN_LANES,
)
from p2psync.manifest import Chunk
from p2psync.store import Incoming
from p2psync.swarm import Fault, Picker
from p2psync.transport import Buffer, BufferPool, Source, SourceKind

Emit = Callable[[dict[str, Any]], None]

# Proving and writing a chunk inside the event loop takes 0.4 ms and half the CPU of handing it to a thread (docs/adr).
# A disk that cannot keep up makes a write wait, though; then writes go to a thread until it has recovered.
WRITE_SLOW_S = 0.05
WRITE_SLOW_FOR_S = 1.0
TICK_S = 0.25
# Sixteen connections are for links where one gets a share that is too small. A source that brings this much over
# four is not on such a link, and more connections only cost CPU.
THICK_BYTES_PER_S = 32 * MIB
PROGRESS_S = 0.5


@dataclass(frozen=True, slots=True)
class _Job:
    """What one lane is doing."""

    task: asyncio.Task[None]
    wanted: frozenset[int]


class Fetch:
    """One fetch: some chunks, some sources, one ``Incoming``. Use ``run`` once.

    ``lan`` and ``wan`` count chunk bytes that proved, by the kind of their source; ``by_source`` by its url.
    """

    def __init__(
        self, incoming: Incoming, emit: Emit, *, patient: bool = False, start: int = 0, stall_s: float = STALL_S
    ) -> None:
        self._incoming = incoming
        self._emit = emit
        self._patient = patient
        self._start = start
        self._stall_s = stall_s
        self._picker = Picker(incoming.missing)
        self._pool = BufferPool(PULL_BUFFERS)
        self._writers = ThreadPoolExecutor(1, thread_name_prefix="p2psync-write")
        self._wake = asyncio.Event()
        self._jobs: dict[tuple[str, int], _Job] = {}
        self._errors: dict[str, P2PSyncError] = {}
        self._fatal: BaseException | None = None
        self._unsynced_bytes = 0
        self._last_byte_s = time.monotonic()
        self._slow_until_s = 0.0
        self._thin: set[str] = set()
        self.lan = 0
        self.wan = 0
        self.by_source: dict[str, int] = {}

    @property
    def errors(self) -> dict[str, P2PSyncError]:
        """The latest fault of each source that had one."""
        return dict(self._errors)

    async def run(self, sources: Sequence[Source], inventories: dict[str, bytes | None]) -> None:
        """Fetch every missing chunk.

        Raises:
            StalledError: no proved byte from anywhere within the limit.
            P2PSyncError: no source that may still be asked holds what is missing, or this disk refused.
        """
        now_s = self._last_byte_s = time.monotonic()
        for place, source in enumerate(sources):
            outside = source.kind is SourceKind.WAN
            self.by_source.setdefault(source.url, 0)
            self._picker.join(
                source.url, outside=outside, holds=inventories[source.url], now_s=now_s, start=self._start * (place + 1)
            )
        lanes = [
            asyncio.create_task(self._lane(source, number), name=f"lane {number} of {source.url}")
            for source in sources
            for number in range(WAN_LANES if source.kind is SourceKind.WAN else LAN_LANES)
        ]
        background = [asyncio.create_task(self._judge()), asyncio.create_task(self._journal())]
        try:
            while not self._picker.done and self._fatal is None:
                self._wake.clear()
                await self._wake.wait()
            if self._fatal is not None:
                raise self._fatal
        finally:
            for task in (*lanes, *background):
                task.cancel()
            await asyncio.gather(*lanes, *background, return_exceptions=True)
            self._writers.shutdown(wait=True)
        await asyncio.to_thread(self._incoming.sync)
        self._report()

    async def _lane(self, source: Source, number: int) -> None:
        while not self._picker.done and not self._picker.is_banned(source.url):
            if number >= LAN_LANES and source.url not in self._thin:
                await self._rest(0.0)
                continue
            batch = self._picker.next_batch(source.url, time.monotonic())
            if not batch:
                await self._rest(self._picker.rest_s(source.url, time.monotonic()))
                continue
            task = asyncio.create_task(self._batch(source, batch))
            self._jobs[source.url, number] = _Job(task, frozenset(c.index for c in batch))
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                task.cancel()
                await asyncio.wait([task])
                raise
            finally:
                del self._jobs[source.url, number]

    async def _rest(self, at_least_s: float) -> None:
        """Wait for news, or for the next tick: whatever frees work sets the event."""
        await asyncio.sleep(at_least_s)
        waiter = asyncio.create_task(self._wake.wait())
        try:
            await asyncio.wait([waiter], timeout=TICK_S)
        finally:
            waiter.cancel()

    async def _batch(self, source: Source, batch: list[Chunk]) -> None:
        """One request of a lane. Whatever happens, what did not arrive goes back to the picker."""
        left = {c.index: c for c in batch}
        fault = Fault.CANCELLED
        try:
            async with aclosing(source.chunks(batch, self._pool)) as arrivals:
                async for chunk, buffer in arrivals:
                    try:
                        await self._accept(source, chunk, buffer)
                    finally:
                        buffer.release()
                    left.pop(chunk.index, None)
        except DigestMismatchError as error:
            fault = Fault.CORRUPT
            self._note(source, error)
        except WithdrawnError as error:
            fault = Fault.WITHDRAWN
            self._note(source, error)
        except (ProtocolError, IntegrityError) as error:
            fault = Fault.NONSENSE
            self._note(source, error)
        except NetworkError as error:
            fault = Fault.BROKEN
            self._note(source, error)
        except P2PSyncError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - a bug must end the pull, not silently one lane of it
            self._fail(error)
        finally:
            if left:
                self._picker.failed(source.url, list(left.values()), fault, time.monotonic())
                self._wake.set()

    async def _accept(self, source: Source, chunk: Chunk, buffer: Buffer) -> None:
        """Prove one chunk and write it to every place where it stands.

        Raises:
            DigestMismatchError: it does not prove. Nothing was written.
        """
        view = buffer.view(chunk.length)
        began_s = time.monotonic()
        if self._incoming.holds(chunk.index):
            # Another request brought it, and may have been stopped between its write and its report.
            self._prove(source, chunk, view)
        elif began_s >= self._slow_until_s:
            self._prove_and_write(source, chunk, view)
        else:
            await self._in_thread(self._prove_and_write, source, chunk, view)
        now_s = time.monotonic()
        if now_s - began_s > WRITE_SLOW_S:
            self._slow_until_s = now_s + WRITE_SLOW_FOR_S
        self._report_chunk(source, chunk, now_s)

    def _report_chunk(self, source: Source, chunk: Chunk, now_s: float) -> None:
        """Count a chunk that is on disk, once, and tell the picker, each time."""
        if self._picker.misses(chunk.index):
            self._unsynced_bytes += chunk.length
            self._last_byte_s = now_s
            self.by_source[source.url] += chunk.length
            if source.kind is SourceKind.WAN:
                self.wan += chunk.length
            else:
                self.lan += chunk.length
        for rival in self._picker.arrived(source.url, chunk, now_s):
            self._stop_rival(rival, chunk)
        if self._picker.done:
            self._wake.set()

    async def _in_thread(self, work: Callable[[Source, Chunk, memoryview], None], *args: Any) -> None:
        """Run ``work`` in a writer thread, and never return before it has ended.

        A cancelled lane gives its buffer back; bytes that change between proof and write would be a wrong
        chunk on disk that everybody believes.
        """
        future = asyncio.get_running_loop().run_in_executor(self._writers, work, *args)
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def _prove_and_write(self, source: Source, chunk: Chunk, view: memoryview) -> None:
        self._prove(source, chunk, view)
        self._incoming.write(chunk, view)

    def _prove(self, source: Source, chunk: Chunk, view: memoryview) -> None:
        if Digest.of(view) != chunk.digest:
            raise DigestMismatchError(f"{source.url} sent other bytes than chunk {chunk.digest}")

    def _stop_rival(self, url: str, chunk: Chunk) -> None:
        for (owner, _number), job in self._jobs.items():
            if owner == url and chunk.index in job.wanted:
                job.task.cancel()

    async def _judge(self) -> None:
        """Look at silence a few times a second, and end the pull when nobody can help."""
        told_s = 0.0
        brought: dict[str, int] = {}
        while True:
            await asyncio.sleep(TICK_S)
            now_s = time.monotonic()
            self._thin = {u for u, n in self.by_source.items() if n - brought.get(u, 0) < THICK_BYTES_PER_S * TICK_S}
            brought = dict(self.by_source)
            for url in self._picker.tick(now_s):
                self._emit({"event": "source", "url": url, "state": "slow", "reason": "silent"})
            if now_s - told_s >= PROGRESS_S:
                told_s = now_s
                self._report()
            hopeless = self._picker.hopeless()
            if hopeless and len(hopeless) == len(self._picker.missing) and not self._patient:
                self._fail(self._verdict(hopeless))
            elif now_s - self._last_byte_s > self._stall_s and not self._patient:
                self._fail(self._stalled())
            self._wake.set()

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

    def _verdict(self, hopeless: list[Chunk]) -> P2PSyncError:
        count, size = len(hopeless), sum(c.length for c in hopeless)
        if not self._errors:
            return WithdrawnError(f"{count} chunks ({size} bytes) are missing and no source has them")
        error = worst(list(self._errors.values()))
        return type(error)(f"{error.message}; {count} chunks ({size} bytes) are missing", hint=error.hint)

    def _stalled(self) -> P2PSyncError:
        missing = self._picker.missing
        size = sum(c.length for c in missing)
        why = "; ".join(sorted({str(e) for e in self._errors.values()}))[:400]
        return StalledError(
            f"no proved byte for {self._stall_s:.0f} s; {len(missing)} chunks ({size} bytes) are missing"
            + (f": {why}" if why else ""),
            hint="run the same pull again: what arrived is kept",
        )

    def _note(self, source: Source, error: P2PSyncError) -> None:
        known = self._errors.get(source.url)
        self._errors[source.url] = error if known is None else worst([error, known])
        if known is None or type(known) is not type(error):
            self._emit({"event": "source", "url": source.url, "state": "dropped", "reason": str(error)})

    def _fail(self, error: BaseException) -> None:
        if self._fatal is None:
            self._fatal = error
        self._wake.set()

    def _report(self) -> None:
        reused = self._incoming.reused_bytes + self._incoming.resumed_bytes
        self._emit(
            {
                "event": "progress",
                "done": reused + self.lan + self.wan,
                "total": self._incoming.total_bytes,
                "reused": reused,
                "lan": self.lan,
                "wan": self.wan,
            }
        )
