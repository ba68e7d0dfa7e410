"""An HTTP server that speaks raw bytes, so that it can break HTTP, and lies where its subclass says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.liars.answers import Answer, Answers, Request


class Liar:
    """An honest server; each subclass changes how an answer is sent."""

    def __init__(self, answers: Answers, about: Callable[[Request], bool] | None = None) -> None:
        self.answers = answers
        self.about = about or (lambda request: "/chunks" in request.path or "/packs/" in request.path)
        self.requests: list[Request] = []
        self.connections = 0
        self._talks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Serve; yields the URL."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            talks = list(self._talks)
            for talk in talks:
                talk.cancel()
            await asyncio.gather(*talks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        talk = asyncio.current_task()
        assert talk is not None
        self._talks.add(talk)
        try:
            await self.converse(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self._talks.discard(talk)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await read_request(reader)
            self.requests.append(request)
            answer = self.answers(request)
            if self.about(request) and answer.status in (200, 206):
                await self.lie(writer, request, answer)
            else:
                writer.write(answer.head() + answer.body)
            await writer.drain()

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(answer.head() + answer.body)


async def read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, body)


async def for_ever() -> None:
    """Wait until the test ends."""
    await asyncio.Event().wait()


async def flood(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Repeat some bytes until the test ends."""
    while True:
        writer.write(data * (65_536 // len(data) + 1))
        await writer.drain()
        await asyncio.sleep(0)
