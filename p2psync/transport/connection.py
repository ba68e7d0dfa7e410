"""One plain HTTP/1.1 connection whose answers land in pooled buffers, straight from the socket.

Requests may be asked ahead of their answers. The socket writes into the buffer of the current segment; only the
few bytes that arrive together with a head are copied. Where no buffer is free the connection stops reading, and its
clock stops with it. Nothing is raised into the event loop: a fault is kept in ``error`` for the lane that reads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final, cast

from p2psync.errors import P2PSyncError, RemoteProtocolError, SourceUnreachableError
from p2psync.limits import HTTP_HEAD_BYTES_MAX
from p2psync.transport.buffers import Buffer, BufferPool
from p2psync.transport.endpoint import Endpoint
from p2psync.transport.exchange import Exchange, Landed, Segment, Watch, check_answer, encode_request
from p2psync.transport.http_head import read_head
from p2psync.transport.source import Meter, Timeouts, Wire

# Segments that may land ahead of the lane that takes them.
_AHEAD_MAX: Final = 2


@dataclass(slots=True)
class _Landing:
    """A segment that is being received: ``target`` is filled up to ``place``."""

    segment: Segment
    buffer: Buffer
    target: memoryview
    meter: Meter | None
    place: int = 0


class Connection(asyncio.BufferedProtocol):
    """Requests out, landed segments in.

    The lane asks, then takes from ``landed``, feeds a buffer when ``starved``, and looks at ``error`` once
    nothing is left to take.
    """

    _transport: asyncio.Transport

    def __init__(self, endpoint: Endpoint, timeouts: Timeouts, wire: Wire, pool: BufferPool) -> None:
        self.pool = pool
        self.landed: deque[Landed] = deque()
        self.starved = False
        self.answered = 0
        self.error: P2PSyncError | None = None
        self.broke_between_answers = False
        self._endpoint = endpoint
        self._timeouts = timeouts
        self._wire = wire
        self._loop = asyncio.get_running_loop()
        # Heads, and what arrives with them: the bytes from _start to _filled are not used up.
        self._scratch = memoryview(bytearray(HTTP_HEAD_BYTES_MAX))
        self._start = self._filled = 0
        self._asked: deque[Exchange] = deque()  # The first is being answered.
        self._due: deque[tuple[Segment, int]] = deque()  # What is left of the current body.
        self._landing: _Landing | None = None
        self._closing = False  # The current answer is the last one here.
        self._received = 0  # Bytes of the current answer, its head included.
        self._watch: Watch | None = None
        self._watched_from = 0
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None

    # What the lane calls.

    @property
    def usable(self) -> bool:
        """True while another lane may use it."""
        return self.error is None and not self._asked and not self.landed and not self._closing

    def fault(self) -> P2PSyncError:
        """Why it can no longer be used."""
        return self.error or SourceUnreachableError(f"the connection to {self._endpoint.url} was closed")

    def ask(self, exchange: Exchange) -> None:
        """Send a request behind those that are under way. Does nothing once the connection has failed."""
        if self.error is not None:
            return
        request = encode_request(self._endpoint, exchange)
        self._wire.sent += len(request)
        self._asked.append(exchange)
        if len(self._asked) == 1:
            self._start_clock()
        self._transport.write(request)

    def feed(self, buffer: Buffer) -> None:
        """Give the buffer that the connection was starved of."""
        self.starved = False
        if self.error is not None or not self._due:
            buffer.release()
            return
        self._land(buffer)
        self._advance()

    def proceed(self) -> None:
        """Go on receiving after a landed segment was taken."""
        if self.error is None and self._due and self._landing is None and not self.starved:
            self._advance()

    async def wait(self) -> None:
        """Return when a segment has landed, a buffer is needed, or the connection has failed."""
        if self.landed or self.starved or self.error is not None:
            return
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def abort(self) -> None:
        """Break the connection now and free what it holds. No byte is written to a buffer afterwards."""
        self._break(self.fault())
        while self.landed:
            self.landed.popleft().buffer.release()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.BaseProtocol``."""
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: the current segment, or the scratch memory for heads."""
        landing = self._landing
        return self._scratch[self._filled :] if landing is None else landing.target[landing.place :]

    def buffer_updated(self, nbytes: int) -> None:
        """See ``asyncio.BufferedProtocol``."""
        self._wire.received += nbytes
        self._received += nbytes
        landing = self._landing
        if landing is None:
            self._filled += nbytes
            self._advance()
            return
        landing.place += nbytes
        if landing.meter is not None:
            landing.meter.received += nbytes
        if landing.place == len(landing.target):
            self._advance()

    def eof_received(self) -> bool:
        """The source has sent all that it will."""
        self._ended(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.BaseProtocol``."""
        self._ended(exc)

    # From bytes to segments.

    def _advance(self) -> None:
        """Use up what is in the scratch memory, until more bytes or a buffer are needed."""
        try:
            while self._step():
                pass
        except P2PSyncError as error:
            self._break(error)

    def _step(self) -> bool:
        if self._landing is not None:
            self._copy(self._landing)
            if self._landing.place < len(self._landing.target):
                return False
            self._finish_segment(self._landing)
            return True
        if self._due:
            return self._claim()
        if self._start == self._filled:
            self._start = self._filled = 0
            return False
        return self._head()

    def _copy(self, landing: _Landing) -> None:
        count = min(self._filled - self._start, len(landing.target) - landing.place)
        landing.target[landing.place : landing.place + count] = self._scratch[self._start : self._start + count]
        landing.place += count
        if landing.meter is not None:
            landing.meter.received += count
        self._start += count
        if self._start == self._filled:
            self._start = self._filled = 0

    def _claim(self) -> bool:
        """Get a buffer for the next segment, or stop reading until there is one."""
        if len(self.landed) < _AHEAD_MAX:
            buffer = self.pool.try_acquire()
            if buffer is not None:
                self._land(buffer)
                return True
            self.starved = True
        self._watch = None
        self._transport.pause_reading()
        self._wake()
        return False

    def _land(self, buffer: Buffer) -> None:
        segment, length = self._due[0]
        self._landing = _Landing(segment, buffer, buffer.view(length), self._asked[0].meter)
        if self._watch is None:
            self._start_clock()
            self._transport.resume_reading()

    def _finish_segment(self, landing: _Landing) -> None:
        self._due.popleft()
        self._landing = None
        self.landed.append(Landed(landing.segment, landing.buffer, landing.place))
        if not self._due:
            self._asked.popleft()
            self.answered += 1
            self._watch = None
            self._received = self._filled - self._start
            if self._closing:
                self._ended(None)
            elif self._asked:
                self._start_clock()
        self._wake()

    def _head(self) -> bool:
        """Read the head of the next answer, if all of it is here."""
        if not self._asked:
            raise RemoteProtocolError(f"{self._endpoint.url} sent bytes that nobody asked for")
        pending = bytes(self._scratch[self._start : self._filled])
        end = pending.find(b"\r\n\r\n")
        if end < 0:
            if len(pending) == len(self._scratch):
                raise RemoteProtocolError(f"{self._endpoint.url} sent a head of more than {len(pending)} bytes")
            self._scratch[: len(pending)] = pending
            self._start, self._filled = 0, len(pending)
            return False
        self._start += end + 4
        head = read_head(pending[:end])
        left = check_answer(self._endpoint.url, self._asked[0], head)
        if not left:
            raise RemoteProtocolError(f"{self._endpoint.url} answered {self._asked[0].path} with an empty body")
        self._closing = head.closing
        for segment in self._asked[0].segments:
            if left:
                self._due.append((segment, min(segment.length, left)))
                left -= self._due[-1][1]
        return True

    # Faults and clocks.

    def _ended(self, exc: Exception | None) -> None:
        """The connection is over: within an answer that is a fault, between two answers the server's right."""
        url = self._endpoint.url
        if self._asked and (self._received or self._due):
            # What a crash, a restart and a cut line look like from here: the network's fault, not a lie.
            why = f": {exc}" if exc is not None else ""
            self._break(SourceUnreachableError(f"{url} ended the answer to {self._asked[0].path} early{why}"))
            return
        self.broke_between_answers = self.broke_between_answers or self.error is None
        self._break(SourceUnreachableError(f"{url} closed the connection" + (f": {exc}" if exc else "")))

    def _break(self, error: P2PSyncError) -> None:
        """Remember the first fault and close. Segments that landed before it are still good."""
        if self.error is None:
            self.error = error
        self._watch = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.abort()
        if self._landing is not None:
            self._landing.buffer.release()
            self._landing = None
        self._wake()

    def _start_clock(self) -> None:
        left = sum(length for _, length in self._due) if self._due else self._asked[0].length
        self._watch = Watch(self._timeouts, left, self._loop.time())
        self._watched_from = self._received
        if self._timer is not None and self._timer.when() > self._watch.expires_s:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._watch.expires_s, self._check_clock)

    def _check_clock(self) -> None:
        self._timer = None
        if self._watch is None:
            return
        now_s = self._loop.time()
        self._watch.saw(self._received - self._watched_from, now_s)
        if self._watch.expires_s <= now_s:
            self._break(self._watch.error(self._endpoint.url, self._asked[0].path))
        else:
            self._timer = self._loop.call_at(self._watch.expires_s, self._check_clock)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
