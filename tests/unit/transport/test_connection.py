"""The fast connection gives the same segments however the bytes arrive, and never holds a buffer too long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.content import Digest
from p2psync.errors import RemoteProtocolError, SourceUnreachableError, WithdrawnError
from p2psync.limits import HTTP_HEAD_BYTES_MAX
from p2psync.manifest import Chunk
from p2psync.transport import BufferPool, Timeouts, Wire
from p2psync.transport.connection import Connection
from p2psync.transport.endpoint import parse_endpoint
from p2psync.transport.exchange import Exchange, Segment

ENDPOINT = parse_endpoint("http://h:1/base")


class FakeTransport(asyncio.Transport):
    """Takes requests; gives bytes to the connection as a socket would, unless reading is paused."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self.written = b""
        self.pending = b""
        self.paused = False
        self.aborted = False
        connection.connection_made(self)

    def write(self, data: bytes) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def abort(self) -> None:
        self.aborted = True

    def push(self, sizes: Sequence[int]) -> None:
        """Deliver what is pending in reads of at most these sizes, over and over."""
        turn = 0
        while self.pending and not self.paused and not self.aborted:
            target = self.connection.get_buffer(-1)
            count = min(len(target), len(self.pending), sizes[turn % len(sizes)])
            target[:count] = self.pending[:count]
            self.pending = self.pending[count:]
            self.connection.buffer_updated(count)
            turn += 1


def chunk_of(body: bytes) -> Chunk:
    return Chunk(0, Digest.of(body), len(body), ())


def exchange_of(bodies: Sequence[bytes]) -> Exchange:
    return Exchange("v1/x", tuple(Segment((chunk_of(body),), len(body)) for body in bodies))


def answer(body: bytes, extra: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


def made(pool: BufferPool, timeouts: Timeouts | None = None) -> tuple[Connection, FakeTransport]:
    connection = Connection(ENDPOINT, timeouts or Timeouts(), Wire(), pool)
    return connection, FakeTransport(connection)


def take(connection: Connection) -> list[bytes]:
    """Take all that has landed."""
    got = []
    while connection.landed:
        landed = connection.landed.popleft()
        got.append(bytes(landed.buffer.view(landed.length)))
        landed.buffer.release()
        connection.proceed()
    return got


@given(
    answers=st.lists(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4), min_size=1, max_size=5),
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=8),
    buffers=st.integers(1, 4),
)
def test_pieces_make_no_difference(answers: list[list[bytes]], sizes: list[int], buffers: int) -> None:
    """All at once or byte by byte, with one buffer or many: the same segments land, and all buffers come back."""

    async def run() -> None:
        pool = BufferPool(buffers, 40)
        connection, transport = made(pool)
        for bodies in answers:
            connection.ask(exchange_of(bodies))
            transport.pending += answer(b"".join(bodies))
        wanted = [body for bodies in answers for body in bodies]
        got: list[bytes] = []
        while len(got) < len(wanted):
            transport.push(sizes)
            assert len(connection.landed) <= 2
            got += take(connection)
            assert connection.error is None
            if connection.starved:
                connection.feed(await pool.acquire())
        assert got == wanted
        assert connection.usable
        assert pool.free == buffers
        assert connection.answered == len(answers)

    asyncio.run(run())


@given(st.binary(min_size=1, max_size=400), st.lists(st.integers(1, 90), min_size=1, max_size=8))
def test_garbage_is_an_error_and_nothing_else(garbage: bytes, sizes: list[int]) -> None:
    """Whatever comes, nothing is raised into the event loop and every buffer comes back."""

    async def run() -> None:
        pool = BufferPool(2, 40)
        connection, transport = made(pool)
        connection.ask(exchange_of([b"x" * 30]))
        transport.pending = garbage
        transport.push(sizes)
        connection.eof_received()
        take(connection)
        assert isinstance(connection.error, RemoteProtocolError | SourceUnreachableError | WithdrawnError)
        assert transport.aborted
        assert pool.free == 2

    asyncio.run(run())


async def test_requests_are_small_and_exact() -> None:
    """A request has the base path, the host, and only what it needs besides."""
    connection, transport = made(BufferPool(1))
    connection.ask(Exchange("v1/chunks/ab", (Segment((), 9),)))
    connection.ask(Exchange("v1/packs/ab.pack", (Segment((), 9),), first=5))
    connection.ask(Exchange("v1/chunks", (Segment((), 9),), body=b"12345"))
    assert transport.written == (
        b"GET /base/v1/chunks/ab HTTP/1.1\r\nHost: h:1\r\n\r\n"
        b"GET /base/v1/packs/ab.pack HTTP/1.1\r\nHost: h:1\r\nRange: bytes=5-13\r\n\r\n"
        b"POST /base/v1/chunks HTTP/1.1\r\nHost: h:1\r\nContent-Length: 5\r\n\r\n12345"
    )


