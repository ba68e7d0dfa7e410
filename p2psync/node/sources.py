"""The sources of one pull: connected, asked what they hold, and counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any, Protocol, Self, TypeVar

from p2psync.content import Digest
from p2psync.errors import (
    IntegrityError,
    NotFoundError,
    P2PSyncError,
    SourceTimeoutError,
    WithdrawnError,
    worst,
)
from p2psync.limits import BATCH_DIGESTS_MAX
from p2psync.transport import Source, SourceKind, connect

Emit = Callable[[dict[str, Any]], None]
T = TypeVar("T")

# Once one source has answered, the others get this much longer: a silent one must not hold up a pull. What stands on
# the LAN answers in milliseconds, or not at all.
GRACE_S = {SourceKind.LAN: 0.5, SourceKind.WAN: 2.0}
# A source that does not bring nodes within this time is passed over for another one, and asked again after it.
NODES_PATIENCE_S = 4.0


class NodeReader(Protocol):
    """Collects nodes, like ``TreeReader`` and ``FormsReader``."""

    def missing(self) -> list[Digest]:
        """The nodes that are wanted next."""

    def feed(self, digest: Digest, data: bytes) -> None:
        """Take one of them."""


class SourceSet:
    """Sources that are used together and closed together. ``failures`` keeps the latest fault of each."""

    def __init__(self, addresses: Iterable[tuple[str, str]], emit: Emit) -> None:
        """Connect lazily to each (url, kind), kind being ``lan`` or ``wan``; a url named twice counts once."""
        self.all: list[Source] = [connect(url, SourceKind(kind)) for url, kind in dict(addresses).items()]
        self.failures: dict[str, P2PSyncError] = {}
        self._emit = emit
        self._named = {source.url for source in self.all}

    def was_named(self, url: str) -> bool:
        """Whether whoever asked for the pull named this source; others were found."""
        return url in self._named

    def add(self, url: str, kind: SourceKind, *, named: bool = True) -> Source:
        """The source at ``url``, connected now if it was not among them."""
        if named:
            self._named.add(url)
        known = next((source for source in self.all if source.url == url), None)
        if known is None:
            known = connect(url, kind)
            self.all.append(known)
        return known

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(s.close() for s in self.all), return_exceptions=True)

    async def open(self, root: Digest) -> list[Source]:
        """The sources that know the version ``root``, ready to give nodes and chunks; LAN ones first."""
        answers = await ask_all(self.all, lambda s: s.open(root), but=self._silent())
        ready = [s for s, answer in zip(self.all, answers, strict=True) if self._went_well(s, answer)]
        return sorted(ready, key=lambda s: (s.url in self.failures, s.kind is SourceKind.WAN))

    async def read_level(self, reader: NodeReader, ready: Sequence[Source]) -> None:
        """Feed ``reader`` the nodes it wants now; what one source lacks is asked of the next.

        Raises:
            P2PSyncError: no source gave a node that proves. Integrity outranks network.
        """
        wanted = reader.missing()
        for start in range(0, len(wanted), BATCH_DIGESTS_MAX):
            await self._read_nodes(reader, wanted[start : start + BATCH_DIGESTS_MAX], ready)

    async def _read_nodes(self, reader: NodeReader, wanted: list[Digest], ready: Sequence[Source]) -> None:
        left = list(wanted)
        order = sorted(ready, key=lambda s: s.url in self.failures)
        for source, patience_s in [*((s, NODES_PATIENCE_S) for s in order[:-1]), *((s, None) for s in order[::-1])]:
            if not left:
                return
            try:
                async with asyncio.timeout(patience_s):
                    given = await source.nodes(left)
                for digest in [d for d in left if d in given]:
                    reader.feed(digest, given[digest])
                    left.remove(digest)
            except TimeoutError:
                self._blame(source, SourceTimeoutError(f"{source.url} did not bring nodes within {patience_s} s"))
            except P2PSyncError as error:
                self._blame(source, error)
        if left:
            raise self.verdict(f"no source has {len(left)} nodes of the manifest")

    async def inventories(self, root: Digest, count: int, ready: Sequence[Source]) -> dict[str, bytes | None]:
        """What each ready source holds of ``count`` chunks; sources that do not answer are left out."""
        answers = await ask_all(ready, lambda s: s.inventory(root, count), but=self._silent())
        held: dict[str, bytes | None] = {}
        for source, answer in zip(ready, answers, strict=True):
            if answer is None or isinstance(answer, bytes):
                held[source.url] = answer
            else:
                self._went_well(source, answer)
        return held

    def verdict(self, otherwise: str) -> P2PSyncError:
        """Why the sources were of no use: the gravest fault, or that what is wanted is no longer there."""
        unfit = [e for e in self.failures.values() if not isinstance(e, NotFoundError)]
        return worst(unfit) if unfit else WithdrawnError(otherwise)

    def wire(self) -> dict[str, int]:
        """Bytes that crossed each link so far, both ways, heads and nodes included."""
        total = {"lan": 0, "wan": 0}
        for source in self.all:
            total[source.kind.value] += source.wire.received + source.wire.sent
        return total

    def _silent(self) -> set[str]:
        return {url for url, error in self.failures.items() if isinstance(error, SourceTimeoutError)}

    def _went_well(self, source: Source, answer: object) -> bool:
        if isinstance(answer, P2PSyncError):
            self._blame(source, answer)
            return False
        if isinstance(answer, BaseException):
            raise answer
        return True

    def _blame(self, source: Source, error: P2PSyncError) -> None:
        self.failures[source.url] = error
        state = "banned" if isinstance(error, IntegrityError) else "dropped"
        self._emit({"event": "source", "url": source.url, "state": state, "reason": str(error)})


async def ask_all(
    sources: Sequence[Source], question: Callable[[Source], Awaitable[T]], *, but: Collection[str] = ()
) -> list[T | BaseException]:
    """Ask every source at once; in their order, the answer or the error of each.

    When one has answered, the others have ``GRACE_S`` left; who is still silent then has failed by that. Those whose
    address is in ``but`` were silent before, and had their grace then.
    """
    tasks = {asyncio.ensure_future(question(source)): source for source in sources}
    try:
        waiting = set(tasks)
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if any(task.exception() is None for task in done):
                break
        late = [task for task in waiting if tasks[task].url not in but]
        if late:
            await asyncio.wait(late, timeout=max(GRACE_S[tasks[task].kind] for task in late))
        return [_answer(source, task) for task, source in tasks.items()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _answer(source: Source, task: asyncio.Task[T]) -> T | BaseException:
    if not task.done():
        return SourceTimeoutError(f"{source.url} was still silent when another source had answered")
    error = task.exception()
    return task.result() if error is None else error
