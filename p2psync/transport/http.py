"""HTTP by aiohttp: everything over HTTPS and through a proxy. Imported only where a source needs it.

What aiohttp raises becomes one of the errors of ``source`` here. Redirects are never followed, nothing is
decompressed, no cookie is kept, no credential file is read, and no answer is read without a cap, a deadline and a
lowest rate.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp

from p2psync.errors import RemoteProtocolError, SourceTimeoutError, SourceUnreachableError, WithdrawnError
from p2psync.limits import HTTP_HEAD_BYTES_MAX, IDLE_CLIENT_S
from p2psync.transport.buffers import BufferPool
from p2psync.transport.endpoint import Endpoint
from p2psync.transport.exchange import (
    AnswerHead,
    Exchange,
    Landed,
    Reply,
    Segment,
    Watch,
    body_length,
    check_answer,
)
from p2psync.transport.source import Meter, Timeouts, Wire


class HttpClient:
    """Requests to one endpoint. For one event loop."""

    def __init__(self, endpoint: Endpoint, proxy: str | None, timeouts: Timeouts, wire: Wire) -> None:
        self.endpoint = endpoint
        self._proxy = proxy
        self._timeouts = timeouts
        self._wire = wire
        self._session: aiohttp.ClientSession | None = None
        self._waits: set[asyncio.Timeout] = set()
        self._closed = False

    async def get(self, path: str, bytes_max: int, headers: Mapping[str, str] | None = None) -> Reply:
        """Read a resource of at most ``bytes_max`` bytes. 200, 304 and ``GONE`` are answers, the rest errors."""
        return await self._whole(Exchange(path, ()), bytes_max, headers)

    async def post(self, path: str, body: bytes, bytes_max: int) -> Reply:
        """Send ``body`` and read an answer of at most ``bytes_max`` bytes."""
        return await self._whole(Exchange(path, (), body=body), bytes_max, None)

    async def get_range(self, path: str, first: int, length: int) -> bytes | None:
        """Exactly those bytes of a resource; None for a 404."""
        exchange = Exchange(path, (Segment((), length),), first=first)
        answer = await self._ask(exchange)
        try:
            check_answer(self.endpoint.url, exchange, answer.head)
            return await answer.read_all(length)
        except WithdrawnError:
            return None
        finally:
            answer.close()

    async def fetch(self, exchanges: Sequence[Exchange], pool: BufferPool) -> AsyncGenerator[Landed]:
        """Run the exchanges one after another and yield each segment in order."""
        for exchange in exchanges:
            answer = await self._ask(exchange)
            try:
                left = check_answer(self.endpoint.url, exchange, answer.head)
                answer.start_clock(left)
                for segment in exchange.segments:
                    buffer = await pool.acquire()
                    length = min(left, segment.length)
                    try:
                        answer.start_clock(left)  # Waiting for a buffer is not the source's fault.
                        await answer.read_into(buffer.view(length), exchange.meter)
                    except BaseException:
                        buffer.release()
                        raise
                    left -= length
                    yield Landed(segment, buffer, length)
            finally:
                answer.close()

    async def close(self) -> None:
        """Close every connection."""
        self._closed = True
        now_s = asyncio.get_running_loop().time()
        for wait in self._waits:
            wait.reschedule(now_s)
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def within(self, path: str, expires_s: float) -> AsyncIterator[None]:
        """Wait for the source in this: until a time of the loop's clock, or until the client is closed.

        Raises what ``Source`` promises instead of what aiohttp raises.
        """
        with self._errors(path):
            async with asyncio.timeout_at(expires_s) as wait:
                self._waits.add(wait)
                try:
                    yield
                finally:
                    self._waits.discard(wait)

    async def _whole(self, exchange: Exchange, bytes_max: int, headers: Mapping[str, str] | None) -> Reply:
        answer = await self._ask(exchange, headers)
        try:
            head = answer.head
            body = await answer.read_all(body_length(self.endpoint.url, exchange.path, head, bytes_max))
            return Reply(head.status, body if head.status == 200 else b"", head.etag, head.protocol)
        finally:
            answer.close()

    async def _ask(self, exchange: Exchange, headers: Mapping[str, str] | None = None) -> _Answer:
        """Send a request and wait for the head of its answer."""
        session = self._open()
        if exchange.range is not None:
            headers = {"Range": exchange.range}
        patience_s = self._timeouts.connect_s + self._timeouts.response_s
        async with self.within(exchange.path, asyncio.get_running_loop().time() + patience_s):
            response = await session.request(
                "GET" if exchange.body is None else "POST",
                f"{self.endpoint.dialled_url}/{exchange.path}",
                headers={"Host": self.endpoint.authority, **(headers or {})},
                data=exchange.body,
                allow_redirects=False,
                proxy=self._proxy,
            )
        try:
            return _Answer(self, exchange.path, response, self._timeouts)
        except BaseException:
            response.close()
            raise

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        url, timeouts = self.endpoint.url, self._timeouts
        try:
            yield
        except aiohttp.ConnectionTimeoutError as error:
            raise SourceUnreachableError(f"{url} did not connect in {timeouts.connect_s:g} s") from error
        except TimeoutError as error:
            if self._closed:
                raise SourceUnreachableError(f"the connection to {url} was closed") from error
            raise SourceTimeoutError(f"{url} sent no byte of {path} within {timeouts.response_s:g} s") from error
        except aiohttp.ClientPayloadError as error:
            raise _broken_body(url, path, error) from error
        except aiohttp.ClientHttpProxyError as error:
            raise SourceUnreachableError(f"the proxy for {url} refused: {error.status} {error.message}") from error
        except (aiohttp.ClientConnectionError, OSError, UnicodeError) as error:
            # A certificate that nobody signed is a ValueError too; a host name that cannot be one is a UnicodeError.
            raise SourceUnreachableError(f"{url} cannot be reached: {error}") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise RemoteProtocolError(f"{url} answered {path} with broken HTTP: {str(error)[:300]}") from error

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise SourceUnreachableError(f"the connection to {self.endpoint.url} was closed")
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=IDLE_CLIENT_S,
                socket_factory=lambda info: _CountedSocket(self._wire, info[0], info[1], info[2]),
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, connect=self._timeouts.connect_s),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                max_line_size=HTTP_HEAD_BYTES_MAX // 2,
                max_field_size=HTTP_HEAD_BYTES_MAX // 2,
            )
        return self._session


class _Answer:
    """One answer whose head is here and whose body is read by the caller."""

    def __init__(self, client: HttpClient, path: str, response: aiohttp.ClientResponse, timeouts: Timeouts) -> None:
        self._client = client
        self._url = client.endpoint.url
        self._path = path
        self._response = response
        self._timeouts = timeouts
        self._loop = asyncio.get_running_loop()
        self.head = _head_of(self._url, path, response)
        self.start_clock(self.head.length or 0)

    def start_clock(self, length: int) -> None:
        """From now on the remaining ``length`` bytes have their full time."""
        self._received = 0
        self._watch = Watch(self._timeouts, length, self._loop.time())

    async def read_into(self, view: memoryview, meter: Meter | None) -> None:
        """Fill ``view`` from the body."""
        place = 0
        while place < len(view):
            data = await self._read(len(view) - place)
            view[place : place + len(data)] = data
            place += len(data)
            if meter is not None:
                meter.received += len(data)

    async def read_all(self, length: int) -> bytes:
        """The whole body of ``length`` bytes."""
        whole = bytearray()
        while len(whole) < length:
            whole += await self._read(length - len(whole))
        return bytes(whole)

    async def _read(self, bytes_max: int) -> bytes:
        try:
            async with self._client.within(self._path, self._watch.expires_s):
                data = await self._response.content.read(bytes_max)
        except SourceTimeoutError as error:
            raise self._watch.error(self._url, self._path) from error
        if not data:
            raise SourceUnreachableError(f"{self._url} ended the answer to {self._path} early")
        self._received += len(data)
        self._watch.saw(self._received, self._loop.time())
        return data

    def close(self) -> None:
        """Free the connection: it is kept if the body was read to its end and broken otherwise."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


