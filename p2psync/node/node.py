"""A running node: it owns one store, serves it to others, meets its site, and takes verbs over its Unix socket."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from p2psync.content import Digest
from p2psync.errors import DiscoveryError, P2PSyncError, UsageError
from p2psync.limits import READERS_MAX
from p2psync.node.identity import node_id
from p2psync.node.names import SOCKET_NAME
from p2psync.node.operations import Owner, perform
from p2psync.node.rates import NAMES, Limits, Rates
from p2psync.node.site import Site
from p2psync.node.watching import Exposure, Watching
from p2psync.store import Store
from p2psync.transport import LocalServer, Located, Server, parse_endpoint

Emit = Callable[[dict[str, Any]], None]

# How often a node looks for withdrawn files to prove again.
REPROVE_S = 30.0
# How long answers in progress may take to end when the node stops.
GRACE_S = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How a node serves and whom it meets.

    Port 0 takes a free one. ``peers`` are URLs of nodes that are always tried. ``follow`` are references whose newest
    version is kept here, from ``sources``. ``metrics`` says who may read ``/metrics``.
    """

    host: str = "127.0.0.1"
    port: int = 0
    site: str = ""
    discover: bool = True
    peers: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    follow: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    metrics: Exposure = Exposure.LOOPBACK


def _ignore(_event: dict[str, Any]) -> None:
    return


@dataclass(frozen=True, slots=True)
class _Shelf:
    """What a node offers: its store, and the heads of what it is just pulling."""

    owner: Owner

    def head(self, name: str, selector: str) -> bytes | None:
        return self.owner.head(name, selector)

    def node(self, digest: Digest) -> bytes | None:
        return self.owner.store.node(digest)

    def locate(self, digest: Digest) -> Located | None:
        return self.owner.store.locate(digest)

    def inventory(self, root: Digest) -> bytes | None:
        return self.owner.store.inventory(root)


