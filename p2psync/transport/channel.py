"""A site channel: whole messages to and from one node that proved its key, over a WebSocket.

Memory is bounded: a node that does not read what is queued for it is dropped. Time is bounded: something is said
every 10 s, and 30 s without a word end a channel, so a crash or a pulled cable is noticed without a goodbye.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Final

import aiohttp
from aiohttp import WSMsgType, web

from p2psync import limits
from p2psync.errors import ChannelRefusedError, P2PSyncError, UsageError
from p2psync.manifest import SigningKey
from p2psync.transport.handshake import (
    NONCE_BYTES,
    Hello,
    Reason,
    check_proof,
    decode_hello,
    encode_hello,
    node_id_of,
    transcript,
)
from p2psync.transport.interfaces import host_text, listens_on
from p2psync.transport.server import SOFTWARE

_CODE_GOODBYE: Final = 1000
_CODE_REFUSED: Final = 4000
_MASK_BYTES: Final = 4
_IN_A_ROW: Final = 64
_ENDS: Final = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED)

WebSocket = aiohttp.ClientWebSocketResponse[bool] | web.WebSocketResponse[bool]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who speaks on this side. ``host`` is the address it listens on: empty for all interfaces, None for none."""

    key: SigningKey
    site: str = ""
    host: str | None = None
    port: int = 0
    software: str = SOFTWARE
    # Nonces of the handshakes that are under way: by them a node tells itself from another machine with its key.
    nonces: set[bytes] = field(default_factory=set, compare=False)

    def __post_init__(self) -> None:
        if len(self.site.encode()) > limits.SITE_ID_BYTES_MAX:
            raise UsageError(f"a site's id has at most {limits.SITE_ID_BYTES_MAX} bytes: {self.site[:80]!r}")

    @property
    def node(self) -> str:
        """The node's id."""
        return node_id_of(self.key.verify_key)

    def hello(self, local_address: str) -> Hello:
        """Introduce this node on a connection whose own end is ``local_address``.

        The port is said only where it is listened on, so that nobody is sent to an address that refuses.
        """
        port = self.port if listens_on(self.host, local_address) else 0
        return Hello(self.key.verify_key, os.urandom(NONCE_BYTES), self.site, port, self.software)


@dataclass(frozen=True, slots=True)
class ChannelTimes:
    """The clocks of a channel, in seconds. Tests shrink these."""

    handshake_s: float = limits.HANDSHAKE_TIMEOUT_S
    keepalive_s: float = limits.KEEPALIVE_S
    silence_s: float = limits.CHANNEL_SILENCE_S
    close_s: float = limits.CHANNEL_CLOSE_TIMEOUT_S


async def shake(
    webs: WebSocket,
    me: Speaker,
    times: ChannelTimes,
    *,
    dialled: bool,
    admit: Callable[[Hello, bool], Reason | None],
) -> SiteChannel:
    """Introduce both sides to each other and prove both keys; ``admit`` may refuse before this side signs.

    Raises:
        ChannelRefusedError: no channel comes about. The WebSocket was closed with the reason.
    """
    own = me.hello(_address(webs, "sockname"))
    me.nonces.add(own.nonce)
    try:
        async with asyncio.timeout(times.handshake_s):
            return await _shake(webs, me, own, times, dialled=dialled, admit=admit)
    except TimeoutError as error:
        refusal = ChannelRefusedError("the node did not introduce itself in time", reason=Reason.SLOW)
        await _farewell(webs, Reason.SLOW, times.close_s)
        raise refusal from error
    except ChannelRefusedError as error:
        await _farewell(webs, Reason(error.reason), times.close_s)
        raise
    except (OSError, aiohttp.ClientError) as error:
        await _farewell(webs, Reason.LOST, times.close_s)
        raise ChannelRefusedError(f"the connection broke: {error}", reason=Reason.LOST) from error
    finally:
        me.nonces.discard(own.nonce)


