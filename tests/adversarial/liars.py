"""Servers that lie, one class per behaviour, each wrapped around honest answers.

They speak raw bytes, so that they can break HTTP. A liar lies on the resources that ``about`` names and is
honest everywhere else. ``PeerAnswers`` and ``TreeAnswers`` are the honest sides of a peer and of an origin tree.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from p2psync.content import DIGEST_BYTES, Digest
from tests.library import FolderLibrary

ABSENT = b"\xff\xff\xff\xff"


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def head(self, **changed: str | None) -> bytes:
        """The bytes of a head. A header that is changed to None is left out."""
        headers = {"Content-Length": str(len(self.body)), **self.headers}
        headers |= {name.replace("_", "-"): value for name, value in changed.items() if value is not None}
        dropped = [name.replace("_", "-") for name, value in changed.items() if value is None]
        lines = [f"{name}: {value}" for name, value in headers.items() if name not in dropped]
        return "\r\n".join([f"HTTP/1.1 {self.status} Whatever", *lines, "\r\n"]).encode()


class Answers(Protocol):
    def __call__(self, request: Request) -> Answer: ...


class PeerAnswers:
    """What an honest peer answers."""

    def __init__(self, library: FolderLibrary) -> None:
        self.library = library

    def __call__(self, request: Request) -> Answer:
        _, _, resource, *rest = request.path.split("/")
        spoken = {"P2PSync-Protocol": "1"}
        if resource == "node":
            return Answer(200, b"{}", spoken)
        if resource == "heads":
            name, selector = "/".join(rest[:-2]), rest[-1] if rest[-2] == "tags" else f"b3:{rest[-1]}"
            envelope = self.library.head(name, selector)
            return Answer(404, b"", spoken) if envelope is None else Answer(200, envelope, {**spoken, "ETag": '"e"'})
        read = {"nodes": self.library.node, "have": self.library.inventory, "chunks": self.chunk}[resource]
        if request.method == "POST":
            digests = [request.body[at : at + DIGEST_BYTES] for at in range(0, len(request.body), DIGEST_BYTES)]
            bodies = [read(Digest(raw)) for raw in digests]
            return Answer(
                200, b"".join(ABSENT if body is None else struct.pack("<I", len(body)) + body for body in bodies)
            )
        body = read(Digest(bytes.fromhex(rest[0])))
        return Answer(404) if body is None else in_part(request, body, {})

    def chunk(self, digest: Digest) -> bytes | None:
        path, offset, length, _ = self.library.places.get(digest, (Path(), 0, 0, (0, 0)))
        return path.read_bytes()[offset : offset + length] if length else None


class TreeAnswers:
    """What an honest web server answers for an origin tree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, request: Request) -> Answer:
        path = self.folder / request.path.lstrip("/")
        if not path.is_file():
            return Answer(404)
        body = path.read_bytes()
        return in_part(request, body, {"ETag": '"e"'})


