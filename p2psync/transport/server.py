"""What a node serves: heads, nodes, chunks and inventories, read-only, to whoever may connect.

Every path is taken apart by hand into a name or 64 hex digits, so there is nothing to traverse; the library is
asked for those and answers with bytes or None. A chunk's file is compared with its recorded identity before
its first byte is sent and after its last: where it changed meanwhile the connection breaks before the answer
is complete, so nobody takes it for whole.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final

from aiohttp import web

from p2psync import limits
from p2psync.content import DIGEST_BYTES, Digest
from p2psync.errors import InvalidReferenceError, MalformedError, StoreError
from p2psync.manifest import Reference
from p2psync.transport import batches
from p2psync.transport.frames import decode_digests
from p2psync.transport.gate import Gate
from p2psync.transport.heads import PROTOCOL
from p2psync.transport.interfaces import parse_address
from p2psync.transport.library import Library
from p2psync.transport.meters import Meters
from p2psync.transport.misses import Misses
from p2psync.transport.ranges import range_of
from p2psync.transport.readers import ReaderWatch
from p2psync.transport.sending import DiskThreads, Sender, address_of

_LOG: Final = logging.getLogger(__name__)
_HEAD: Final = re.compile(r"/v1/heads/([^?#%]+)/(?:tags/([^/?#%]+)|digests/([0-9a-f]{64}))")
# A test holds this equal to p2psync.__version__: the package's front door leads to every room, so no room imports it.
SOFTWARE: Final = "p2psync/0.1.0"
_SPOKEN: Final = {"P2PSync-Protocol": PROTOCOL}
_NAMED: Final = {"Server": "p2psync"}
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
SITE_PATH: Final = "/v1/site"
# Answers to who asked in vain.
_MISSED: Final = (404, 416)
_BY_DIGEST: Final = re.compile(r"/v1/(nodes|chunks|have)/([0-9a-f]{64})")

SiteRoute = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Told:
    """What a page about the node says."""

    body: bytes
    content_type: str
    status: int = 200


@dataclass(frozen=True, slots=True)
class Page:
    """A page about the node: what makes it, in the event loop, and whether only this machine may read it."""

    tell: Callable[[], Awaitable[Told]]
    near: bool = False


@dataclass(frozen=True, slots=True)
class ServeLimits:
    """What one server allows. Tests shrink these; everything else uses the limits."""

    connections_max: int = limits.CONNECTIONS_MAX
    connections_per_address_max: int = limits.CONNECTIONS_PER_ADDRESS_MAX
    idle_s: float = limits.IDLE_SERVER_S
    timeout_s: float = limits.SERVE_TIMEOUT_S
    rate_min_bytes_per_s: float = limits.SERVE_RATE_MIN_BYTES_PER_S
    misses_burst: int = limits.MISSES_BURST
    misses_per_s: float = limits.MISSES_PER_S
    miss_pause_s: float = limits.MISS_PAUSE_S


class Server:
    """An HTTP/1.1 server on top of a library. For one event loop."""

    def __init__(
        self,
        library: Library,
        *,
        node_id: str,
        site: str = "",
        pace: Callable[[str, int], float] | None = None,
        on_sent: Callable[[str, int], None] | None = None,
        allowed: ServeLimits | None = None,
    ) -> None:
        """Prepare to serve.

        Args:
            library: Called from the event loop and from threads.
            node_id: Said to whoever asks ``/v1/node``.
            site: Likewise.
            pace: Given the reader's address and a number of bytes that are about to be sent, says how many seconds to
                wait before.
            on_sent: Told (address of the reader, bytes) after body bytes were handed to the kernel.
            allowed: Connection caps and deadlines.
        """
        self._library = library
        self._about = {"protocol": int(PROTOCOL), "node": node_id, "site": site, "software": SOFTWARE}
        self._allowed = allowed or ServeLimits()
        self._disk = DiskThreads()
        self._watch = ReaderWatch(self._allowed.timeout_s, self._allowed.rate_min_bytes_per_s)
        self._sender = Sender(self._watch, pace, on_sent)
        self._misses = Misses(self._allowed.misses_burst, self._allowed.misses_per_s, time.monotonic)
        self.meters = Meters()
        self._pages: dict[str, Page] = {}
        self._gate: Gate | None = None
        self._site_route: SiteRoute | None = None

    def flows(self) -> dict[int, tuple[str, int]]:
        """Each connection that something is being sent on: its number, the reader's address, bytes acknowledged."""
        return self._watch.flows()

    @property
    def connections(self) -> dict[str, int]:
        """How many connections there are now, by whether they are short or site channels."""
        return self._gate.counts if self._gate is not None else {"short": 0, "lasting": 0}

    def open_page(self, path: str, page: Page) -> None:
        """From now on answer ``path`` by what a page says."""
        self._pages[path] = page

    def open_site(self, route: SiteRoute) -> None:
        """From now on answer ``/v1/site`` by ``route``.

        Its answers may last: they are under none of the caps and deadlines here, and ``stop`` does not wait for them.
        """
        self._site_route = route

    async def start(self, host: str, port: int) -> str:
        """Listen. An empty ``host`` means all interfaces; port 0 picks a free one. Returns the URL.

        Raises:
            NetworkError: the address cannot be listened on.
        """
        self._gate = Gate(
            self._answer,
            connections_max=self._allowed.connections_max,
            per_address_max=self._allowed.connections_per_address_max,
            idle_s=self._allowed.idle_s,
            lasting_path=SITE_PATH,
            meters=self.meters,
        )
        address, bound_port = await self._gate.listen(host, port)
        return f"http://[{address}]:{bound_port}" if ":" in address else f"http://{address}:{bound_port}"

    async def stop(self, grace_s: float) -> None:
        """Accept nothing more, finish what is being answered within ``grace_s``, then break what is left."""
        if self._gate is not None:
            await self._gate.stop(grace_s)
        self._disk.close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        response = await self._respond(request)
        if response.status in _MISSED:
            response = await self._put_off(request, 1.0) or response
        self.meters.answered(request.raw_path, response.status)
        return response

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            if request.method == "GET":
                return await self._get(request)
            if request.method == "POST":
                return await self._post(request)
        except ConnectionError:
            return _plain(500, "the connection is gone")  # Nobody is there to read it.
        except StoreError as error:
            # It may be here all the same; nobody else learns what is wrong with this machine.
            _LOG.warning("a request could not be answered: %s", error.message)
            return _plain(503, "not now", **{"Retry-After": "1"})
        return _plain(405, "only GET and POST are answered", Allow="GET, POST")

    async def _put_off(self, request: web.BaseRequest, cost: float) -> web.Response | None:
        """What an address is told that asked in vain too often; None if it may ask on."""
        address = address_of(request.transport) if request.transport is not None else ""
        wait_s = self._misses.missed(address, cost)
        if wait_s is None:
            return None
        await asyncio.sleep(self._allowed.miss_pause_s)
        refusal = _plain(429, "too much was asked for that is not here", **_SPOKEN, **{"Retry-After": str(wait_s)})
        refusal.force_close()
        return refusal

    async def _get(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path
        by_digest = _BY_DIGEST.fullmatch(path)
        if by_digest is not None:
            digest = Digest(bytes.fromhex(by_digest[2]))
            if by_digest[1] == "chunks":
                return await self._chunk(request, digest)
            read = self._library.node if by_digest[1] == "nodes" else self._library.inventory
            data = await self._disk.run(lambda: read(digest))
            return _plain(404, f"{by_digest[1]}: not here") if data is None else await self._whole(request, data)
        head = _HEAD.fullmatch(path)
        if head is not None:
            return await self._head(request, head[1], head[2], head[3])
        if path == "/v1/node":
            return web.json_response(self._about, headers={**_SPOKEN, **_NAMED})
        if path == SITE_PATH and self._site_route is not None:
            return await self._site_route(request)
        if path in self._pages:
            return await self._page(request, self._pages[path])
        return _plain(404, "no such resource")

    async def _page(self, request: web.BaseRequest, page: Page) -> web.StreamResponse:
        if page.near and (request.transport is None or not _is_own(address_of(request.transport))):
            return _plain(403, "this is told on this machine alone")
        told = await page.tell()
        headers = {"Content-Type": told.content_type, "Cache-Control": "no-store"}
        return await self._whole(request, told.body, told.status, headers)

    async def _head(self, request: web.BaseRequest, name: str, tag: str | None, root: str | None) -> web.StreamResponse:
        envelope = None
        with suppress(InvalidReferenceError):  # What cannot be a name is not here either.
            reference = Reference(name) if tag is None else Reference(name, tag)
            selector = f"b3:{root}" if tag is None else reference.tag
            envelope = await self._disk.run(lambda: self._library.head(reference.name, selector))
        if envelope is None:
            return _plain(404, "head: not here", **_SPOKEN)
        etag = f'"{Digest.of(envelope).hex()[:32]}"'
        headers = {**_SPOKEN, "ETag": etag}
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")]
        if etag in known or "*" in known:
            return web.Response(status=304, headers={**headers, **_NAMED})
        return web.Response(body=envelope, content_type="application/json", headers={**headers, **_NAMED})

    async def _chunk(self, request: web.BaseRequest, digest: Digest) -> web.StreamResponse:
        located = self._library.locate(digest)
        if located is None:
            return _plain(404, "chunk: not here")
        try:
            ranged = range_of(request.headers.get("Range"), located.length)
            first, length = ranged or (0, located.length)
            if not length:
                return _plain(416, "chunk: no such range", **{"Content-Range": f"bytes */{located.length}"})
            try:
                await self._disk.warm(located)
            except OSError:
                return _plain(404, "chunk: cannot be read")
            headers = {"Content-Length": str(length), **_NAMED}
            if ranged:
                headers["Content-Range"] = f"bytes {first}-{first + length - 1}/{located.length}"
            response = web.StreamResponse(status=206 if ranged else 200, headers=headers)
            await response.prepare(request)
            transport = request.transport
            if transport is not None:
                try:
                    await self._sender.file(transport, located, first, length)
                    self.meters.chunks += 1
                except OSError as error:
                    self.meters.broke(error)
                    transport.abort()
            return response
        finally:
            located.release()

    async def _whole(
        self,
        request: web.BaseRequest,
        data: bytes,
        status: int = 200,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers={**headers, "Content-Length": str(len(data)), **_NAMED})
        await response.prepare(request)
        for place in range(0, len(data), limits.SERVE_PIECE_BYTES_MAX):
            if not await self._write(request, response, data[place : place + limits.SERVE_PIECE_BYTES_MAX]):
                break
        return response

    async def _write(self, request: web.BaseRequest, response: web.StreamResponse, data: bytes) -> bool:
        transport = request.transport
        if transport is None:
            return False
        try:
            await self._sender.data(transport, data, response.write)
        except OSError as error:
            self.meters.broke(error)
            transport.abort()
            return False
        return True

    async def _post(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path not in ("/v1/nodes", "/v1/chunks"):
            return _plain(404, "no such resource")
        length = request.content_length
        if length is None:
            return _plain(411, "a batch needs a Content-Length")
        if length > limits.BATCH_DIGESTS_MAX * DIGEST_BYTES:
            return _plain(413, f"a batch has at most {limits.BATCH_DIGESTS_MAX} digests")
        try:
            async with asyncio.timeout(self._allowed.timeout_s):
                digests = decode_digests(await request.content.readexactly(length) if length else b"")
        except MalformedError as error:
            return _plain(400, str(error))
        except (TimeoutError, asyncio.IncompleteReadError):
            return _plain(408, "the batch did not arrive in time")
        return await (self._nodes if request.raw_path == "/v1/nodes" else self._chunks)(request, digests)

    async def _nodes(self, request: web.BaseRequest, digests: list[Digest]) -> web.StreamResponse:
        frames = await self._disk.run(lambda: batches.node_frames(self._library, digests))
        return await self._frames(request, frames, self._library.node)

    async def _chunks(self, request: web.BaseRequest, digests: list[Digest]) -> web.StreamResponse:
        frames = await self._disk.run(lambda: batches.chunk_frames(self._library, digests))
        if batches.payload_of(frames) > limits.BATCH_BYTES_MAX:
            return _plain(413, f"a batch is answered with at most {limits.BATCH_BYTES_MAX} bytes")
        return await self._frames(request, frames, partial(batches.read_chunk, self._library), self._count_chunks)

    def _count_chunks(self, piece: Sequence[batches.Frame]) -> None:
        self.meters.chunks += len(piece) - batches.absent(piece)

    async def _frames(
        self,
        request: web.BaseRequest,
        frames: Sequence[batches.Frame],
        read: Callable[[Digest], bytes | None],
        sent: Callable[[Sequence[batches.Frame]], None] | None = None,
    ) -> web.StreamResponse:
        """Answer a batch piece by piece. What changed since its length was said breaks the connection."""
        missing = batches.absent(frames)
        refusal = await self._put_off(request, missing / limits.MISSES_IN_BATCH) if missing else None
        if refusal is not None:
            return refusal
        response = web.StreamResponse(headers={"Content-Length": str(batches.size_of(frames)), **_NAMED})
        await response.prepare(request)
        for piece in batches.pieces(frames):
            data = await self._disk.run(partial(batches.gather, piece, read))
            if data is None or not await self._write(request, response, data):
                if request.transport is not None:
                    request.transport.abort()
                break
            if sent is not None:
                sent(piece)
        return response


def _is_own(address: str) -> bool:
    parsed = parse_address(address)
    return parsed is not None and parsed.is_loopback


def _plain(status: int, text: str, **headers: str) -> web.Response:
    return web.Response(status=status, text=text + "\n", headers={**headers, **_NAMED})