async def _shake(
    webs: WebSocket,
    me: Speaker,
    introduction: Hello,
    times: ChannelTimes,
    *,
    dialled: bool,
    admit: Callable[[Hello, bool], Reason | None],
) -> SiteChannel:
    loop = asyncio.get_running_loop()
    own = encode_hello(introduction)
    began_s = loop.time()
    await webs.send_bytes(own)
    theirs = await _expect(webs, limits.HELLO_BYTES_MAX)
    hello = decode_hello(theirs)
    if hello.nonce in me.nonces:
        raise ChannelRefusedError("the node dialled itself", reason=Reason.SELF)
    if hello.site != me.site:
        raise ChannelRefusedError(
            f"the node belongs to site {hello.site!r}, this one to {me.site!r}", reason=Reason.SITE
        )
    cloned = hello.key == me.key.verify_key
    refused = None if cloned else admit(hello, dialled)
    if refused is not None:
        raise ChannelRefusedError(f"the node {hello.node[:16]} is refused: {refused}", reason=refused)
    dialler, listener = (own, theirs) if dialled else (theirs, own)
    proof = me.key.sign(transcript(of_dialler=dialled, dialler=dialler, listener=listener))
    await webs.send_bytes(proof)
    signature = await _expect(webs, limits.HELLO_BYTES_MAX)
    # The other side signed our nonce, so what lies between is one round trip and its work.
    rtt_s = loop.time() - began_s
    check_proof(hello, transcript(of_dialler=not dialled, dialler=dialler, listener=listener), signature)
    if cloned:
        raise ChannelRefusedError("another machine has this node's key", reason=Reason.CLONED)
    channel = SiteChannel(webs, hello, times, dialled=dialled, rtt_s=rtt_s)
    channel.sent_bytes += _on_wire(len(own), masked=dialled) + _on_wire(len(proof), masked=dialled)
    channel.received_bytes += _on_wire(len(theirs), masked=not dialled)
    channel.received_bytes += _on_wire(len(signature), masked=not dialled)
    return channel


async def _expect(webs: WebSocket, bytes_max: int) -> bytes:
    """One binary message of the handshake."""
    message = await webs.receive()
    if message.type is WSMsgType.BINARY and len(message.data) <= bytes_max:
        return bytes(message.data)
    if message.type in _ENDS:
        reason = _reason_of(message.extra)
        raise ChannelRefusedError(f"the node ended the introduction: {reason}", reason=reason)
    raise ChannelRefusedError("the node sent something that is no introduction", reason=Reason.MALFORMED)