def in_part(request: Request, body: bytes, headers: dict[str, str]) -> Answer:
    """All of a body, or the range of it that was asked for."""
    if "range" not in request.headers:
        return Answer(200, body, headers)
    first, last = (int(text) for text in request.headers["range"].removeprefix("bytes=").split("-"))
    return Answer(206, body[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(body)}"})


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


class Silent(Liar):
    """Takes the connection and never answers; breaks it when the asker goes."""

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            pass


class Mute(Liar):
    """Reads a request and never answers it."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        await for_ever()


class FlippedBit(Liar):
    """Flips one bit of every body."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        body = bytearray(answer.body)
        body[len(body) // 2] ^= 4
        writer.write(answer.head() + body)


class AnotherChunk(Liar):
    """Gives the bytes of another chunk of the same length."""

    other: bytes = b""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        # There is no other chunk of the length of a small one.
        lies = "range" in request.headers or len(answer.body) == len(self.other)
        body = self.other[: len(answer.body)] if lies else answer.body
        writer.write(Answer(answer.status, body, answer.headers).head() + body)


class ShortBody(Liar):
    """Ends every body after half of what its length promised."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(answer.head() + answer.body[: len(answer.body) // 2])
        await writer.drain()
        writer.close()


class EndlessBody(Liar):
    """Never says how long its body is, and never ends it."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(answer.head(Content_Length=None, Connection="close"))
        await flood(writer, answer.body)


class EndlessTail(Liar):
    """Sends what was asked, and then more without end."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(answer.head())
        await flood(writer, answer.body)


class Dribble(Liar):
    """Sends one byte at a time, with long pauses."""

    pause_s: ClassVar[float] = 0.05

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(answer.head())
        for byte in answer.body:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(self.pause_s)


class DribbledHead(Liar):
    """Sends its head one byte at a time, with long pauses."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        for byte in answer.head(X_Padding="a" * 4000):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(Dribble.pause_s)


class SilentInBody(Liar):
    """Falls silent in the middle of a body."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(answer.head() + answer.body[: len(answer.body) // 2])
        await writer.drain()
        await for_ever()


class SilentAfterHead(Liar):
    """Falls silent after the head."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(answer.head())
        await writer.drain()
        await for_ever()


class ResetNearEnd(Liar):
    """Resets the connection at 99 % of a body."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.write(answer.head() + answer.body[: len(answer.body) * 99 // 100])
        await writer.drain()
        await asyncio.sleep(0.05)  # What is still under way at a reset may be lost; let it arrive.
        writer.transport.abort()


class NotFound(Liar):
    """Answers 404 for what it offered."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(Answer(404, b"gone").head() + b"gone")


class Redirect(Liar):
    """Sends the asker somewhere else."""

    target: ClassVar[str] = "http://169.254.169.254/latest"

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(Answer(302).head(Location=self.target))


class LengthTooLong(Liar):
    """Says that its body is one byte longer than what was asked for, and sends it."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(answer.head(Content_Length=str(len(answer.body) + 1)) + answer.body + b"x")


class LengthTooShort(Liar):
    """Says that its body is one byte shorter than what was asked for, and sends it."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(answer.head(Content_Length=str(len(answer.body) - 1)) + answer.body[:-1])


class LengthGiant(Liar):
    """Announces a petabyte."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(answer.head(Content_Length=str(10**15)) + answer.body)


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


class NoContent(Liar):
    """Answers 204 to a request for bytes."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(Answer(204).head(Content_Length=None))


class OtherStatus(Liar):
    """Answers a whole resource with 206 and a range with the whole resource."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        if answer.status == 206:
            whole = self.answers(Request("GET", request.path, {}, b""))
            writer.write(whole.head() + whole.body)
            return
        size = len(answer.body)
        writer.write(Answer(206, answer.body).head(Content_Range=f"bytes 0-{size - 1}/{size}") + answer.body)


class OtherRange(Liar):
    """Answers a range with another range of the same length."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(answer.head(Content_Range=f"bytes 1-{len(answer.body)}/999999999") + answer.body)


class ServerError(Liar):
    """Answers that it cannot answer now."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(Answer(503, b"busy").head() + b"busy")


class HangsUp(Liar):
    """Closes the connection instead of answering."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.close()


class OtherHead(Liar):
    """Gives the head of another name, rightly signed."""

    def __init__(self, answers: Answers, other: bytes) -> None:
        super().__init__(answers, lambda request: "/heads/" in request.path)
        self.other = other

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(Answer(200, self.other, answer.headers).head() + self.other)


class PutsOff(Liar):
    """Answers a batch with "later" for everything, for ever."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        body = b"\xfe\xff\xff\xff" * (len(request.body) // DIGEST_BYTES)
        writer.write(Answer(200, body).head() + body)


class BrokenFrames(Liar):
    """Answers a batch whose last frame says more bytes than follow."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        body = struct.pack("<I", len(answer.body)) + answer.body[4:]
        writer.write(Answer(200, body).head() + body)


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
