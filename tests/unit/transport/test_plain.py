"""Whole answers over plain HTTP: what is kept, what is asked again, what is refused, and that it needs no aiohttp."""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from p2psync.errors import P2PSyncError, RemoteProtocolError, SourceTimeoutError, SourceUnreachableError
from p2psync.limits import HTTP_HEAD_BYTES_MAX
from p2psync.transport.endpoint import parse_endpoint
from p2psync.transport.plain import PlainClient, _Line
from p2psync.transport.source import Timeouts, Wire

SOON = Timeouts(connect_s=1.0, response_s=0.3, rate_min_bytes_per_s=1000.0, window_s=0.3)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Scripted:
    """A server that answers the n-th request of each connection by the n-th script, and closes after the last."""

    def __init__(self, *scripts: bytes | Callable[[asyncio.StreamWriter], object]) -> None:
        self.scripts = scripts
        self.requests: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            for script in self.scripts:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                if isinstance(script, bytes):
                    writer.write(script)
                elif asyncio.iscoroutine(running := script(writer)):
                    await running
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def client_of(server: Scripted) -> AsyncIterator[PlainClient]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    client = PlainClient(parse_endpoint(f"http://127.0.0.1:{port}/base"), SOON, Wire())
    try:
        async with asyncio.timeout(10):
            yield client
    finally:
        await client.close()
        listening.close()
        await listening.wait_closed()


async def test_connection_is_kept_between_answers() -> None:
    """Answers that were read to their end leave the connection for the next request; every byte is counted."""
    missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone"
    unchanged = b'HTTP/1.1 304 Not Modified\r\nETag: "e"\r\nContent-Length: 5\r\n\r\n'
    server = Scripted(OK, missing, unchanged, OK)
    async with client_of(server) as client:
        assert (await client.get("a", 5)).body == b"hello"
        assert (await client.get("b", 5)).status == 404
        reply = await client.get("c", 5, {"If-None-Match": '"e"'})
        assert (reply.status, reply.body, reply.etag) == (304, b"", '"e"')
        assert (await client.post("d", b"", 5)).body == b"hello"
        wire = client._wire
        assert wire.received == len(OK + missing + unchanged + OK)
        assert wire.sent == sum(map(len, server.requests))
    assert server.connections == 1
    assert server.requests[0].startswith(b"GET /base/a HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b'If-None-Match: "e"\r\n' in server.requests[2]


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 9999\r\n\r\n" + OK,
        b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n" + OK,
    ],
    ids=["closing", "long error page", "coded error page"],
)
async def test_connection_with_something_left_in_it_is_not_kept(first: bytes) -> None:
    """What stands behind an answer that was not read to its end is never taken for the next one."""
    server = Scripted(first, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")
    async with client_of(server) as client:
        assert (await client.get("a", 5)).status in (200, 404)
        await client.get("a", 5)
    assert server.connections == 2


async def test_connection_that_was_closed_while_idle_is_replaced() -> None:
    """A server may close a connection between two answers: the next request goes over a new one."""
    server = Scripted(OK)
    async with client_of(server) as client:
        for _ in range(3):
            assert (await client.get("a", 5)).body == b"hello"
    assert server.connections == 3


async def test_connection_that_was_reset_while_idle_is_replaced() -> None:
    """A restart of the server resets what it had kept: that is no fault of the answer that was asked for next."""

    def reset(writer: asyncio.StreamWriter) -> None:
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    server = Scripted(OK, reset)
    async with client_of(server) as client:
        assert (await client.get("a", 5)).body == b"hello"
        assert (await client.get("b", 5)).body == b"hello"
    assert server.connections == 2
    assert len(server.requests) == 3
    async with client_of(Scripted(reset)) as client:
        with pytest.raises(SourceUnreachableError, match="ended the answer to a early"):
            await client.get("a", 5)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (b"", SourceUnreachableError),
        (OK[:-1], SourceUnreachableError),
        (OK[:20], SourceUnreachableError),
        (b"hello", RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello!", RemoteProtocolError),
        (b"HTTP/1.1 301 Moved\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n", RemoteProtocolError),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", SourceUnreachableError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2 * HTTP_HEAD_BYTES_MAX + b"\r\n\r\n", RemoteProtocolError),
        (lambda _writer: asyncio.sleep(5), SourceTimeoutError),
        (lambda writer: (writer.write(OK[:-1]), asyncio.sleep(5))[1], SourceTimeoutError),
    ],
)
async def test_wrong_answer_ends_in_its_error(
    script: bytes | Callable[[asyncio.StreamWriter], object], error: type[P2PSyncError]
) -> None:
    """Every way in which an answer can be wrong, short or late has its error, on a first connection."""
    async with client_of(Scripted(script)) as client:
        with pytest.raises(error):
            await client.get("a", 5)


async def test_an_ended_connection_is_not_read_on() -> None:
    """Reading on at its end gives nothing at once, for ever, and no deadline would be looked at."""

    class Ended(asyncio.StreamReader):
        reads = 0

        async def read(self, n: int = -1) -> bytes:
            self.reads += 1
            assert self.reads == 1, "an ended connection was read again"
            return b""

    reader = Ended()
    line = _Line("http://x", SOON, Wire(), reader, None)  # type: ignore[arg-type]
    with pytest.raises(SourceUnreachableError, match="ended the answer to a early"):
        await line.body("a", 5)


async def test_range_must_be_the_one_that_was_asked() -> None:
    """A range comes whole or not at all; where the file is gone the answer is None."""
    right = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 7-11/100\r\nContent-Length: 5\r\n\r\nhello"
    server = Scripted(right, right.replace(b"7-11", b"8-12"))
    async with client_of(server) as client:
        assert await client.get_range("a", 7, 5) == b"hello"
        assert b"Range: bytes=7-11\r\n" in server.requests[0]
        with pytest.raises(RemoteProtocolError):
            await client.get_range("a", 7, 5)
    async with client_of(Scripted(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")) as client:
        assert await client.get_range("a", 7, 5) is None


async def test_closing_ends_running_calls() -> None:
    """A waiting call ends in SourceUnreachableError when the client is closed, and so does a later one."""
    async with client_of(Scripted(OK, lambda _writer: asyncio.sleep(5))) as client:
        await client.get("a", 5)
        call = asyncio.create_task(client.get("b", 5))
        await asyncio.sleep(0.05)
        await client.close()
        with pytest.raises(SourceUnreachableError):
            await call
        with pytest.raises(SourceUnreachableError):
            await client.get("c", 5)


def test_plain_sources_need_no_aiohttp() -> None:
    """Whoever connects to a plain http or file URL never loads aiohttp."""
    code = """
import asyncio, sys
from p2psync.transport import SourceKind, connect
async def main():
    for url in ("http://127.0.0.1:9", "file:///nowhere"):
        source = connect(url, SourceKind.LAN)
        try:
            await source.head("acme/model", "latest")
        except Exception as error:
            print(type(error).__name__)
        await source.close()
asyncio.run(main())
print("aiohttp" in sys.modules, "urllib.request" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["SourceUnreachableError", "ModelNotFoundError", "False", "False"]
