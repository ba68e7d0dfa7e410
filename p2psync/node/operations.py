"""The verbs that change a store, run here or handed to the process that owns it.

One process owns a home. A verb opens the store when it is free; when a ``serve`` owns it, the verb and its
arguments travel to that process over a Unix socket and the events and the result come back, so the same call
works in both cases. Arguments and results are JSON values; paths are absolute.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2psync.errors import NotFoundError, P2PSyncError, RollbackError, StoreLockedError, UsageError
from p2psync.limits import READERS_MAX
from p2psync.manifest import Reference
from p2psync.node.costs import describe_set
from p2psync.node.handing import hand_over
from p2psync.node.pull import WATCH_S, Pull, PullRequest
from p2psync.node.rates import Rates
from p2psync.node.repair import repair
from p2psync.store import PublishOptions, Snap, Store, give_back_memory
from p2psync.trust import Keyring

if TYPE_CHECKING:
    from p2psync.node.site import Site

Emit = Callable[[dict[str, Any]], None]
Args = Mapping[str, Any]
_COUNTED = ("done", "total", "lan", "wan", "patched")


@dataclass
class Owner:
    """The process that owns a store: what its verbs share. ``transfers`` is what ``status`` shows."""

    store: Store
    rates: Rates = field(default_factory=Rates)
    site: Site | None = None
    transfers: dict[int, dict[str, Any]] = field(default_factory=dict)
    _busy: dict[str, asyncio.Lock] = field(default_factory=dict)
    _pulls: dict[int, Pull] = field(default_factory=dict)
    _received: Counter[tuple[str, str]] = field(default_factory=Counter)

    def head(self, name: str, selector: str) -> bytes | None:
        """The head that a neighbour asks for: of a running pull, which is the newest, else of what is here.

        Who pulls has held it against its own trust, and so does whoever gets it.
        """
        for pull in list(self._pulls.values()):  # Asked for in a thread.
            if pull.coming is not None:
                head, envelope = pull.coming
                if head.name == name and selector in (head.tag, str(head.root)):
                    return envelope
        return self.store.head(name, selector)

    @property
    def pulls_running(self) -> int:
        """How many pulls are at work now."""
        return len(self._pulls)

    def near(self, address: str) -> bool:
        """Whether an address stands in the site's own networks."""
        return self.site is not None and self.site.near(address)

    def received(self) -> Counter[str]:
        """Bytes that came over each link, ``lan`` and ``wan``, since the process began."""
        total: Counter[str] = Counter()
        for (_, kind), count in self._all_received().items():
            total[kind] += count
        return total

    def received_by_url(self) -> Counter[str]:
        """The same by the URL of who sent them."""
        total: Counter[str] = Counter()
        for (url, _), count in self._all_received().items():
            total[url] += count
        return total

    def _all_received(self) -> Counter[tuple[str, str]]:
        total = Counter(self._received)
        for pull in self._pulls.values():
            total.update(pull.received())
        return total

    @contextmanager
    def pulling(self, pull: Pull) -> Iterator[None]:
        """Count what a pull receives, while it runs and afterwards."""
        self._pulls[id(pull)] = pull
        try:
            with self.rates.tally.pull():
                yield
        finally:
            del self._pulls[id(pull)]
            for key, count in pull.received().items():
                # What is told of each source is bounded: the rest goes on one account a link.
                known = key in self._received or len(self._received) < READERS_MAX
                self._received[key if known else ("", key[1])] += count

    def turn(self, name: str) -> asyncio.Lock:
        """Two pulls of one model go one after the other; the second finds what the first brought."""
        return self._busy.setdefault(name, asyncio.Lock())


async def run(home: Path, verb: str, args: Args, emit: Emit) -> dict[str, Any]:
    """Run one verb on the store of ``home``, in this process or in the one that owns it.

    Raises:
        StoreLockedError: another process owns the home and takes no verbs; its pid is named.
        P2PSyncError: what the verb itself raises.
    """
    try:
        store = await asyncio.to_thread(Store.open, home)
    except StoreLockedError:
        handed = await hand_over(home, verb, args, emit)
        if handed is None:
            raise
        return handed
    try:
        return await perform(Owner(store), verb, args, emit)
    finally:
        await asyncio.shield(asyncio.to_thread(store.close))


