"""What a node waits for at most where nobody chose a time of his own: answers, readers, askers and neighbours."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest

from p2psync import limits
from p2psync.errors import SourceTimeoutError, SourceUnreachableError
from p2psync.transport import BufferPool, ChannelTimes, Hello, Reason, SiteChannel, SourceKind, Timeouts, connect
from tests import liars
from tests.adversarial.test_server import BIG, chunk_paths, get, serving
from tests.bounds import bounded
from tests.liars import Liar, PeerAnswers
from tests.liars.answers import Answer, Request
from tests.library import FolderLibrary, Version, make_version
from tests.neighbourhood import introduce, key_of, raw_channel, site, start_node, until

# Whatever is given up is given up within a second here. Far above that, so that a slow machine does not fail the test.
PATIENCE_S = 8.0
SOURCE, SERVER, CHANNEL = "p2psync.transport.source", "p2psync.transport.server", "p2psync.transport.channel"


@pytest.fixture
def version() -> Version:
    return make_version([limits.CHUNK_BYTES] * 12)


@pytest.fixture
async def answers(tmp_path: Path, version: Version) -> AsyncIterator[PeerAnswers]:
    library = FolderLibrary(tmp_path)
    library.add(version)
    yield PeerAnswers(library)
    library.close()


async def ask(url: str, version: Version, timeouts: Timeouts, *, fast: bool = True) -> None:
    """Ask for every chunk, and let go of what comes."""
    source = connect(url, SourceKind.LAN, timeouts=timeouts, fast=fast)
    try:
        async with asyncio.timeout(PATIENCE_S):
            async for _, buffer in source.chunks(version.chunks, BufferPool(3)):
                buffer.release()
    finally:
        await source.close()


@pytest.mark.parametrize(
    ("kind", "bounds", "message"),
    [
        (liars.Mute, {"RESPONSE_TIMEOUT_S": 0.3}, "sent no byte of .* within 0.3 s"),
        (
            liars.Dribble,
            {"RESPONSE_TIMEOUT_S": 1.0, "RATE_MIN_BYTES_PER_S": 1e6, "RATE_WINDOW_S": 0.3},
            "slower than .* B/s",
        ),
        (liars.SilentInBody, {"RESPONSE_TIMEOUT_S": 1.0, "RATE_WINDOW_S": 0.3}, "slower than 1024 B/s"),
    ],
    ids=["mute", "dribble", "silent"],
)
async def test_a_source_is_given_up(
    kind: type[Liar],
    bounds: dict[str, float],
    message: str,
    answers: PeerAnswers,
    version: Version,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that does not answer, that dribbles or that falls silent is a source that timed out, and says at what."""
    timeouts = bounded(monkeypatch, SOURCE, **bounds).Timeouts()
    async with kind(answers).running() as url:
        with pytest.raises(SourceTimeoutError, match=message):
            await ask(url, version, timeouts)


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "aiohttp"])
async def test_a_machine_that_does_not_connect_is_given_up(
    fast: bool, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listener with a full queue lets the kernel drop whoever else comes, as a machine that is off does."""
    timeouts = bounded(monkeypatch, SOURCE, CONNECT_TIMEOUT_S=0.3).Timeouts()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        callers = [socket.socket() for _ in range(4)]
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(full.getsockname())
        with pytest.raises(SourceUnreachableError, match=re.escape("did not connect in 0.3 s")):
            await ask(f"http://127.0.0.1:{full.getsockname()[1]}", version, timeouts, fast=fast)
        for caller in callers:
            caller.close()


class Withholding(Liar):
    """Reads what it is asked for and answers none of it."""

    async def lie(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        pass


async def test_requests_ahead_of_their_answers_are_bounded(answers: PeerAnswers, version: Version) -> None:
    """One connection is asked for a few chunks ahead, and for no more until one of them came."""
    liar = Withholding(answers)
    async with liar.running() as url:
        with pytest.raises(SourceTimeoutError):
            await ask(url, version, Timeouts(response_s=0.5))
    assert sum("/chunks/" in request.path for request in liar.requests) == limits.PIPELINE_REQUESTS_MAX


async def test_an_asker_that_does_not_finish_is_sent_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a body is not waited for."""
    allowed = bounded(monkeypatch, SERVER, SERVE_TIMEOUT_S=0.3).ServeLimits()
    async with serving(tmp_path, [10], allowed) as served, asyncio.timeout(PATIENCE_S):
        begin = get("/v1/chunks", "Content-Length: 64", method="POST") + bytes(10)
        assert b" 200 " not in await served.say(begin)
        assert await served.is_well()


async def test_a_reader_below_the_lowest_rate_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads all the time, and too slowly: it does not get everything."""
    allowed = bounded(monkeypatch, SERVER, SERVE_TIMEOUT_S=0.2, SERVE_RATE_MIN_BYTES_PER_S=1 << 30).ServeLimits()
    async with serving(tmp_path, BIG, allowed) as served:
        plug = socket.socket()
        # With a small window the server sees at once what was read.
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        plug.connect(("127.0.0.1", int(served.url.rpartition(":")[2])))
        reader, writer = await asyncio.open_connection(sock=plug)
        writer.write(b"".join(get(path) for path in chunk_paths(served.version)))
        got = 0
        try:
            while got < sum(BIG) and (part := await reader.read(1 << 17)):
                got += len(part)
                await asyncio.sleep(0.05)
        except ConnectionError:
            pass
        writer.close()
        assert got < sum(BIG)


async def test_a_silent_neighbour_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was a neighbour and says nothing more is none, and is not told so."""
    times = bounded(monkeypatch, CHANNEL, KEEPALIVE_S=0.1, CHANNEL_SILENCE_S=0.4).ChannelTimes()
    async with site(start_node(1, times=times)) as (node,), raw_channel(node.url) as webs:
        await introduce(webs, 9)
        await until(lambda: len(node.joined) == 1)
        await until(lambda: len(node.left) == 1, PATIENCE_S)
        assert node.left == [(node.joined[0].id, "silent")]


class Deaf:
    """A WebSocket whose other side neither reads nor says goodbye."""

    closed = False

    def get_extra_info(self, name: str) -> object:
        return ("192.0.2.1", 7000) if name == "peername" else None

    async def close(self, **_words: object) -> None:
        await asyncio.Event().wait()


def deaf_channel(times: ChannelTimes) -> SiteChannel:
    hello = Hello(key_of(9).verify_key, bytes(32), "berlin", 0, "puppet")
    return SiteChannel(Deaf(), hello, times, dialled=True, rtt_s=0.0)  # type: ignore[arg-type]


async def test_a_goodbye_that_is_not_answered_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel ends though the other side does not say that it heard so."""
    channel = deaf_channel(bounded(monkeypatch, CHANNEL, CHANNEL_CLOSE_TIMEOUT_S=0.1).ChannelTimes())
    monkeypatch.setattr(Deaf, "get_extra_info", lambda *_: SimpleNamespace(shutdown=lambda _how: None))
    async with asyncio.timeout(PATIENCE_S):
        await channel.close(Reason.LEAVING)
    assert channel.reason is Reason.LEAVING


async def test_messages_that_wait_for_a_neighbour_are_bounded() -> None:
    """However small they are: one more than may wait ends the channel, as it is not read."""
    channel = deaf_channel(ChannelTimes())
    assert all(channel.send(b"\1") for _ in range(limits.CHANNEL_QUEUE_MESSAGES_MAX))
    assert not channel.send(b"\1")
    assert channel.reason is Reason.OVERFLOW
    assert len(channel._queue) == limits.CHANNEL_QUEUE_MESSAGES_MAX


async def test_handshakes_in_all_are_bounded() -> None:
    """Addresses that keep to their own share together get no more than all may have."""
    async with site(start_node(1)) as (node,):
        sessions = [
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, local_addr=(f"127.0.0.{number}", 0)))
            for number in (2, 3, 4)
        ]
        held = [
            await sessions[number // limits.HANDSHAKES_PER_ADDRESS_MAX].ws_connect(f"{node.url}/v1/site")
            for number in range(limits.HANDSHAKES_MAX)
        ]
        with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
            await sessions[-1].ws_connect(f"{node.url}/v1/site")
        for webs in held:
            await webs.close()
        for session in sessions:
            await session.close()


async def test_neighbours_of_one_address_are_bounded() -> None:
    """Somebody who makes up keys gets so many channels, each of them proved, and no more."""
    async with site(start_node(1)) as (node,), aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as asker:
        held = [await asker.ws_connect(f"{node.url}/v1/site")]
        await introduce(held[0], 10)
        while len(held) < limits.CHANNELS_PER_ADDRESS_MAX:
            held.append(await asker.ws_connect(f"{node.url}/v1/site"))
            await introduce(held[-1], 9 + len(held))
        await until(lambda: len(node.joined) == limits.CHANNELS_PER_ADDRESS_MAX)
        with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
            await asker.ws_connect(f"{node.url}/v1/site")
        for webs in held:
            await webs.close()
