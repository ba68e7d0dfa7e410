"""How a peer's chunks are asked for: big ones alone, small ones together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.content import Digest
from p2psync.errors import P2PSyncError, RemoteProtocolError, WithdrawnError
from p2psync.limits import BATCH_BYTES_MAX, BATCH_CHUNK_BYTES_MAX, BATCH_DIGESTS_MAX, CHUNK_BYTES
from p2psync.manifest import Chunk
from p2psync.transport import BufferPool, SourceKind, Wire
from p2psync.transport.exchange import Exchange, Landed, Reply
from p2psync.transport.frames import ABSENT, LENGTH
from p2psync.transport.peer import PeerSource, _plan

SMALL = BATCH_CHUNK_BYTES_MAX - 1
LENGTHS = st.lists(st.sampled_from([1, 100, 70_000, SMALL, BATCH_CHUNK_BYTES_MAX, CHUNK_BYTES]), max_size=60)


def chunks_of(lengths: list[int]) -> list[Chunk]:
    return [Chunk(index, Digest(index.to_bytes(32, "big")), length, ()) for index, length in enumerate(lengths)]


@given(LENGTHS)
def test_plan_covers_the_batch_in_order(lengths: list[int]) -> None:
    """Every chunk is asked for once, in order, and every answer fits one buffer and the server's caps."""
    batch = chunks_of(lengths)
    plan = list(_plan(batch, CHUNK_BYTES))
    assert [chunk for exchange in plan for segment in exchange.segments for chunk in segment.chunks] == batch
    for exchange in plan:
        (segment,) = exchange.segments
        assert exchange.length <= CHUNK_BYTES <= BATCH_BYTES_MAX
        if exchange.body is None:
            assert len(segment.chunks) == 1
            assert exchange.path == f"v1/chunks/{segment.chunks[0].digest.hex()}"
        else:
            assert exchange.path == "v1/chunks"
            assert exchange.body == b"".join(chunk.digest for chunk in segment.chunks)
            assert all(chunk.length < BATCH_CHUNK_BYTES_MAX for chunk in segment.chunks)


def test_small_chunks_share_requests() -> None:
    """Thousands of tiny chunks take a handful of requests; a lonely one is asked for by its name."""
    plan = list(_plan(chunks_of([10] * (2 * BATCH_DIGESTS_MAX + 1)), CHUNK_BYTES))
    assert [len(exchange.segments[0].chunks) for exchange in plan] == [BATCH_DIGESTS_MAX, BATCH_DIGESTS_MAX, 1]
    assert plan[-1].body is None


class Answering:
    """Carries an exchange whose answer is known."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    async def fetch(self, exchanges: Sequence[Exchange], pool: BufferPool) -> AsyncGenerator[Landed]:
        for exchange in exchanges:
            buffer = await pool.acquire()
            buffer.view(len(self.answer))[:] = self.answer
            yield Landed(exchange.segments[0], buffer, len(self.answer))


def frame(body: bytes, length: int | None = None) -> bytes:
    return LENGTH.pack(len(body) if length is None else length) + body


@pytest.mark.parametrize(
    ("second", "error", "message"),
    [
        (frame(b"", ABSENT), WithdrawnError, "http://peer no longer has b3:0{63}1"),
        (frame(b"short"), RemoteProtocolError, "http://peer sent 5 bytes for b3:0{63}1, not 10"),
        (frame(b"ends early", 11), RemoteProtocolError, "http://peer answered v1/chunks wrongly"),
        (b"", RemoteProtocolError, "http://peer answered v1/chunks wrongly"),
    ],
    ids=["not here", "another length", "past the end", "nothing"],
)
async def test_what_came_before_a_chunk_that_did_not_is_kept(
    second: bytes, error: type[P2PSyncError], message: str
) -> None:
    """Of a batch, each chunk is judged by itself: the first is handed over, the second is refused by name."""
    fetcher, pool, got = Answering(frame(b"0123456789") + second), BufferPool(1), []
    source = PeerSource("http://peer", SourceKind.LAN, Wire(), fetcher, fetcher)  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        async for chunk, buffer in source.chunks(chunks_of([10, 10]), pool):
            got.append((chunk.index, bytes(buffer.view(chunk.length))))
            buffer.release()
    assert got == [(0, b"0123456789")]
    assert pool.free == 1


class Replying:
    """Gives one answer to every resource that is posted to."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply

    async def post(self, path: str, body: bytes, bytes_max: int) -> Reply:
        return self.reply


async def test_a_peer_that_has_no_such_resource_is_told_apart_from_one_that_answers_wrongly() -> None:
    """The status is what is said; a body that came with it is not read."""
    source = PeerSource("http://peer", SourceKind.LAN, Wire(), Replying(Reply(404, b"", None, None)), Answering(b""))  # type: ignore[arg-type]
    with pytest.raises(RemoteProtocolError, match="http://peer answered v1/nodes with status 404"):
        await source.nodes([Digest(bytes(32))])
