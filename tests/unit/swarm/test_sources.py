import pytest

from p2psync.limits import BATCH_BYTES_MAX, CHUNK_BYTES
from p2psync.swarm import Fault, Inventory
from p2psync.swarm.sources import NONSENSE_MAX, SLOW_BYTES_PER_S, SLOW_WINDOW_S, Source


def source(*held):
    return Source(outside=False, holds=Inventory(8, held) if held else None)


def test_a_chunk_that_does_not_prove_is_never_asked_there_again():
    """The first costs the chunk, for good; the second the source."""
    record = source(0, 1, 2)
    record.failed(Fault.CORRUPT, 0, 0)
    assert (record.has(0), record.has(1), record.banned, record.fit) == (False, True, False, True)
    record.holds.add([0])
    assert not record.has(0)
    record.failed(Fault.CORRUPT, 1, 0)
    assert record.banned
    assert not record.has(2)


def test_a_withdrawn_chunk_may_come_back():
    """What a source does not have any more it may announce anew; one that holds everything has no such word."""
    record = source(0, 1)
    assert record.failed(Fault.WITHDRAWN, 0, 0) == [0]
    assert not record.has(0)
    record.holds.add([0])
    assert record.has(0)
    whole = source()
    assert whole.failed(Fault.WITHDRAWN, 0, 0) == []
    assert (whole.has(0), whole.has(1)) == (False, True)


def test_empty_hands_are_not_counted_on():
    """A source that has nothing of what it announces is passed over, and believed when it delivers."""
    record = source(*range(8))
    for index in range(4):
        assert record.fit
        record.failed(Fault.WITHDRAWN, index, 0)
    assert not record.fit
    assert not record.banned
    record.delivered()
    assert record.fit


def test_one_broken_connection_is_an_accident():
    """What only this source holds is not given up for one reset; for two in a row it is."""
    record = source()
    record.failed(Fault.BROKEN, 0, 0)
    assert record.fit
    assert record.on_trial
    record.failed(Fault.BROKEN, 1, 0.1)
    assert record.fit
    record.failed(Fault.BROKEN, 1, 1.0)
    assert not record.fit


def test_nonsense_bans_and_comes_along_when_a_source_returns():
    """A new connection is no new reputation."""
    record = source()
    for at_s in range(NONSENSE_MAX):
        assert not record.banned
        record.failed(Fault.NONSENSE, 0, at_s * 10)
    assert record.banned
    again = source()
    again.remember(record)
    assert again.banned


def test_silence_is_slow_and_delivery_forgives():
    """A source that owes and brings next to nothing is slow; one that owes nothing is not."""
    record = source()
    assert not record.judge(0, 100)
    record.began(100)
    assert not record.judge(0, 100 + SLOW_WINDOW_S)
    assert record.judge(100, 100.1 + SLOW_WINDOW_S)
    assert not record.judge(100, 200)
    assert not record.fit
    record.delivered()
    assert record.fit
    busy = source()
    busy.began(0)
    enough = int(SLOW_WINDOW_S * SLOW_BYTES_PER_S)
    assert not any(busy.judge(enough * at_s, at_s) for at_s in range(20))


def test_a_rate_is_of_one_request():
    """Bytes over the time of the one request that brought them; a batch takes half a second's worth."""
    record = source()
    assert record.budget_bytes() == CHUNK_BYTES
    record.measure(1000, 1.0, 3.0)
    assert record.rate == 500
    record.measure(1000, 3.0, 4.0)
    assert record.rate == pytest.approx(600)
    record.measure(10**9, 4.0, 4.0)
    assert record.budget_bytes() == BATCH_BYTES_MAX
