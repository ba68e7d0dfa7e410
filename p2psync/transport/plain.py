"""Whole answers over plain HTTP/1.1: heads, nodes, inventories and ranges of an origin tree.

As strict as the lanes that bring chunks, and small enough that a pull from plain sources never imports aiohttp,
which takes longer than bringing a small model. One request at a time on a connection; a connection that the server
closed while it was idle is replaced once, anything else is the source's fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Final, TypeVar

from p2psync.errors import RemoteProtocolError, SourceTimeoutError, SourceUnreachableError, WithdrawnError
from p2psync.limits import HTTP_HEAD_BYTES_MAX
from p2psync.transport.endpoint import Endpoint
from p2psync.transport.exchange import (
    AnswerHead,
    Exchange,
    Reply,
    Segment,
    Watch,
    body_length,
    check_answer,
    encode_request,
)
from p2psync.transport.http_head import read_head
from p2psync.transport.source import Timeouts, Wire

_T = TypeVar("_T")
_BEGIN: Final = b"HTTP/1.1 "
_END: Final = b"\r\n\r\n"


class _IdleClosedError(Exception):
    """The server closed a kept connection before it answered: its right, between two answers."""


class PlainClient:
    """Requests to one endpoint that needs no TLS, no login and no proxy. For one event loop."""

    def __init__(self, endpoint: Endpoint, timeouts: Timeouts, wire: Wire) -> None:
        self._endpoint = endpoint
        self._timeouts = timeouts
        self._wire = wire
        self._idle: list[_Line] = []
        self._busy: set[_Line] = set()
        self._closed = False

    async def get(self, path: str, bytes_max: int, headers: Mapping[str, str] | None = None) -> Reply:
        """See ``Client.get``."""
        return await self._whole(Exchange(path, ()), bytes_max, headers)

    async def post(self, path: str, body: bytes, bytes_max: int) -> Reply:
        """See ``Client.post``."""
        return await self._whole(Exchange(path, (), body=body), bytes_max, None)

    async def get_range(self, path: str, first: int, length: int) -> bytes | None:
        """See ``Client.get_range``."""
        exchange = Exchange(path, (Segment((), length),), first=first)
        line, head = await self._ask(exchange, None)
        try:
            body = await line.body(path, check_answer(self._endpoint.url, exchange, head))
        except WithdrawnError:
            return None
        finally:
            self._return(line)
        return body

    async def close(self) -> None:
        """See ``Client.close``."""
        self._closed = True
        for line in [*self._idle, *self._busy]:
            line.break_()
        self._idle.clear()

    async def _whole(self, exchange: Exchange, bytes_max: int, headers: Mapping[str, str] | None) -> Reply:
        line, head = await self._ask(exchange, headers)
        try:
            body = await line.body(exchange.path, body_length(self._endpoint.url, exchange.path, head, bytes_max))
            # What follows a body that was not read is no answer to the next request.
            line.keep = line.keep and (head.status in (200, 304) or (head.length == len(body) and not head.coded))
        finally:
            self._return(line)
        return Reply(head.status, body if head.status == 200 else b"", head.etag, head.protocol)

    async def _ask(self, exchange: Exchange, headers: Mapping[str, str] | None) -> tuple[_Line, AnswerHead]:
        """Send a request and wait for the head of its answer. Whoever asked returns the line."""
        request = encode_request(self._endpoint, exchange, headers)
        while True:
            line = await self._lease()
            try:
                return line, await line.ask(exchange.path, request)
            except _IdleClosedError:
                # Each turn uses up a kept connection, so this ends.
                self._return(line)
            except BaseException:
                self._return(line)
                raise

    async def _lease(self) -> _Line:
        while self._idle:
            line = self._idle.pop()
            if line.open:
                break
            line.break_()
        else:
            line = await self._connect()
        line.keep = False
        self._busy.add(line)
        return line

    def _return(self, line: _Line) -> None:
        """Keep a line whose answer was read to its end; break any other, so that nothing of it is read later."""
        self._busy.discard(line)
        if line.keep and line.open and not self._closed:
            self._idle.append(line)
        else:
            line.break_()

    async def _connect(self) -> _Line:
        endpoint = self._endpoint
        if self._closed:
            raise SourceUnreachableError(f"the connection to {endpoint.url} was closed")
        try:
            async with asyncio.timeout(self._timeouts.connect_s):
                reader, writer = await asyncio.open_connection(
                    endpoint.host,
                    endpoint.port,
                    limit=HTTP_HEAD_BYTES_MAX,
                    happy_eyeballs_delay=endpoint.eyeballs_s,
                )
        except TimeoutError as error:
            raise SourceUnreachableError(f"{endpoint.url} did not connect in {self._timeouts.connect_s:g} s") from error
        except (OSError, UnicodeError) as error:
            raise SourceUnreachableError(f"{endpoint.url} cannot be reached: {error}") from error
        return _Line(endpoint.url, self._timeouts, self._wire, reader, writer)


class _Line:
    """One connection. ``keep`` is whether the answer that was read last leaves it fit for another request."""

    def __init__(
        self, url: str, timeouts: Timeouts, wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._url = url
        self._timeouts = timeouts
        self._wire = wire
        self._reader = reader
        self._writer = writer
        self._answered = False
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self.keep = False

    @property
    def open(self) -> bool:
        """Whether the server has not closed it."""
        return not self._reader.at_eof() and not self._writer.is_closing()

    def break_(self) -> None:
        """Close it now. A call that waits for it ends in ``SourceUnreachableError``."""
        self._writer.transport.abort()

    async def ask(self, path: str, request: bytes) -> AnswerHead:
        """Send a request and read the head of its answer.

        Raises:
            _IdleClosedError: the server had closed the connection since its last answer.
            RemoteProtocolError: what came is no head.
        """
        self._wire.sent += len(request)
        self._writer.write(request)
        expires_s = self._loop.time() + self._timeouts.response_s
        try:
            raw = await self._within(path, expires_s, self._reader.readuntil(_END))
        except asyncio.LimitOverrunError as error:
            raise RemoteProtocolError(f"{self._url} sent a head of more than {HTTP_HEAD_BYTES_MAX} bytes") from error
        except asyncio.IncompleteReadError as error:
            self._wire.received += len(error.partial)
            if self._answered and not error.partial:
                raise _IdleClosedError from error
            if not error.partial.startswith(_BEGIN[: len(error.partial)]):
                raise RemoteProtocolError(f"not an HTTP/1.1 answer: {error.partial[:80]!r}") from error
            raise self._early(path) from error
        except OSError as error:
            if self._answered:
                raise _IdleClosedError from error
            raise self._early(path) from error
        self._wire.received += len(raw)
        head = read_head(raw[: -len(_END)])
        self._closing = head.closing
        return head

    async def body(self, path: str, length: int) -> bytes:
        """Read the body that follows a head, to its end."""
        watch = Watch(self._timeouts, length, self._loop.time())
        whole = bytearray()
        while len(whole) < length:
            try:
                data = await self._within(path, watch.expires_s, self._reader.read(length - len(whole)))
            except SourceTimeoutError as error:
                raise watch.error(self._url, path) from error
            except OSError as error:
                raise self._early(path) from error
            if not data:
                raise self._early(path)
            self._wire.received += len(data)
            whole += data
            watch.saw(len(whole), self._loop.time())
        self._answered = True
        self.keep = not self._closing
        return bytes(whole)

    async def _within(self, path: str, expires_s: float, read: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout_at(expires_s):
                return await read
        except TimeoutError as error:
            raise SourceTimeoutError(
                f"{self._url} sent no byte of {path} within {self._timeouts.response_s:g} s"
            ) from error

    def _early(self, path: str) -> SourceUnreachableError:
        return SourceUnreachableError(f"{self._url} ended the answer to {path} early")
