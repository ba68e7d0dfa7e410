"""Whoever pretends, replays, stalls or floods at the site route is sent away with a word, and nobody else notices."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web

from p2psync.errors import ChannelRefusedError
from p2psync.limits import CHANNEL_MESSAGE_BYTES_MAX, CHANNEL_QUEUE_BYTES_MAX
from p2psync.swarm.gossip import Whereabouts, encode_gossip
from p2psync.transport import Channels, ChannelTimes, Hello, Reason, ServeLimits, Speaker
from p2psync.transport.handshake import encode_hello, transcript
from tests.neighbourhood import closing_word, introduce, key_of, raw_channel, site, start_node, until

HASTY = ChannelTimes(handshake_s=0.3, keepalive_s=0.1, silence_s=0.4, close_s=0.2)
HELLO = encode_hello(Hello(key_of(9).verify_key, bytes(32), "berlin", 0, "puppet"))


def hello(number: int = 9, **changes: object) -> bytes:
    """A hello of a key that nobody uses, with a change."""
    facts = {"key": key_of(number).verify_key, "nonce": bytes(32), "site": "berlin", "port": 0, "software": "puppet"}
    return encode_hello(Hello(**{**facts, **changes}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "word"),
    [
        (hello(site="hamburg"), "site"),
        (hello(site=""), "site"),
        (hello().replace(b"P2PS\x01", b"P2PS\x02"), "protocol"),
        (b"GET / HTTP/1.1\r\n\r\n", "malformed"),
        (hello()[:40], "malformed"),
        (hello() + bytes(1024), "malformed"),
        (b"", "malformed"),
    ],
)
async def test_introductions_that_are_refused(first: bytes, word: str) -> None:
    """Another site, our own key, another protocol and noise: each ends with its word, and nobody joined."""
    async with site(start_node(1)) as (node,), raw_channel(node.url) as webs:
        await webs.send_bytes(first)
        assert await closing_word(webs) == word
        assert node.joined == []


async def test_our_own_key_is_ourselves_or_is_to_be_proved() -> None:
    """Our own introduction that comes back is ourselves; another one with our key is believed with a proof alone."""
    async with site(start_node(1)) as (node,):
        async with raw_channel(node.url) as webs:
            await webs.send_bytes(await webs.receive_bytes())
            assert await closing_word(webs) == "self"
        async with raw_channel(node.url) as webs:
            await webs.send_bytes(hello(number=1))
            await webs.receive_bytes()
            await webs.send_bytes(bytes(64))
            assert await closing_word(webs) == "signature"
        assert node.joined == []
        assert node.neighbours.bans() == []


async def test_a_stolen_id_is_refused() -> None:
    """Whoever shows a key that it does not hold is refused by its signature."""
    async with site(start_node(1)) as (node,), raw_channel(node.url) as webs:
        await webs.send_bytes(HELLO)
        theirs = await webs.receive_bytes()
        await webs.send_bytes(key_of(8).sign(transcript(of_dialler=True, dialler=HELLO, listener=theirs)))
        # The node proved itself meanwhile: both sides do at once.
        assert await closing_word(webs) == "signature"
        assert node.joined == []
        await until(lambda: node.refusals() == ["signature"])


async def test_a_replayed_handshake_is_refused() -> None:
    """What an honest node said on one connection opens no other: the listener's nonce is new."""
    async with site(start_node(1)) as (node,):
        async with raw_channel(node.url) as first:
            await first.send_bytes(HELLO)
            theirs = await first.receive_bytes()
            proof = key_of(9).sign(transcript(of_dialler=True, dialler=HELLO, listener=theirs))
            await first.send_bytes(proof)
            await until(lambda: len(node.joined) == 1)
        await until(lambda: len(node.left) == 1)
        async with raw_channel(node.url) as second:
            await second.send_bytes(HELLO)
            await second.receive_bytes()
            await second.send_bytes(proof)
            assert await closing_word(second) == "signature"
        assert len(node.joined) == 1


