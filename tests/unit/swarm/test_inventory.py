import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.errors import MalformedError
from p2psync.limits import CHUNKS_PER_VERSION_MAX
from p2psync.swarm import Inventory
from p2psync.swarm.inventory import decode_runs, encode_runs

counts = st.integers(0, 200)
sets = counts.flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, max(0, n - 1)), max_size=n)))


@given(sets)
def test_it_is_a_set(case):
    """Members, their number and their order are those of a sorted set; wholeness is a full one."""
    count, members = case
    members = {m for m in members if m < count}
    held = Inventory(count, members)
    assert list(held) == sorted(members)
    assert len(held) == len(members)
    assert held.is_whole == (len(members) == count)
    assert [i for i in range(-2, count + 9) if i in held] == sorted(members)
    assert list(Inventory.from_bits(held.to_bits(), count)) == sorted(members)


@given(sets, st.sets(st.integers(-3, 210)))
def test_changes_say_what_they_changed(case, others):
    """Adding returns what is new, taking out what was in; numbers that are no chunk are passed over."""
    count, members = case
    members = {m for m in members if m < count}
    held = Inventory(count, members)
    kept = held.copy()
    assert set(held.add(others)) == {o for o in others if 0 <= o < count} - members
    assert set(held) == members | {o for o in others if 0 <= o < count}
    assert set(held.discard(others)) == {o for o in others if 0 <= o < count}
    assert set(held) == members - others
    assert len(held) == len(members - others)
    assert set(kept) == members
    assert set(kept.minus(held, Inventory(count, others))) == members - set(held) - others


@given(sets)
def test_wire_form_comes_back_and_is_never_longer_than_the_bitset(case):
    """What is written is read back, in at most one byte more than a bit for each chunk."""
    count, members = case
    held = Inventory(count, members)
    data = held.to_bytes()
    assert list(Inventory.from_wire(data, count)) == list(held)
    assert len(Inventory.from_wire(data, count)) == len(held)
    assert len(data) <= 1 + (count + 7) // 8


@given(st.binary(max_size=24), counts)
def test_arbitrary_bytes_are_a_set_or_malformed(data, count):
    """Nothing but the named error comes out of hostile bytes, and what is read keeps to its bounds."""
    try:
        held = Inventory.from_wire(data, count)
    except MalformedError:
        return
    assert all(0 <= index < count for index in held)
    assert len(list(held)) == len(held)


@given(st.lists(st.integers(0, 500)))
def test_runs_come_back_in_order_without_repeats(numbers):
    """Numbers told twice, or out of order, are told once and ascending."""
    runs = decode_runs(encode_runs(numbers), 501)
    assert [i for start, end in runs for i in range(start, end)] == sorted(set(numbers))


@pytest.mark.parametrize(
    ("data", "count"),
    [
        ("", 8),  # nothing
        ("02", 8),  # an unknown form
        ("00 00 00", 8),  # an empty run
        ("00 00 02 00 02", 8),  # two runs that are one
        ("00 00 09", 8),  # beyond the end
        ("00 07 02", 8),  # the same, after a gap
        ("00 00", 8),  # half a run
        ("01 ff 00", 8),  # a bitset that is too long
        ("01", 8),  # one that is too short
        ("01 80", 7),  # a bit beyond the end
    ],
)
def test_other_spellings_are_refused(data, count):
    """A set has one spelling in each form, and speaks of nothing that the version does not have."""
    with pytest.raises(MalformedError):
        Inventory.from_wire(bytes.fromhex(data), count)


@pytest.mark.parametrize(
    ("members", "count", "wire"),
    [
        ((), 8, "00"),
        (range(96), 96, "000060"),
        ((0, 1, 2, 40, 41), 4096, "0000032502"),
        ((1, 3, 5, 7), 8, "01aa"),
    ],
)
def test_frozen_bytes(members, count, wire):
    """The bytes on the wire are those of protocol 1."""
    assert Inventory(count, members).to_bytes().hex() == wire


def test_the_largest_version_costs_little():
    """Six bytes that speak of four million chunks are read and written in a moment."""
    began_s = time.process_time()
    whole = Inventory.whole(CHUNKS_PER_VERSION_MAX)
    data = whole.to_bytes()
    assert len(data) <= 6
    assert len(Inventory.from_wire(data, CHUNKS_PER_VERSION_MAX)) == CHUNKS_PER_VERSION_MAX
    assert time.process_time() - began_s < 0.5