async def perform(owner: Owner, verb: str, args: Args, emit: Emit) -> dict[str, Any]:
    """Run one verb in the process that owns the store.

    Raises:
        UsageError: there is no such verb.
    """
    work = _VERBS.get(verb)
    if work is None:
        raise UsageError(f"the owner of this home knows no verb {verb!r}", hint="restart its p2psync serve")
    return await work(owner, args, emit)


async def _publish(owner: Owner, args: Args, emit: Emit) -> dict[str, Any]:
    began_s = time.monotonic()
    store = owner.store
    to, expires_s = args.get("to"), args.get("expires_s")
    options = PublishOptions(
        bases=tuple(Reference.parse(base) for base in args.get("bases") or ()),
        in_place=bool(args.get("in_place")),
        expires_s=int(expires_s) if expires_s is not None else None,
        now_unix_s=int(time.time()),
        origin_tree=Path(to) if to else None,
        forms=bool(args.get("forms", True)),
        snap=Snap(float(args["snap"]), int(args.get("snap_steps") or 0)) if args.get("snap") else None,
    )
    key = Keyring(store.home / "keys").signing_key(args["key"])
    reference = Reference.parse(args["reference"])
    published = await asyncio.to_thread(store.publish, Path(args["dir"]), reference, key, options, _from_thread(emit))
    give_back_memory()
    head = published.head
    return {
        "reference": f"{head.name}:{head.tag}@{head.root}",
        "digest": str(head.root),
        "version": head.version,
        "bytes": head.size,
        "new_bytes": published.new_bytes,
        "files": published.files,
        "seconds": round(time.monotonic() - began_s, 3),
        "origin": published.origin,
        "forms": [describe_set(one) for one in published.forms],
        "snapped": [asdict(one) for one in published.snapped],
    }


async def _pull(owner: Owner, args: Args, emit: Emit) -> dict[str, Any]:
    request = PullRequest.parse(args)
    async with _in_company(owner, request, args.get("site") or "", emit):
        if args.get("watch"):
            return await _watch(owner, request, emit, patient=bool(args.get("patient")))
        return await _pull_once(owner, request, emit)


@asynccontextmanager
async def _in_company(owner: Owner, request: PullRequest, site: str, emit: Emit) -> AsyncIterator[None]:
    """Meet the peers that a pull may use. A serving node has met them; a command alone looks for them itself.

    It listens nowhere, so it reads what they hold and is told what they get. Where it was told whom to ask, it browses
    for nobody else.
    """
    peers = [url for url, kind in request.sources if kind == "lan" and not url.startswith("file:")]
    named = bool(request.sources)
    if owner.site is not None or request.offline or (named and not peers):
        yield
        return
    from p2psync.node.site import Site

    owner.site = Site(owner.store, emit, serves=False)
    try:
        await owner.site.open(owner.store.home, site=site, discover=not named, peers=peers)
        yield
    finally:
        await owner.site.close()
        owner.site = None


async def _pull_once(owner: Owner, request: PullRequest, emit: Emit) -> dict[str, Any]:
    async with owner.turn(request.reference.name):
        number = id(request)
        transfer: dict[str, Any] = {"reference": str(request.reference), **dict.fromkeys(_COUNTED, 0)}

        def follow(event: dict[str, Any]) -> None:
            transfer.update({k: event[k] for k in _COUNTED if k in event})
            emit(event)

        owner.transfers[number] = transfer
        try:
            # Where in the order each source is first asked: it differs from pull to pull, so that nodes spread.
            start = random.randrange(1 << 16)  # noqa: S311 - nothing secret hangs on it
            pull = Pull(owner.store, request, follow, start=start, site=owner.site, rates=owner.rates)
            with owner.pulling(pull):
                return await pull.run()
        finally:
            del owner.transfers[number]
            if any(transfer[kind] for kind in ("lan", "wan", "patched")):
                # The threads of this pull are gone, and a node lives for months.
                give_back_memory()