async def test_a_reflected_proof_is_refused() -> None:
    """A listener's own signature, sent back to it, proves nothing: it signed another role."""
    async with site(start_node(1)) as (node,), raw_channel(node.url) as webs:
        await webs.send_bytes(HELLO)
        await webs.receive_bytes()
        await webs.send_bytes(await webs.receive_bytes())
        assert await closing_word(webs) == "signature"
        assert node.joined == []


@pytest.mark.parametrize("sent", [b"", HELLO])
async def test_silence_in_the_handshake_ends_in_time(sent: bytes) -> None:
    """Whoever says nothing, or proves nothing, is sent away when the handshake's time is over."""
    async with site(start_node(1, times=HASTY)) as (node,), raw_channel(node.url) as webs:
        if sent:
            await webs.send_bytes(sent)
        assert await closing_word(webs) == "slow"
        await until(lambda: node.refusals() == ["slow"])


async def test_text_and_pings_are_refused() -> None:
    """A channel carries binary messages only, before and after the handshake."""
    async with site(start_node(1)) as (node,):
        async with raw_channel(node.url) as webs:
            await webs.send_str("hello")
            assert await closing_word(webs) == "malformed"
        async with raw_channel(node.url) as webs:
            await introduce(webs, 9)
            await webs.send_str("hello")
            assert await closing_word(webs) == "malformed"
        async with raw_channel(node.url) as webs:
            await introduce(webs, 9)
            await webs.ping()
            assert await closing_word(webs) == "malformed"
        await until(lambda: [reason for _, reason in node.left] == ["malformed", "malformed"])


async def test_a_message_over_the_cap_ends_the_channel() -> None:
    """A message of more than 1 MiB is not taken in; one of exactly that is."""
    async with site(start_node(1)) as (node,), raw_channel(node.url) as webs:
        await introduce(webs, 9)
        await webs.send_bytes(b"\1" * CHANNEL_MESSAGE_BYTES_MAX)
        await until(lambda: len(node.messages) == 1)
        await webs.send_bytes(b"\1" * (CHANNEL_MESSAGE_BYTES_MAX + 1))
        await until(lambda: [reason for _, reason in node.left] == ["malformed"])
        assert len(node.messages) == 1


@pytest.mark.parametrize(
    "message", [b"\0\1", b"\0" + bytes(8) + b"\5" + bytes(6), b"\0" + 257 * (bytes(8) + b"\4" + bytes(6))]
)
async def test_malformed_gossip_ends_the_channel(message: bytes) -> None:
    """A neighbour whose gossip does not follow its format is let go."""
    async with site(start_node(1)) as (node,), raw_channel(node.url) as webs:
        await introduce(webs, 9)
        await webs.send_bytes(message)
        assert await closing_word(webs) == "malformed"


async def test_a_flood_of_gossip_is_not_read() -> None:
    """A neighbour that gossips without end is read no more than its share; its other messages are."""
    async with site(start_node(1)) as (node,), raw_channel(node.url) as webs:
        await introduce(webs, 9)
        for number in range(200):
            entries = [Whereabouts(f"{number * 256 + each:016x}", "127.0.0.1", 1 + each) for each in range(256)]
            await webs.send_bytes(encode_gossip(entries))
        await webs.send_bytes(b"\1done")
        await until(lambda: len(node.messages) == 1)
        assert node.neighbours.live()[0].received_bytes > 200 * 256 * 15
        said = {place.prefix for place in node.neighbours._acquaintances._places.values()}
        assert len(said) <= 256
        assert max(int(str(prefix), 16) for prefix in said) < 16 * 256


async def test_whoever_does_not_read_is_dropped() -> None:
    """What waits for one neighbour is bounded: one that stops reading loses its channel, and the sender knows."""
    async with site(start_node(1)) as (node,), raw_channel(node.url) as webs:
        await introduce(webs, 9)
        await until(lambda: len(node.joined) == 1)
        sent = 0
        while node.neighbours.send(node.joined[0].id, b"\1" * CHANNEL_MESSAGE_BYTES_MAX):
            sent += 1
            await asyncio.sleep(0)
            assert sent < 64
        # Beside the queue, the kernel's buffers take some.
        assert sent >= CHANNEL_QUEUE_BYTES_MAX // CHANNEL_MESSAGE_BYTES_MAX
        await until(lambda: [reason for _, reason in node.left] == ["overflow"])


