"""How a peer's chunks are asked for: big ones alone, small ones together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2psync.content import Digest
from p2psync.limits import BATCH_BYTES_MAX, BATCH_CHUNK_BYTES_MAX, BATCH_DIGESTS_MAX, CHUNK_BYTES
from p2psync.manifest import Chunk
from p2psync.transport.peer import _plan

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
