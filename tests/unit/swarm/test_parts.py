from hypothesis import given
from hypothesis import strategies as st

from p2psync.limits import CHUNK_BYTES, MIB, PART_BYTES_MAX, PART_BYTES_MIN
from p2psync.swarm.parts import Parts, part_bytes
from tests.unit.swarm.pieces import chunks


def opened(count=1):
    table = chunks(count)
    parts = Parts()
    for chunk in table:
        parts.open(chunk, "seed")
    return parts, table


@given(st.lists(st.tuples(st.sampled_from(["ask", "land", "fail", "late"]), st.integers(0, 9)), max_size=60))
def test_ranges_cover_the_chunk_once(events):
    """Whatever lands and fails in whatever order, a chunk is complete exactly when every byte of it has landed."""
    parts, (chunk,) = opened()
    flying, landed, now_s = [], set(), 0.0
    for what, which in [*events, *[("ask", 0), ("land", 0)] * 40]:
        now_s += 1
        if what in ("ask", "late"):
            part = parts.next("seed", PART_BYTES_MAX, now_s) if what == "ask" else parts.late("seed", 2, now_s)
            if part is not None:
                flying.append(part)
                assert sum(p.start == part.start for p in flying) <= 2
        elif flying:
            part = flying.pop(which % len(flying))
            if what == "fail":
                parts.failed(part)
                continue
            fresh = part.start not in landed
            landed.add(part.start)
            whole = len(landed) * PART_BYTES_MAX == CHUNK_BYTES
            assert parts.landed(part) == (fresh and whole)
            assert parts.received(chunk.index) == len(landed) * PART_BYTES_MAX
    assert len(landed) == 4


def test_the_oldest_chunk_comes_first():
    """All connections work on the oldest chunk, so that it can be passed on soon."""
    parts, _ = opened(2)
    assert [parts.next("seed", PART_BYTES_MAX, 0).index for _ in range(8)] == [0] * 4 + [1] * 4
    assert parts.next("seed", PART_BYTES_MAX, 0) is None
    assert parts.next("other", PART_BYTES_MAX, 0) is None


def test_bytes_on_their_way_are_counted_once():
    """Two requests for one range count as the one that is further."""
    parts, (chunk,) = opened()
    first = parts.next("seed", PART_BYTES_MAX, 0)
    second = parts.late("seed", 1, 5)
    first.meter.received, second.meter.received = 1000, 3000
    assert parts.received(chunk.index) == 3000
    assert parts.twins(first) == [second]
    assert not parts.landed(second)
    assert not parts.expects(first)
    assert parts.received(chunk.index) == PART_BYTES_MAX


def test_a_stale_range_is_not_taken_for_the_new_one():
    """A chunk that was given up and begun again owes nothing to requests of the first time."""
    parts, (chunk,) = opened()
    stale = [parts.next("seed", PART_BYTES_MAX, 0) for _ in range(4)]
    assert parts.close(chunk.index) == stale
    parts.open(chunk, "other")
    assert not any(parts.expects(part) for part in stale)
    assert not any(parts.landed(part) for part in stale)
    assert parts.received(chunk.index) == 0
    assert parts.bound("other") == [chunk.index]


def test_parts_shrink_towards_the_end():
    """The last ranges are small, so that all connections end together; never too small, never above the bound."""
    sizes = [part_bytes(left, 16) for left in range(64 * MIB, 0, -MIB)]
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (PART_BYTES_MAX, PART_BYTES_MIN)


def test_what_had_landed_is_kept_while_its_source_is_away():
    """A parked chunk is not asked for, goes on where it was with the same source, and from the start with another."""
    parts, (chunk,) = opened()
    first = parts.next("seed", PART_BYTES_MAX, 0)
    parts.landed(first)
    parts.park(chunk.index)
    assert chunk.index in parts
    assert parts.next("seed", PART_BYTES_MAX, 1) is None
    parts.open(chunk, "seed")
    assert parts.next("seed", PART_BYTES_MAX, 1).start == PART_BYTES_MAX
    other, (chunk,) = opened()
    other.landed(other.next("seed", PART_BYTES_MAX, 0))
    other.park(chunk.index)
    other.open(chunk, "spare")
    assert other.received(chunk.index) == 0


def test_few_chunks_are_parked():
    """What is kept is memory, so it is bounded."""
    parts, table = opened(40)
    for chunk in table:
        parts.park(chunk.index)
    assert sum(chunk.index in parts for chunk in table) == 16