async def test_what_landed_before_a_fault_is_kept() -> None:
    """A pipeline that breaks fails only what was not delivered."""
    pool = BufferPool(3, 10)
    connection, transport = made(pool)
    connection.ask(exchange_of([b"first"]))
    connection.ask(exchange_of([b"second"]))
    transport.pending = answer(b"first") + answer(b"second")[:-2]
    transport.push([1000])
    connection.connection_lost(ConnectionResetError("reset"))
    assert isinstance(connection.error, SourceUnreachableError)
    assert not connection.broke_between_answers
    assert take(connection) == [b"first"]
    assert pool.free == 3


@pytest.mark.parametrize("exc", [None, ConnectionResetError("reset")])
async def test_end_between_answers_is_no_fault_of_an_answer(exc: Exception | None) -> None:
    """A connection that ends before a byte of the next answer lets that be asked elsewhere."""
    connection, transport = made(BufferPool(3, 10))
    connection.ask(exchange_of([b"first"]))
    connection.ask(exchange_of([b"second"]))
    transport.pending = answer(b"first")
    transport.push([1000])
    connection.connection_lost(exc)
    assert connection.broke_between_answers
    assert connection.answered == 1
    assert take(connection) == [b"first"]


async def test_announced_end_is_kept_to() -> None:
    """After "Connection: close" nothing more is expected here."""
    connection, transport = made(BufferPool(3, 10))
    connection.ask(exchange_of([b"first"]))
    connection.ask(exchange_of([b"second"]))
    transport.pending = answer(b"first", "Connection: close\r\n")
    transport.push([7])
    assert connection.broke_between_answers
    assert transport.aborted
    assert take(connection) == [b"first"]


async def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    """An idle connection that is sent something is not used again."""
    connection, transport = made(BufferPool(1, 10))
    connection.ask(exchange_of([b"first"]))
    transport.pending = answer(b"first") + answer(b"unasked")
    transport.push([1000])
    assert take(connection) == [b"first"]
    assert not connection.usable
    assert isinstance(connection.error, RemoteProtocolError)


async def test_head_has_a_cap() -> None:
    """A head that does not end within the cap is refused, and takes no more memory than that."""
    connection, transport = made(BufferPool(1, 10))
    connection.ask(exchange_of([b"first"]))
    transport.pending = b"HTTP/1.1 200 OK\r\nX: " + b"a" * (2 * HTTP_HEAD_BYTES_MAX)
    transport.push([5000])
    assert isinstance(connection.error, RemoteProtocolError)
    assert len(transport.pending) > HTTP_HEAD_BYTES_MAX // 2


async def test_waiting_for_a_buffer_is_not_the_sources_fault() -> None:
    """While the connection has no buffer it does not read, and its clock stands still."""
    pool = BufferPool(1, 10)
    held = await pool.acquire()
    connection, transport = made(pool, Timeouts(response_s=0.05, window_s=0.05))
    connection.ask(exchange_of([b"first"]))
    transport.pending = answer(b"first")
    transport.push([20])
    transport.push([20])
    assert connection.starved
    await asyncio.sleep(0.15)
    assert connection.error is None
    connection.feed(held)
    transport.push([1000])
    assert take(connection) == [b"first"]


async def test_buffer_that_comes_too_late_is_given_back() -> None:
    """A connection that failed while it was starved keeps no buffer."""
    pool = BufferPool(1, 10)
    held = await pool.acquire()
    connection, transport = made(pool)
    connection.ask(exchange_of([b"first"]))
    transport.pending = answer(b"first")
    transport.push([1000])
    connection.abort()
    connection.feed(held)
    assert pool.free == 1


async def test_empty_answer_to_a_batch_is_refused() -> None:
    """A batch answer without a byte is no answer."""
    connection, transport = made(BufferPool(1, 10))
    connection.ask(Exchange("v1/chunks", (Segment((), 9),), body=b"x"))
    transport.pending = answer(b"")
    transport.push([1000])
    assert isinstance(connection.error, RemoteProtocolError)
