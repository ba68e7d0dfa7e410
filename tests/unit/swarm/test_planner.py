"""The planner takes what is here soonest, by link, CPU and bases, and never a delta that costs more than the chunk."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.codec import Form
from p2psync.content import Digest
from p2psync.limits import MIB
from p2psync.manifest import Encoded, FormSet, Piece, SetKind
from p2psync.swarm import plan
from p2psync.swarm.planner import DECODE_BYTES_PER_S
from tests.unit.swarm.pieces import chunks

SLOW, FAST = 2.5e6, 5e9
BASE = Digest.of(b"base")
FULL = FormSet(SetKind.FULL, None, 1, MIB, 1, (), ())
DELTA = FormSet(SetKind.DELTA, BASE, 1, MIB, 1, (), ())


def full(chunk, length, form=Form.PLANES):
    return 100 + chunk, FULL, Encoded(chunk, form, Digest.of(b"f%d" % chunk), length)


def delta(chunk, length, form=Form.TIGHT):
    return 200 + chunk, DELTA, Encoded(chunk, form, Digest.of(b"d%d" % chunk), length, (Piece(BASE),))


def here(_row):
    return True


def away(_row):
    return False


def kinds(made):
    return [choice.kind for choice in made.choices]


def test_on_a_thin_link_the_smallest_form_wins():
    """A delta before the planes before the chunk."""
    rows = [full(0, MIB * 2 // 3), delta(0, MIB // 10), full(1, MIB * 2 // 3)]
    made = plan(chunks(3), rows, here, SLOW)
    assert kinds(made) == ["delta", "full", "raw"]
    assert [choice.number for choice in made.choices] == [200, 101, 2]
    assert made.wire_bytes == MIB // 10 + MIB * 2 // 3 + MIB
    assert made.raw_bytes == 3 * MIB


def test_where_the_link_is_faster_than_the_decoder_the_chunk_wins():
    """No form is worth a slower finish."""
    assert kinds(plan(chunks(1), [full(0, MIB * 2 // 3), delta(0, MIB // 10)], here, FAST)) == ["raw"]


def test_without_the_base_there_is_no_delta():
    """Bases decide, chunk by chunk."""
    rows = [full(0, MIB * 2 // 3), delta(0, 9)]
    assert kinds(plan(chunks(1), rows, away, SLOW)) == ["full"]


def test_a_delta_larger_than_the_full_form_is_never_taken():
    """An unrelated sibling costs what a pull in full costs, and no byte more."""
    made = plan(chunks(1), [full(0, MIB // 2), delta(0, MIB // 2 + 1, Form.SPARSE)], here, SLOW)
    assert kinds(made) == ["full"]
    assert kinds(plan(chunks(1), [delta(0, MIB + 1, Form.SPARSE)], here, SLOW)) == ["raw"]


def test_a_form_of_a_newer_version_is_passed_over():
    """A signed form that this p2psync cannot decode is no choice."""
    assert kinds(plan(chunks(1), [full(0, 9, form=250)], here, SLOW)) == ["raw"]


def test_what_is_not_missing_is_not_planned():
    """Rows of chunks that are here, or that another variant has, cost nothing."""
    made = plan(chunks(4)[2:3], [full(n, 10) for n in range(4)], here, SLOW)
    assert [choice.chunk.index for choice in made.choices] == [2]


def test_seconds_are_bytes_over_the_link_and_decoding():
    """What pull -n prints."""
    made = plan(chunks(1), [delta(0, 50_000)], here, SLOW)
    assert made.seconds == pytest.approx(50_000 / SLOW + MIB / DECODE_BYTES_PER_S[Form.TIGHT])
    assert made.by_kind() == {"delta": (1, MIB, 50_000)}


def test_parts_of_a_plan_add_up_to_it():
    """Split by any key of the chunks, bytes and seconds stay what they were."""
    made = plan(chunks(5), [full(0, MIB * 2 // 3), delta(0, MIB // 10), full(3, MIB // 2)], here, SLOW)
    parts = made.split(lambda chunk: chunk.index % 2)
    assert {key: [choice.chunk.index for choice in part.choices] for key, part in parts.items()} == {
        0: [0, 2, 4],
        1: [1, 3],
    }
    assert sum(part.wire_bytes for part in parts.values()) == made.wire_bytes
    assert sum(part.seconds for part in parts.values()) == pytest.approx(made.seconds)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(1, 2 * MIB), st.sampled_from(list(Form)))),
    st.floats(1e4, 1e10),
)
def test_no_choice_moves_more_or_takes_longer_than_the_chunk(offers, link):
    """Whatever is offered: each missing chunk is planned once, and raw is always at hand."""
    rows = [(delta if is_delta else full)(chunk, length, form) for chunk, is_delta, length, form in offers]
    made = plan(chunks(6), rows, here, link)
    assert [choice.chunk.index for choice in made.choices] == list(range(6))
    for choice in made.choices:
        assert choice.wire_bytes <= choice.chunk.length
        assert choice.wire_bytes / link + choice.decode_s <= choice.chunk.length / link
