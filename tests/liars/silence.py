"""HTTP sources that keep their asker waiting."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from tests.liars.answers import Answer, Request
from tests.liars.server import Liar, for_ever


class Silent(Liar):
    """Takes the connection and never answers; breaks it when the asker goes."""

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            pass


class Mute(Liar):
    """Reads a request and never answers it."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        await for_ever()


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
