"""Ask several sources what a reference means, and believe only what is signed."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from p2psync import disk
from p2psync.content import Digest
from p2psync.errors import (
    ModelNotFoundError,
    NetworkError,
    P2PSyncError,
    RollbackError,
    SourceUnreachableError,
    worst,
)
from p2psync.manifest import Head, Reference
from p2psync.node.sources import ask_all
from p2psync.transport import HeadReply, Source
from p2psync.trust import TrustStore, accept

# Before a source that broke off is asked for a head again.
RETRY_S = (0.1, 0.4)
# Remembered entity tags; the oldest go first.
ETAGS_MAX = 512


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference means now. ``failures`` are the sources that gave no acceptable answer, and why."""

    head: Head
    envelope: bytes
    unchanged: bool
    failures: dict[str, P2PSyncError] = field(default_factory=dict)


class EtagMemory:
    """Which entity tag each source gave for a head, so that asking again costs one short answer.

    Losing the file costs a kilobyte per source; it holds nothing that is trusted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tags: dict[str, list[str]] = {}
        self._changed = False
        try:
            loaded = json.loads(path.read_bytes())
            self._tags = {str(k): [str(v[0]), str(v[1])] for k, v in loaded.items()}
        except (OSError, ValueError, AttributeError, IndexError, TypeError, RecursionError):
            self._tags = {}

    def recall(self, url: str, reference: Reference, envelope: bytes | None) -> str | None:
        """The tag that ``url`` gave with exactly these envelope bytes, if any."""
        entry = self._tags.get(self._key(url, reference))
        return entry[0] if entry and envelope is not None and entry[1] == Digest.of(envelope).hex() else None

    def learn(self, url: str, reference: Reference, reply: HeadReply) -> None:
        """Keep what ``url`` answered."""
        if reply.etag and reply.envelope is not None:
            self._tags.pop(self._key(url, reference), None)
            self._tags[self._key(url, reference)] = [reply.etag, Digest.of(reply.envelope).hex()]
            self._changed = True

    def save(self) -> None:
        """Write the newest entries, if any was learned. A home that refuses writes is no fault here."""
        if not self._changed:
            return
        text = json.dumps(dict(list(self._tags.items())[-ETAGS_MAX:]))
        scratch = self._path.with_suffix(".new")
        try:
            scratch.write_text(text)
            disk.replace(scratch, self._path)
        except OSError:
            return

    @staticmethod
    def _key(url: str, reference: Reference) -> str:
        return f"{url} {reference.name}:{reference.tag}"


def selector_of(reference: Reference) -> str:
    """How a source finds the head: by digest where the reference names one, else by tag."""
    return str(reference.digest) if reference.digest is not None else reference.tag


async def resolve(
    reference: Reference,
    sources: Sequence[Source],
    trust: TrustStore,
    known: bytes | None,
    etags: EtagMemory,
    now_unix_s: int,
) -> Resolved:
    """Ask every source at once; of the heads that are acceptable, the highest version wins.

    Args:
        known: The envelope that this home has for the reference, which spares sending it again.

    Raises:
        P2PSyncError: no source gave an acceptable head. Trust outranks integrity outranks network.
    """
    selector = selector_of(reference)
    replies = await ask_all(sources, lambda s: _ask(s, reference, selector, etags.recall(s.url, reference, known)))
    failures: dict[str, P2PSyncError] = {}
    best: Resolved | None = None
    for source, reply in zip(sources, replies, strict=True):
        if isinstance(reply, P2PSyncError):
            failures[source.url] = reply
            continue
        if isinstance(reply, BaseException):
            raise reply
        envelope = known if reply.envelope is None else reply.envelope
        if envelope is None:
            continue
        try:
            head = accept(envelope, reference, trust, now_unix_s)
        except P2PSyncError as error:
            failures[source.url] = error
            continue
        etags.learn(source.url, reference, reply)
        if best is not None and head.version == best.head.version and head.root != best.head.root:
            raise RollbackError(
                f"version {head.version} of {head.name}:{head.tag} is signed for {best.head.root} and for {head.root}",
                hint="its publisher signed both: ask which one is meant, and pull that one by its digest",
            )
        if best is None or head.version > best.head.version:
            best = Resolved(head, envelope, envelope == known, failures)
    if best is None:
        raise _explain(reference, failures)
    return best


async def _ask(source: Source, reference: Reference, selector: str, etag: str | None) -> HeadReply:
    """The head as one source gives it. A connection that breaks is made again: a full or restarting seed is no news."""
    for pause_s in RETRY_S:
        try:
            return await source.head(reference.name, selector, etag)
        except SourceUnreachableError:
            # Nodes that lost a seed in one moment do not come back in one.
            await asyncio.sleep(pause_s * (0.5 + random.random()))  # noqa: S311 - nothing secret hangs on it
    return await source.head(reference.name, selector, etag)


def _explain(reference: Reference, failures: dict[str, P2PSyncError]) -> P2PSyncError:
    if not failures:
        return NetworkError(
            f"no source to ask for {reference}",
            hint=f"p2psync pull {reference} --from URL, or --peer HOST:PORT",
        )
    error = worst(list(failures.values()))
    if isinstance(error, ModelNotFoundError):
        asked = ", ".join(sorted(failures))
        return ModelNotFoundError(f"{reference} is not at {asked}", hint=error.hint)
    return error