async def test_whoever_reads_nothing_and_is_sent_little_is_dropped_in_time() -> None:
    """A neighbour that says something but does not read is dropped, however little waits for it."""
    async with site(start_node(1, times=HASTY)) as (node,), raw_channel(node.url) as webs:
        await introduce(webs, 9)
        await until(lambda: len(node.joined) == 1)
        other = node.joined[0].id
        channel = node.neighbours._contacts[other].channel
        async with asyncio.timeout(20):
            while not node.left:
                if not channel._queued_bytes:  # The kernel's buffers take some megabytes first.
                    channel.send(b"\1" * CHANNEL_MESSAGE_BYTES_MAX)
                await webs.send_bytes(b"")
                await asyncio.sleep(0.05)
        assert node.left == [(other, "overflow")]


async def test_silence_ends_a_channel_in_time() -> None:
    """A neighbour whose cable was pulled is missed after the limit, without a goodbye; keepalives were sent to it."""
    async with site(start_node(1, times=HASTY)) as (node,), raw_channel(node.url) as webs:
        await introduce(webs, 9)
        await until(lambda: len(node.joined) == 1)
        began_s = asyncio.get_running_loop().time()
        await until(lambda: len(node.left) == 1)
        assert asyncio.get_running_loop().time() - began_s >= HASTY.silence_s * 0.9
        assert node.left == [(node.joined[0].id, "silent")]
        assert await webs.receive_bytes() == b""


async def test_a_flood_of_handshakes_leaves_room_for_the_server() -> None:
    """Connections that never prove anything are bounded by caps of their own; the node answers others meanwhile."""
    allowed = ServeLimits(connections_max=8, connections_per_address_max=8)
    async with site(start_node(1, allowed=allowed)) as (node,), aiohttp.ClientSession() as session:
        held = [await session.ws_connect(f"{node.url}/v1/site") for _ in range(32)]
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect(f"{node.url}/v1/site")
        assert caught.value.status == 503
        async with session.get(f"{node.url}/v1/node") as answer:
            assert answer.status == 200
        for webs in held:
            await webs.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://example.org"}, 403),
        ({"Sec-WebSocket-Protocol": "chat"}, 403),
        ({"Upgrade": "h2c"}, 400),
        ({}, 400),
    ],
)
async def test_what_is_no_node_is_refused_without_a_channel(headers, status, caplog) -> None:
    """A page in a browser, another protocol and a plain request are refused, each with its connection, unlogged."""
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    async with site(start_node(1)) as (node,), aiohttp.ClientSession() as session:
        sent = {**upgrade, **headers} if headers else {}
        async with session.get(f"{node.url}/v1/site", headers=sent) as answer:
            assert answer.status == status
            assert answer.headers["Connection"] == "close"
    assert caplog.records == []


async def test_a_redirect_is_not_followed() -> None:
    """A node that sends its callers elsewhere is refused, and nobody goes there."""
    asked = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(status=302, headers={"Location": "/elsewhere"})

    server = web.Server(answer)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    channels = lone_channels()
    try:
        with pytest.raises(ChannelRefusedError, match="redirect") as caught:
            await channels.dial(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
        assert caught.value.reason == Reason.PROTOCOL
        assert asked == ["/v1/site"]
    finally:
        await channels.close()
        listener.close()
        await server.shutdown(0.1)


async def test_a_listener_that_says_nothing_is_given_up() -> None:
    """A port that accepts and is silent costs a dial no more than the time of a handshake."""
    writers: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(lambda _reader, writer: writers.append(writer), "127.0.0.1", 0)
    channels = lone_channels()
    try:
        with pytest.raises(ChannelRefusedError) as caught:
            await channels.dial(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
        assert caught.value.reason == Reason.UNREACHABLE
    finally:
        await channels.close()
        listener.close()
        for writer in writers:
            writer.close()


def lone_channels() -> Channels:
    async def serve(channel: object) -> None:
        raise AssertionError

    return Channels(
        Speaker(key_of(3)),
        admit=lambda _hello, _dialled: None,
        serve=serve,
        refused=lambda _address, _error: None,
        times=HASTY,
    )
