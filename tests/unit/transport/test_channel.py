"""Messages cross a channel whole and in order, it says why it ends, and a server neither times it nor waits for it."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiohttp import WSMsgType

from p2psync.errors import ChannelRefusedError, DigestMismatchError, UsageError
from p2psync.limits import CHANNEL_MESSAGE_BYTES_MAX
from p2psync.transport import Channels, ChannelTimes, Hello, Reason, ServeLimits, Speaker
from p2psync.transport.handshake import decode_hello, encode_hello
from tests.neighbourhood import introduce, key_of, meet, raw_channel, site, start_node, until

QUICK = ChannelTimes(handshake_s=2.0, keepalive_s=0.05, silence_s=0.5, close_s=0.5)


async def test_messages_cross_whole_and_in_order() -> None:
    """A thousand messages of all sizes arrive as they were sent, in both directions."""
    async with site(start_node(1)) as (one,), site(start_node(2, one.url)) as (two,):
        await meet(one, two)
        sent = [bytes([1 + number % 255]) * (1 + number * 37 % 4000) for number in range(1000)]
        for message in sent:
            assert one.neighbours.send(two.id, message)
            assert two.neighbours.send(one.id, message)
            await asyncio.sleep(0)
        await until(lambda: len(one.messages) == len(two.messages) == 1000)
        assert two.messages == [(one.id, message) for message in sent]
        assert one.messages == [(two.id, message) for message in sent]


async def test_both_ends_count_the_same_bytes() -> None:
    """What one end counts as sent the other counts as received, handshake and frames included."""
    async with site(start_node(1)) as (one,), site(start_node(2, one.url)) as (two,):
        await meet(one, two)
        for length in (1, 125, 126, 65535, 65536, CHANNEL_MESSAGE_BYTES_MAX):
            one.neighbours.send(two.id, b"\1" * length)
            two.neighbours.send(one.id, b"\1" * length)
        await until(lambda: len(one.messages) == len(two.messages) == 6)
        ends = [one.neighbours.live()[0], two.neighbours.live()[0]]
        assert (ends[0].sent_bytes, ends[0].received_bytes) == (ends[1].received_bytes, ends[1].sent_bytes)
        # The dialler masks its frames: four bytes for each of eight.
        assert ends[1].sent_bytes - ends[0].sent_bytes == 8 * 4


async def test_a_channel_outlives_what_a_server_allows_others() -> None:
    """A channel stays past the server's idle time, and is held up by keepalives alone."""
    allowed = ServeLimits(idle_s=0.1, timeout_s=0.1)
    starts = start_node(1, times=QUICK, allowed=allowed), start_node(2, times=QUICK, allowed=allowed)
    async with site(*starts) as (one, two), site(start_node(3, one.url, two.url, times=QUICK)) as (three,):
        await until(lambda: len(three.ids()) == 2)
        await asyncio.sleep(QUICK.silence_s * 2)
        assert three.left == []
        assert one.neighbours.live()[0].sent_bytes > 0


async def test_a_server_does_not_wait_for_channels() -> None:
    """A server that stops breaks channels at once, though it gives other answers their grace."""
    async with site(start_node(1)) as (one,), site(start_node(2, one.url)) as (two,):
        await meet(one, two)
        began_s = time.monotonic()
        await one.server.stop(30.0)
        assert time.monotonic() - began_s < 10.0
        await until(lambda: [reason for _, reason in two.left] == ["lost"])


async def test_a_goodbye_is_understood() -> None:
    """A node that stops says so, and the other side hears that word and not a broken connection."""
    async with site(start_node(1)) as (one,), site(start_node(2, one.url)) as (two,):
        await meet(one, two)
        await two.neighbours.stop()
        await until(lambda: one.left == [(two.id, "leaving")])


async def test_our_own_errors_in_a_callback_end_the_channel() -> None:
    """A message that the caller refuses ends the channel as malformed; the other side is told."""
    async with site(start_node(1)) as (one,):

        def refuse(_sender: str, _message: bytes) -> None:
            raise DigestMismatchError("not this")

        one.neighbours._on_message = refuse
        async with raw_channel(one.url) as webs:
            await introduce(webs, 9)
            await webs.send_bytes(b"\7")
            await until(lambda: [reason for _, reason in one.left] == ["malformed"])


async def test_a_bug_in_a_callback_ends_one_channel(caplog: pytest.LogCaptureFixture) -> None:
    """What is no error of ours is logged and costs that channel, and the node goes on."""
    async with site(start_node(1)) as (one,):

        def fail(_sender: str, _message: bytes) -> None:
            raise ZeroDivisionError

        one.neighbours._on_message = fail
        async with raw_channel(one.url) as webs:
            await introduce(webs, 9)
            await webs.send_bytes(b"\7")
            await until(lambda: [reason for _, reason in one.left] == ["lost"])
        assert "was not handled" in caplog.text
        async with raw_channel(one.url) as webs:
            await introduce(webs, 8)
            await until(lambda: len(one.joined) == 2)


async def test_sending_needs_a_neighbour_and_a_tag() -> None:
    """A message to nobody is not sent; one without a tag of the caller's, or too large, is the caller's fault."""
    async with site(start_node(1)) as (one,), site(start_node(2, one.url)) as (two,):
        await meet(one, two)
        assert not one.neighbours.send("0" * 64, b"\1")
        for message in (b"", b"\0gossip", b"\1" * (CHANNEL_MESSAGE_BYTES_MAX + 1)):
            with pytest.raises(UsageError):
                one.neighbours.send(two.id, message)


async def test_the_round_trip_is_measured() -> None:
    """The handshake gives both ends a round-trip time, which on loopback is positive and short."""
    async with site(start_node(1)) as (one,), site(start_node(2, one.url)) as (two,):
        await meet(one, two)
        assert all(0 < node.neighbours.live()[0].rtt_s < 2.0 for node in (one, two))


async def test_a_node_that_stopped_dials_nobody() -> None:
    """No connection is opened that nobody would close."""
    me = Speaker(key_of(1), "berlin")
    channels = Channels(me, admit=lambda _hello, _dialled: None, serve=None, refused=None)  # type: ignore[arg-type]
    await channels.close()
    with pytest.raises(ChannelRefusedError, match="this node stops") as caught:
        await channels.dial("http://127.0.0.1:9")
    assert caught.value.reason is Reason.LEAVING


async def test_whom_the_node_does_not_admit_is_told_why_and_gets_no_proof() -> None:
    """Who is refused by its introduction learns the reason, and nothing signed by this node."""
    async with site(start_node(1)) as (one,):
        one.neighbours._channels._admit = lambda _hello, _dialled: Reason.FULL
        async with raw_channel(one.url) as webs:
            await webs.send_bytes(encode_hello(Hello(key_of(9).verify_key, bytes(32), "berlin", 0, "puppet")))
            assert decode_hello(await webs.receive_bytes()).node == one.id
            end = await webs.receive()
            assert (end.type, end.extra) == (WSMsgType.CLOSE, "full")
        await until(lambda: one.refusals() == ["full"])
        assert one.joined == []
