"""Who may connect to a server, how many at once, and how they are sent home."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from p2psync import open_files
from p2psync.errors import NetworkError
from p2psync.limits import HTTP_HEAD_BYTES_MAX
from p2psync.transport.meters import Meters
from p2psync.transport.sending import address_of

_ALL_IPV4: Final = "0.0.0.0"  # noqa: S104 - Only where the caller asked for all interfaces.
_BACKLOG: Final = 512
_LAST_WORDS_S: Final = 0.05
_LOG: Final = logging.getLogger(__name__)


class _OwnFaults(logging.Filter):
    """Lets a bug of ours be logged, and not what askers send: nobody may fill a log from outside."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See ``logging.Filter``."""
        fault = record.exc_info[1] if record.exc_info else None
        return not isinstance(fault, HttpProcessingError | ConnectionError)


_LOG.addFilter(_OwnFaults())


class Gate(web.Server):
    """aiohttp's low-level server with caps on connections and a stop that ends.

    A connection that asks nothing, or sends its request's head too slowly, ends after ``idle_s``.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        connections_max: int,
        per_address_max: int,
        idle_s: float,
        lasting_path: str | None = None,
        meters: Meters | None = None,
    ) -> None:
        """Prepare.

        Args:
            handler: Answers a request.
            connections_max: In all. Fewer where this process may have fewer files open than a busy node has.
            per_address_max: Of one address.
            idle_s: How long a connection may ask nothing.
            meters: Told of connections that are refused.
            lasting_path: What stays open for as long as its owner wants. Its connections have caps of their own
                and count under none of these, are not waited for by ``stop``, and end with the answer.
        """
        super().__init__(
            self._counted,
            handler_cancellation=True,
            keepalive_timeout=idle_s,
            access_log=None,
            logger=_LOG,
            lingering_time=0.0,
            auto_decompress=False,
            max_line_size=HTTP_HEAD_BYTES_MAX // 2,
            max_field_size=HTTP_HEAD_BYTES_MAX // 2,
        )
        self._answer = handler
        self._connections_max = open_files.share(connections_max)
        self._per_address_max = per_address_max
        self._lasting_path = lasting_path
        self._meters = meters or Meters()
        self._lasting: dict[RequestHandler, asyncio.Transport] = {}
        self._open: dict[RequestHandler, asyncio.Transport] = {}
        self._addresses: Counter[str] = Counter()
        self._listeners: list[asyncio.Server] = []
        self._busy = 0
        self._at_rest = asyncio.Event()
        self._at_rest.set()

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Called for each connection; breaks those that are over a cap."""
        super().connection_made(handler, transport)
        address = address_of(transport)
        full = len(self._open) >= self._connections_max
        if full or self._addresses[address] >= self._per_address_max:
            self._meters.refused["total" if full else "address"] += 1
            transport.abort()
            return
        self._open[handler] = transport
        self._addresses[address] += 1

    @property
    def counts(self) -> dict[str, int]:
        """How many connections there are now: those that ask (``short``) and site channels (``lasting``)."""
        return {"short": len(self._open), "lasting": len(self._lasting)}

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Called when a connection is gone."""
        super().connection_lost(handler, exc)
        self._lasting.pop(handler, None)
        self._uncount(handler)

    def _uncount(self, handler: RequestHandler) -> asyncio.Transport | None:
        transport = self._open.pop(handler, None)
        if transport is not None:
            address = address_of(transport)
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]
        return transport

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Accept connections. An empty ``host`` means all interfaces, IPv4 and IPv6 on one port.

        Raises:
            NetworkError: the address cannot be listened on.
        """
        try:
            first = await self._listen_on(host or _ALL_IPV4, port)
        except (OSError, UnicodeError) as error:
            raise NetworkError(f"cannot listen on {host or '*'}:{port}: {error}") from error
        bound = first.getsockname()
        if not host:
            with suppress(OSError):  # A machine without IPv6 is served over IPv4.
                await self._listen_on("::", bound[1])
        return str(bound[0]), int(bound[1])

    async def _listen_on(self, host: str, port: int) -> socket.socket:
        listener = await asyncio.get_running_loop().create_server(self, host, port, backlog=_BACKLOG)
        self._listeners.append(listener)
        return listener.sockets[0]

    async def stop(self, grace_s: float) -> None:
        """Accept nothing more, let running answers end for at most ``grace_s``, then break what is left."""
        for listener in self._listeners:
            listener.close()
        self.pre_shutdown()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._at_rest.wait()
        left = [*self._open.values(), *self._lasting.values()]
        await self.shutdown(_LAST_WORDS_S)
        for transport in left:
            transport.abort()

    async def _counted(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path == self._lasting_path:
            return await self._last(request)
        self._busy += 1
        self._at_rest.clear()
        try:
            return await self._answer(request)
        finally:
            self._busy -= 1
            if not self._busy:
                self._at_rest.set()

    async def _last(self, request: web.BaseRequest) -> web.StreamResponse:
        transport = self._uncount(request.protocol)
        if transport is not None:
            self._lasting[request.protocol] = transport
        response = await self._answer(request)
        response.force_close()
        return response
