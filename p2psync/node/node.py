"""A running node: it owns one store, serves it to others, and takes verbs over its Unix socket."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from p2psync.limits import MIB
from p2psync.node.identity import node_id
from p2psync.node.names import SOCKET_NAME
from p2psync.node.operations import Owner, perform
from p2psync.store import Store
from p2psync.swarm import TokenBucket
from p2psync.transport import LocalServer, Server

Emit = Callable[[dict[str, Any]], None]

# How often a node looks for withdrawn files to prove again.
REPROVE_S = 30.0
# How long answers in progress may take to end when the node stops.
GRACE_S = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How a node serves. Port 0 takes a free one; ``upload_limit_bytes_per_s`` None is unlimited."""

    host: str = "127.0.0.1"
    port: int = 0
    site: str = ""
    upload_limit_bytes_per_s: float | None = None


def _ignore(_event: dict[str, Any]) -> None:
    return


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
        self._chores: asyncio.Task[None] | None = None
        self.sent_bytes = 0

    async def __aenter__(self) -> Self:
        """Open the store, listen, and take verbs.

        Raises:
            StoreLockedError: another process owns the home.
            NetworkError: the address cannot be listened on.
        """
        options = self._options
        store = await asyncio.to_thread(Store.open, self.home)
        self._owner = Owner(store)
        try:
            self.id = await asyncio.to_thread(node_id, self.home)
            self._server = Server(store, node_id=self.id, site=options.site, pace=self._pacer(), on_sent=self._count)
            self.url = await self._server.start(options.host, options.port)
            self._control = LocalServer(self.home / SOCKET_NAME, self._verb)
            await self._control.start()
            self._chores = asyncio.create_task(self._prove_again(store))
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop taking work, let answers in progress end, and give the store back."""
        if self._chores is not None:
            self._chores.cancel()
            await asyncio.gather(self._chores, return_exceptions=True)
        if self._control is not None:
            await self._control.stop()
        if self._server is not None:
            await self._server.stop(GRACE_S)
        if self._owner is not None:
            await asyncio.to_thread(self._owner.store.close)
            self._owner = None

    async def perform(self, verb: str, args: dict[str, Any], emit: Emit = _ignore) -> dict[str, Any]:
        """Run a verb (publish, pull, tag, rm, prune, verify) on this node's store."""
        if self._owner is None:
            raise RuntimeError("the node is not running: use it as `async with Node(...) as node`")
        return await perform(self._owner, verb, args, emit)

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

    async def _verb(self, verb: str, args: dict[str, Any], emit: Emit) -> dict[str, Any]:
        if verb == "status":
            return self.status()
        return await self.perform(verb, args, emit)

    def status(self) -> dict[str, Any]:
        """What only the running node knows: its address, its id, what it sent and what it pulls."""
        transfers = list(self._owner.transfers.values()) if self._owner else []
        return {"url": self.url, "node": self.id, "sent_bytes": self.sent_bytes, "transfers": transfers}

    def _pacer(self) -> Callable[[int], float] | None:
        rate = self._options.upload_limit_bytes_per_s
        if rate is None:
            return None
        # A burst of a tenth of a second keeps a slow limit smooth; below one piece it would only cost wake-ups.
        bucket = TokenBucket(rate, max(64 << 10, min(MIB, int(rate / 10))), time.monotonic())
        return lambda count: bucket.take(count, time.monotonic())

    def _count(self, _address: str, count: int) -> None:
        self.sent_bytes += count

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
    async with Node(home, options, emit=emit) as node:
        emit({"event": "listening", "url": node.url, "node": node.id})
        await stop.wait()
    emit({"event": "stopped", "url": node.url, "sent_bytes": node.sent_bytes})