class Node:
    """One p2psync node, for programs that want it inside their own event loop.

    Example:
        async with Node(Path("~/.p2psync").expanduser()) as node:
            print(node.url, node.id)
            result = await node.pull("acme/wan:v3", sources=["https://seed.example"])
    """

    def __init__(self, home: Path, options: ServeOptions | None = None, *, emit: Emit = _ignore) -> None:
        self.home = home
        self.url = ""
        self.id = ""
        self._options = options or ServeOptions()
        self._emit = emit
        self._owner: Owner | None = None
        self._server: Server | None = None
        self._control: LocalServer | None = None
        self._chores: list[asyncio.Task[None]] = []
        self._sent: Counter[str] = Counter()
        self._sent_by_link: Counter[str] = Counter(lan=0, wan=0)
        self.sent_bytes = 0

    async def __aenter__(self) -> Self:
        """Open the store, listen, look for the site's other nodes, and take verbs.

        Raises:
            StoreLockedError: another process owns the home.
            NetworkError: the address cannot be listened on.
            UsageError: a peer is no URL.
        """
        options = self._options
        store = await asyncio.to_thread(Store.open, self.home)
        self._owner = Owner(store, rates=Rates(options.limits))
        try:
            self.id = await asyncio.to_thread(node_id, self.home)
            await self._listen(self._owner)
            self._control = LocalServer(self.home / SOCKET_NAME, self._verb)
            await self._control.start()
            self._chores += [asyncio.create_task(self._prove_again(store))]
            self._chores += [asyncio.create_task(self._follow(reference)) for reference in options.follow]
        except BaseException:
            await self.close()
            raise
        return self

    async def _listen(self, owner: Owner) -> None:
        options, rates = self._options, owner.rates
        self._server = Server(_Shelf(owner), node_id=self.id, site=options.site, pace=rates.pace, on_sent=self._count)
        rates.flows = self._server.flows
        watching = Watching(self.home, owner, self._server, self._sent_by_link)
        watching.open(options.metrics)
        self._chores += [asyncio.create_task(chore) for chore in watching.chores()]
        self.url = await self._server.start(options.host, options.port)
        owner.site = Site(owner.store, self._emit, serves=True)
        rates.outside = lambda address: not owner.near(address)
        await owner.site.open(
            self.home,
            site=options.site,
            host=options.host,
            port=parse_endpoint(self.url).port,
            discover=options.discover,
            peers=options.peers,
        )
        if owner.site.neighbours is not None:
            self._server.open_site(owner.site.neighbours.accept)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop taking work, let answers in progress end, and give the store back."""
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        if self._control is not None:
            await self._control.stop()
        if self._owner is not None and self._owner.site is not None:
            await self._owner.site.close()
        if self._server is not None:
            await self._server.stop(GRACE_S)
        if self._owner is not None:
            await asyncio.to_thread(self._owner.store.close)
            self._owner = None

    async def perform(self, verb: str, args: dict[str, Any], emit: Emit = _ignore) -> dict[str, Any]:
        """Run a verb (publish, pull, tag, rm, prune, verify) on this node's store."""
        return await perform(self._running(), verb, args, emit)

    async def pull(
        self,
        reference: str,
        *,
        sources: Sequence[str] = (),
        peers: Sequence[str] = (),
        variant: str | None = None,
        emit: Emit = _ignore,
    ) -> dict[str, Any]:
        """Pull ``reference`` from origins or seeds outside (``sources``) and from ``peers`` on the LAN."""
        named = [{"url": url, "kind": "wan"} for url in sources] + [{"url": url, "kind": "lan"} for url in peers]
        return await self.perform("pull", {"reference": reference, "sources": named, "variant": variant}, emit)

    def set_limits(self, changes: Mapping[str, float | None]) -> Limits:
        """Change limits while the node runs; those that are not named stay. Bytes per second, None is unlimited.

        Raises:
            UsageError: there is no limit of that name, or it is not positive.
        """
        unknown = sorted(set(changes) - set(NAMES))
        if unknown:
            raise UsageError(f"there is no limit {unknown[0]!r}", hint=f"the limits are {', '.join(NAMES)}")
        rates = self._running().rates
        rates.set(replace(rates.limits, **changes))
        return rates.limits

    def status(self) -> dict[str, Any]:
        """What only the running node knows: its address and id, what it sent and pulls, its links and its limits."""
        owner = self._running()
        received = owner.received()
        return {
            "url": self.url,
            "node": self.id,
            "site": self._options.site,
            "sent_bytes": self.sent_bytes,
            "transfers": list(owner.transfers.values()),
            "neighbours": len(owner.site.live()) if owner.site is not None else 0,
            "links": {
                "wan": {"received": received["wan"], "sent": self._sent_by_link["wan"]},
                "lan": {"received": received["lan"], "sent": self._sent_by_link["lan"]},
            },
            "limits": asdict(owner.rates.limits),
            "discovery": owner.site.degraded if owner.site is not None else None,
        }

    def peers(self) -> dict[str, Any]:
        """The other nodes of the site: who has what, who is slow, who was banned and why."""
        owner = self._running()
        site, received = owner.site, owner.received_by_url()
        if site is None:
            return {"peers": [], "banned": []}
        rows = [
            {
                "node": neighbour.id,
                "url": neighbour.url,
                "address": neighbour.address,
                "software": neighbour.software,
                "static": neighbour.static,
                "rtt_ms": round(neighbour.rtt_s * 1000, 3),
                "seconds": round(asyncio.get_running_loop().time() - neighbour.since_s, 1),
                "control": {"received": neighbour.received_bytes, "sent": neighbour.sent_bytes},
                "sent_bytes": self._sent[neighbour.address],
                "received_bytes": received[neighbour.url or ""],
                "versions": [about for spread in site.spreads() if (about := spread.about(neighbour.id))],
            }
            for neighbour in site.live()
        ]
        return {"peers": rows, "banned": site.bans()}

    async def _verb(self, verb: str, args: dict[str, Any], emit: Emit) -> dict[str, Any]:
        if verb == "status":
            return self.status()
        if verb == "peers":
            return self.peers()
        if verb == "limits":
            return asdict(self.set_limits(args))
        return await self.perform(verb, args, emit)

    def _running(self) -> Owner:
        if self._owner is None:
            raise RuntimeError("the node is not running: use it as `async with Node(...) as node`")
        return self._owner

    def _count(self, address: str, count: int) -> None:
        self.sent_bytes += count
        self._sent_by_link[self._link_to(address)] += count
        # Readers come and go; what is told of each is bounded, what is told of all is exact.
        if address in self._sent or len(self._sent) < READERS_MAX:
            self._sent[address] += count

    def _link_to(self, address: str) -> str:
        """Over which link a reader is reached. Where the machine's networks cannot be read, nobody is near."""
        try:
            return "lan" if self._running().near(address) else "wan"
        except DiscoveryError:
            return "wan"

    async def _follow(self, reference: str) -> None:
        """Keep the newest version of a reference here, for ever."""
        named = [{"url": url, "kind": "wan"} for url in self._options.sources]
        args = {"reference": reference, "sources": named, "watch": True, "patient": True, "all_forms": True}
        try:
            await self.perform("pull", args, lambda event: self._emit({**event, "follow": reference}))
        except P2PSyncError as error:
            self._emit({"event": "follow_failed", "follow": reference, "reason": str(error), "hint": error.hint})

    async def _prove_again(self, store: Store) -> None:
        """Files that changed under the node are proved again now and then; what proves is served again."""
        while True:
            try:
                await asyncio.to_thread(store.reprove_withdrawn)
            except Exception:  # a chore must not end with the node still running
                log.exception("proving withdrawn files failed")
            await asyncio.sleep(REPROVE_S)


async def serve(home: Path, options: ServeOptions, emit: Emit, stop: asyncio.Event) -> None:
    """Run a node until ``stop`` is set. Emits ``listening`` first and ``stopped`` last."""
    early: list[dict[str, Any]] = []
    listening = False

    def tell(event: dict[str, Any]) -> None:
        # A neighbour may be met before this node's own address is said, which comes first.
        if listening:
            emit(event)
        else:
            early.append(event)

    async with Node(home, options, emit=tell) as node:
        emit({"event": "listening", "url": node.url, "node": node.id})
        listening = True
        for event in early:
            emit(event)
        await stop.wait()
    emit({"event": "stopped", "url": node.url, "sent_bytes": node.sent_bytes})