async def _watch(owner: Owner, request: PullRequest, emit: Emit, *, patient: bool) -> dict[str, Any]:
    """Pull, and go on taking each new version of the tag until cancelled. Faults are told and waited out.

    A tag that was there once may come back. Who is ``patient`` waits for whatever may still be published or trusted.
    """
    if request.reference.digest is not None:
        raise UsageError(
            "--watch follows a tag, and a digest never moves", hint=f"leave out @{request.reference.digest}"
        )
    last: str | None = None
    while True:
        try:
            result = await _pull_once(owner, request, emit)
            if result["digest"] != last:
                last = result["digest"]
                emit({"event": "result", "result": result})
        except UsageError:
            raise
        except P2PSyncError as error:
            gone = last is not None and isinstance(error, NotFoundError)
            behind = isinstance(error, RollbackError) and error.behind
            if not (error.retryable or gone or behind or patient):
                raise
            emit({"event": "waiting", "reason": str(error), "retry_s": WATCH_S})
        # Nodes that lost their seed at the same moment must not all come back at the same moment.
        await asyncio.sleep(WATCH_S * random.uniform(0.75, 1.25))  # noqa: S311


async def _tag(owner: Owner, args: Args, _emit: Emit) -> dict[str, Any]:
    key = Keyring(owner.store.home / "keys").signing_key(args["key"])
    head = await asyncio.to_thread(
        owner.store.tag, Reference.parse(args["reference"]), args["tag"], key, int(time.time())
    )
    return {"reference": f"{head.name}:{head.tag}@{head.root}", "digest": str(head.root), "version": head.version}


async def _remove(owner: Owner, args: Args, _emit: Emit) -> dict[str, Any]:
    reference = Reference.parse(args["reference"])
    root, _ = await asyncio.to_thread(owner.store.resolve, reference)
    report = await asyncio.to_thread(owner.store.remove, reference, dry_run=bool(args.get("dry_run")))
    return {
        "reference": str(reference),
        "digest": str(root),
        "tags": [r.what.rpartition(":")[2] for r in report.removed if r.kind == "tag"],
        "removed": any(r.kind == "version" for r in report.removed),
        "freed_bytes": report.freed_bytes,
        "dry_run": report.dry_run,
    }


async def _prune(owner: Owner, args: Args, _emit: Emit) -> dict[str, Any]:
    report = await asyncio.to_thread(owner.store.prune, dry_run=bool(args.get("dry_run")))
    versions = {r.what.rpartition("@")[2] for r in report.removed if r.kind == "version"}
    return {
        "removed": [
            {"kind": r.kind, "reference": r.what, "bytes": r.bytes}
            for r in report.removed
            if r.what not in versions  # the manifest of a version goes with it
        ],
        "freed_bytes": report.freed_bytes,
        "dry_run": report.dry_run,
    }


async def _verify(owner: Owner, args: Args, emit: Emit) -> dict[str, Any]:
    """Read every byte again. The answer says what is wrong; whoever asked decides what that means."""
    began_s = time.monotonic()
    text = args.get("reference")
    reference = Reference.parse(text) if text else None
    report = await asyncio.to_thread(owner.store.verify, reference, _from_thread(emit))
    versions = 1 if reference else len(await asyncio.to_thread(owner.store.versions))
    repaired: list[dict[str, Any]] = []
    if args.get("repair") and report.damages:
        sources = tuple((s["url"], s["kind"]) for s in args.get("sources") or ())
        repaired = await repair(owner.store, report, sources, emit)
        report = await asyncio.to_thread(owner.store.verify, reference, _from_thread(emit))
    return {
        "ok": not report.damages,
        "checked": {"versions": versions, "files": report.files, "bytes": report.bytes},
        "damage": [
            {"reference": f"{d.name}@{d.root}", "path": d.path, "reason": d.kind.value, "bytes": d.bytes}
            for d in report.damages
        ],
        "repaired": repaired,
        "seconds": round(time.monotonic() - began_s, 3),
    }


def _from_thread(emit: Emit) -> Emit:
    """Progress that a worker thread tells reaches ``emit`` in the event loop."""
    loop = asyncio.get_running_loop()

    def tell(event: dict[str, Any]) -> None:
        loop.call_soon_threadsafe(emit, event)

    return tell


_VERBS: dict[str, Callable[[Owner, Args, Emit], Awaitable[dict[str, Any]]]] = {
    "publish": _publish,
    "pull": _pull,
    "tag": _tag,
    "rm": _remove,
    "prune": _prune,
    "verify": _verify,
}
