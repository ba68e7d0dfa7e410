"""Site channels come about here: a node dials another, or is dialled through its server.

Both ends run the same handshake; both are bounded in how many at once, in time, and in what one address may hold.
A redirect is never followed, no proxy is used, and a request that a browser sent is refused: a page that somebody
reads at the site must not speak to its nodes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Final

import aiohttp
from aiohttp import web

from p2psync import limits
from p2psync.errors import ChannelRefusedError
from p2psync.transport.channel import ChannelTimes, SiteChannel, Speaker, shake
from p2psync.transport.endpoint import parse_endpoint
from p2psync.transport.handshake import Hello, Reason
from p2psync.transport.interfaces import host_text
from p2psync.transport.server import SITE_PATH

# Headers of browsers and of protocols that nobody here speaks.
_UNWANTED: Final = ("Origin", "Sec-WebSocket-Protocol")
# aiohttp refuses a message of exactly its limit.
_TOO_LARGE_BYTES: Final = limits.CHANNEL_MESSAGE_BYTES_MAX + 1
_HEADERS_BYTES_MAX: Final = limits.HTTP_HEAD_BYTES_MAX // 2

log = logging.getLogger(__name__)


class _RedirectedError(Exception):
    """The other side wants to send us elsewhere."""


class Channels:
    """Dials and is dialled. For one event loop."""

    def __init__(
        self,
        me: Speaker,
        *,
        admit: Callable[[Hello, bool], Reason | None],
        serve: Callable[[SiteChannel], Awaitable[None]],
        refused: Callable[[str, ChannelRefusedError], None],
        times: ChannelTimes | None = None,
    ) -> None:
        """Prepare.

        Args:
            me: Who speaks here.
            admit: Given a hello and whether we dialled, may refuse before this side proves anything.
            serve: Runs a channel that somebody dialled to us, to its end.
            refused: Told the other side's address and the reason when such a channel did not come about.
            times: Deadlines.
        """
        self._me = me
        self._admit = admit
        self._serve = serve
        self._refused = refused
        self._times = times or ChannelTimes()
        self._session: aiohttp.ClientSession | None = None
        self._welcomes: set[asyncio.Task[None]] = set()
        self._addresses: Counter[str] = Counter()
        self._unproven: Counter[str] = Counter()
        self._closed = False

    async def accept(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer ``GET /v1/site``: a WebSocket for as long as the channel lasts, or a refusal."""
        if any(name in request.headers for name in _UNWANTED):
            return _refusal(403, "a site channel is not for browsers")
        webs = web.WebSocketResponse(
            timeout=self._times.close_s, autoping=False, compress=False, max_msg_size=_TOO_LARGE_BYTES
        )
        if not webs.can_prepare(request):
            return _refusal(400, "a site channel is a WebSocket")
        transport = request.transport
        address = host_text(transport.get_extra_info("peername")) if transport is not None else ""
        if self._closed or not self._has_room(address):
            return _refusal(503, "no room for another site channel")
        await webs.prepare(request)
        # A task of its own: aiohttp cancels a handler when its connection ends, before it could read why.
        task = asyncio.create_task(self._welcome(webs, address))
        self._welcomes.add(task)
        _count(self._addresses, address, 1)
        task.add_done_callback(lambda done: self._departed(done, address))
        await asyncio.shield(task)
        return webs

    async def dial(self, url: str) -> SiteChannel:
        """A channel to the node whose server has that base URL.

        Raises:
            ChannelRefusedError: it did not come about; ``reason`` says why.
            UsageError: ``url`` is none.
        """
        endpoint = parse_endpoint(url)
        try:
            async with asyncio.timeout(self._times.handshake_s):
                webs = await self._open().ws_connect(
                    f"{endpoint.dialled_url}{SITE_PATH}",
                    headers={"Host": endpoint.authority},
                    timeout=aiohttp.ClientWSTimeout(ws_close=self._times.close_s),
                    autoping=False,
                    max_msg_size=_TOO_LARGE_BYTES,
                )
        except (_RedirectedError, aiohttp.ClientResponseError) as error:
            full = isinstance(error, aiohttp.ClientResponseError) and error.status == 503
            text = f"{endpoint.url} offers no site channel: {str(error)[:200]}"
            raise ChannelRefusedError(text, reason=Reason.FULL if full else Reason.PROTOCOL) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError.
            text = f"{endpoint.url} cannot be reached: {str(error)[:200]}"
            raise ChannelRefusedError(text, reason=Reason.UNREACHABLE) from error
        return await shake(webs, self._me, self._times, dialled=True, admit=self._admit)

    async def close(self) -> None:
        """Accept and dial no more. Channels that run are their owner's to close, and are broken here if it did not."""
        self._closed = True
        left = list(self._welcomes)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _has_room(self, address: str) -> bool:
        return (
            len(self._welcomes) < limits.CHANNELS_MAX
            and self._addresses[address] < limits.CHANNELS_PER_ADDRESS_MAX
            and self._unproven.total() < limits.HANDSHAKES_MAX
            and self._unproven[address] < limits.HANDSHAKES_PER_ADDRESS_MAX
        )

    async def _welcome(self, webs: web.WebSocketResponse[bool], address: str) -> None:
        _count(self._unproven, address, 1)
        try:
            channel = await shake(webs, self._me, self._times, dialled=False, admit=self._admit)
        except ChannelRefusedError as error:
            self._refused(address, error)
            return
        finally:
            _count(self._unproven, address, -1)
        await self._serve(channel)

    def _departed(self, task: asyncio.Task[None], address: str) -> None:
        self._welcomes.discard(task)
        _count(self._addresses, address, -1)
        if not task.cancelled() and task.exception() is not None:
            log.error("a site channel ended by a fault of ours", exc_info=task.exception())

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ChannelRefusedError("this node stops", reason=Reason.LEAVING)
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_request_redirect.append(_stay)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
                max_line_size=_HEADERS_BYTES_MAX,
                max_field_size=_HEADERS_BYTES_MAX,
                trace_configs=[trace],
            )
        return self._session


async def _stay(
    _session: aiohttp.ClientSession, _context: SimpleNamespace, redirect: aiohttp.TraceRequestRedirectParams
) -> None:
    raise _RedirectedError(f"a redirect to {redirect.response.headers.get('Location', '')[:200]}")


def _count(counter: Counter[str], address: str, change: int) -> None:
    counter[address] += change
    if not counter[address]:
        del counter[address]


def _refusal(status: int, text: str) -> web.Response:
    response = web.Response(status=status, text=text + "\n", headers={"Server": "p2psync"})
    response.force_close()
    return response