class SiteChannel:
    """Messages to and from one node. Made by ``shake``; nothing moves until ``run``."""

    def __init__(self, webs: WebSocket, peer: Hello, times: ChannelTimes, *, dialled: bool, rtt_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._webs = webs
        self._times = times
        self.peer = peer
        self.node = peer.node
        self.dialled = dialled
        self.address = _address(webs, "peername")
        self.rtt_s = rtt_s
        self.since_s = self._heard_s = self._spoke_s = self._loop.time()
        # Bytes of WebSocket frames, keepalives included; TCP and IP headers are not.
        self.sent_bytes = 0
        self.received_bytes = 0
        self.reason: Reason | None = None
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._work = asyncio.Event()
        self._tick: asyncio.TimerHandle | None = None

    def send(self, message: bytes) -> bool:
        """Queue a message. False if the channel has ended, or ends because the other side does not read.

        Raises:
            UsageError: the message is larger than one may be.
        """
        if len(message) > limits.CHANNEL_MESSAGE_BYTES_MAX:
            raise UsageError(f"a message of {len(message)} bytes; {limits.CHANNEL_MESSAGE_BYTES_MAX} is the most")
        if self.reason is not None:
            return False
        full = len(self._queue) >= limits.CHANNEL_QUEUE_MESSAGES_MAX
        if full or self._queued_bytes + len(message) > limits.CHANNEL_QUEUE_BYTES_MAX:
            self.cut(Reason.OVERFLOW)
            return False
        self._queue.append(message)
        self._queued_bytes += len(message)
        self._work.set()
        return True

    async def run(self, on_message: Callable[[bytes], None]) -> Reason:
        """Carry messages until the channel ends, and say why it did. Call once.

        What ``on_message`` raises of ours ends the channel: the other side sent what nobody may send.
        """
        writer = asyncio.create_task(self._write())
        self._watch()
        try:
            await self._read(on_message)
        finally:
            self._end(Reason.LOST)
            if self._tick is not None:
                self._tick.cancel()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            self._queue.clear()
            if not self._webs.closed:
                self._hang_up()
        return self.reason or Reason.LOST

    async def close(self, reason: Reason) -> None:
        """Say goodbye and why, and end within the time that a goodbye may take."""
        self._end(reason)
        await _farewell(self._webs, self.reason or reason, self._times.close_s)

    def cut(self, reason: Reason) -> None:
        """End at once, for an other side that would not hear a goodbye."""
        self._end(reason)
        self._hang_up()

    def _end(self, reason: Reason) -> None:
        """The first reason is the one that counts."""
        if self.reason is None:
            self.reason = reason

    def _hang_up(self) -> None:
        plug = self._webs.get_extra_info("socket")
        if plug is not None:
            with suppress(OSError):  # It is gone already.
                plug.shutdown(socket.SHUT_RDWR)

    async def _read(self, on_message: Callable[[bytes], None]) -> None:
        for number in count(1):
            if number % _IN_A_ROW == 0:
                await asyncio.sleep(0)  # A burst of small messages is read without a pause; others want a turn.
            message = await self._webs.receive()
            if message.type is not WSMsgType.BINARY:
                reason = _reason_to_end(message.type, message.data, message.extra)
                self._end(reason)
                if reason is Reason.MALFORMED:
                    await self.close(reason)
                return
            self._heard_s = self._loop.time()
            self.received_bytes += _on_wire(len(message.data), masked=not self.dialled)
            if not message.data or self.reason is not None:
                continue  # A keepalive, or words after the end.
            try:
                on_message(message.data)
            except P2PSyncError as error:
                log.debug("the node %s sent what is not allowed: %s", self.node[:16], error)
                await self.close(Reason.MALFORMED)
                return

    async def _write(self) -> None:
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                while self._queue:
                    message = self._queue.popleft()
                    await self._webs.send_bytes(message)
                    self._queued_bytes -= len(message)
                    self._spoke_s = self._loop.time()
                    self.sent_bytes += _on_wire(len(message), masked=self.dialled)
        except (OSError, aiohttp.ClientError):
            self.cut(Reason.LOST)

    def _watch(self) -> None:
        """Keep the channel alive, and end it where the other side is silent or does not read."""
        now_s, times = self._loop.time(), self._times
        if now_s - self._heard_s >= times.silence_s:
            self.cut(Reason.SILENT)
            return
        if now_s - self._spoke_s >= times.silence_s:
            self.cut(Reason.OVERFLOW)  # The writer has been waiting for room since.
            return
        if now_s - self._spoke_s >= times.keepalive_s and not self._queued_bytes:
            self.send(b"")
        next_s = min(self._spoke_s + times.keepalive_s, self._heard_s + times.silence_s)
        self._tick = self._loop.call_at(max(next_s, now_s + times.keepalive_s / 10), self._watch)


async def _farewell(webs: WebSocket, reason: Reason, timeout_s: float) -> None:
    """Close with a reason, and end the connection where that takes too long or cannot be said."""
    code = _CODE_GOODBYE if reason is Reason.LEAVING else _CODE_REFUSED
    with suppress(OSError, aiohttp.ClientError, RuntimeError):
        try:
            async with asyncio.timeout(timeout_s):
                await webs.close(code=code, message=reason.value.encode())
        finally:
            plug = webs.get_extra_info("socket")
            if plug is not None:
                plug.shutdown(socket.SHUT_RDWR)


def _reason_to_end(kind: WSMsgType, data: object, extra: object) -> Reason:
    """Why a channel ends with something that is no binary message."""
    if kind in _ENDS:
        return _reason_of(extra)
    broken = kind is WSMsgType.ERROR and not isinstance(data, aiohttp.WebSocketError)
    return Reason.LOST if broken else Reason.MALFORMED


def _reason_of(word: object) -> Reason:
    """The word in a close frame; whatever is no word of ours is a lost connection."""
    try:
        return Reason(str(word))
    except ValueError:
        return Reason.LOST


def _on_wire(length: int, *, masked: bool) -> int:
    """Bytes of a WebSocket frame with ``length`` bytes of payload (RFC 6455, section 5.2)."""
    header = 2 if length < 126 else 4 if length < 65536 else 10
    return header + (_MASK_BYTES if masked else 0) + length


def _address(webs: WebSocket, end: str) -> str:
    return host_text(webs.get_extra_info(end))