def _head_of(url: str, path: str, response: aiohttp.ClientResponse) -> AnswerHead:
    headers = response.headers
    lengths = headers.getall("Content-Length", [])
    if len(lengths) > 1 or not all(length.isdecimal() and length.isascii() for length in lengths):
        raise RemoteProtocolError(f"{url} answered {path} with the Content-Length {lengths!r}")
    return AnswerHead(
        status=response.status,
        length=int(lengths[0]) if lengths else None,
        content_range=headers.get("Content-Range"),
        location=headers.get("Location"),
        coded="Transfer-Encoding" in headers,
        etag=headers.get("ETag"),
        protocol=headers.get("P2PSync-Protocol"),
    )


def _broken_body(url: str, path: str, error: aiohttp.ClientPayloadError) -> SourceUnreachableError:
    return SourceUnreachableError(f"{url} ended the answer to {path} early: {error}")


class _CountedSocket(socket.socket):
    """A socket that adds what the kernel took and gave to a ``Wire``. Below TLS, so that its records count."""

    def __init__(self, wire: Wire, family: int, kind: int, protocol: int) -> None:
        super().__init__(family, kind, protocol)
        self._wire = wire

    def recv(self, *args: Any) -> bytes:
        data = super().recv(*args)
        self._wire.received += len(data)
        return data

    def recv_into(self, *args: Any) -> int:
        count = super().recv_into(*args)
        self._wire.received += count
        return count

    def send(self, *args: Any) -> int:
        count = super().send(*args)
        self._wire.sent += count
        return count

    def sendmsg(self, *args: Any) -> int:
        count = super().sendmsg(*args)
        self._wire.sent += count
        return count
