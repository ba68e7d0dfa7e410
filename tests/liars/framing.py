"""HTTP sources that break HTTP, send their asker away, or end."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from tests.liars.answers import Answer, Request
from tests.liars.server import Liar, flood, read_request


class TwoLengths(Liar):
    """Says two lengths, one of which is right."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(answer.head().replace(b"\r\n\r\n", b"\r\nContent-Length: 7\r\n\r\n") + answer.body)


class Chunked(Liar):
    """Uses chunked coding where a length is due."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(answer.head(Content_Length=None, Transfer_Encoding="chunked"))
        writer.write(f"{len(answer.body):x}\r\n".encode() + answer.body + b"\r\n0\r\n\r\n")


class ChunkedWithLength(Liar):
    """Uses chunked coding and says a length too: two readers would find different ends."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(answer.head(Transfer_Encoding="chunked"))
        writer.write(f"{len(answer.body):x}\r\n".encode() + answer.body + b"\r\n0\r\n\r\n")


class GiantHead(Liar):
    """Never ends its head."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        await flood(writer, b"X-More: " + b"a" * 1000 + b"\r\n")


class GiantLine(Liar):
    """Sends one header line without end."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX-More: ")
        await flood(writer, b"a" * 1000)


class Garbage(Liar):
    """Answers with what is no HTTP at all."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(bytes(range(256)) * 8 + b"\r\n\r\n")


class OldHttp(Liar):
    """Answers in HTTP/0.9: the body alone."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(answer.body)
        await writer.drain()
        writer.close()


class Interim(Liar):
    """Sends interim answers without end."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        while True:
            writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.001)


class Redirect(Liar):
    """Sends the asker somewhere else."""

    target: ClassVar[str] = "http://169.254.169.254/latest"

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(Answer(302).head(Location=self.target))


class NotFound(Liar):
    """Answers 404 for what it offered."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(Answer(404, b"gone").head() + b"gone")


class ServerError(Liar):
    """Answers that it cannot answer now."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(Answer(503, b"busy").head() + b"busy")


class HangsUp(Liar):
    """Closes the connection instead of answering."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.close()


class PoliteCloser(Liar):
    """Honest, but closes each connection after two answers, announced or not. Not a lie: servers do so."""

    announced: bool = True

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for left in (1, 0):
            request = await read_request(reader)
            self.requests.append(request)
            answer = self.answers(request)
            last = {"Connection": "close"} if self.announced and not left else {}
            writer.write(answer.head(**last) + answer.body)
            await writer.drain()
