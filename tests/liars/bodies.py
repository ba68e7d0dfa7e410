"""HTTP sources that send other bytes, or more or fewer of them, than what was asked for."""

from __future__ import annotations

import asyncio
import socket
import struct
import zlib
from functools import cache
from typing import ClassVar

import zstandard

from p2psync.content import DIGEST_BYTES
from tests.liars.answers import Answer, Answers, Request
from tests.liars.server import Liar, flood


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


class ResetNearEnd(Liar):
    """Resets the connection at 99 % of a body."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.write(answer.head() + answer.body[: len(answer.body) * 99 // 100])
        await writer.drain()
        await asyncio.sleep(0.05)  # What is still under way at a reset may be lost; let it arrive.
        writer.transport.abort()


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


class NoContent(Liar):
    """Answers 204 to a request for bytes."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(Answer(204).head(Content_Length=None))


class GiantInventory(Liar):
    """Says that it holds a thousand million chunks, and begins to list them."""

    chunks: ClassVar[int] = 10**9

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(answer.head(Content_Length=str(self.chunks // 8)))
        await flood(writer, b"\xff")


class Bomb(Liar):
    """Sends, in the length that was asked for, what would unpack to 256 MiB, and says in which coding it is."""

    codings: ClassVar[tuple[str, ...]] = ("gzip", "zstd")

    def __init__(self, answers: Answers) -> None:
        super().__init__(answers)
        self.bombs = [_bomb(coding) for coding in self.codings]  # It takes a second: not while somebody waits.

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        turn = len(self.requests) % len(self.codings)
        body = self.bombs[turn][: len(answer.body)].ljust(len(answer.body), b"\0")
        head = Answer(answer.status, body, answer.headers).head(Content_Encoding=self.codings[turn])
        writer.write(head + body)


@cache
def _bomb(coding: str) -> bytes:
    """256 MiB of zeros, coded."""
    block = bytes(1 << 20)
    coder = zlib.compressobj(wbits=31) if coding == "gzip" else zstandard.ZstdCompressor().compressobj(size=1 << 28)
    return b"".join(coder.compress(block) for _ in range(256)) + coder.flush()


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
