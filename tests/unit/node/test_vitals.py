"""What a node counts of itself: lag, memory, how pulls end."""

from __future__ import annotations

import asyncio
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.cli import values
from p2psync.errors import P2PSyncError, StoreFullError
from p2psync.node.tally import Tally
from p2psync.node.vitals import LoopLag, process
from p2psync.node.watching import Exposure
from p2psync.swarm import Fault


@given(st.lists(st.floats(0, 10), max_size=30))
def test_lag_is_of_the_window(late: list[float]) -> None:
    """The worst and the mean are those of what was measured last, and none is 0."""
    lag = LoopLag(window=10)
    for each in late:
        lag.note(each)
    window = late[-10:] or [0.0]
    assert lag.max_s == max(window)
    assert lag.mean_s == pytest.approx(sum(window) / len(window))


def test_clock_that_is_early_is_not_late() -> None:
    """A sleep that ends before its time counts as on time."""
    lag = LoopLag()
    lag.note(-0.001)
    assert (lag.max_s, lag.mean_s) == (0.0, 0.0)


async def test_lag_of_a_loop_that_stalls_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time by which the loop is later than it was due is its lag."""
    monkeypatch.setattr("p2psync.node.vitals.TICK_S", 0.0)
    moments = [0.0, 1.25, 2.0, 2.0]

    def clock() -> float:
        if not moments:
            raise asyncio.CancelledError
        return moments.pop(0)

    lag = LoopLag(clock=clock)
    with pytest.raises(asyncio.CancelledError):
        await lag.watch()
    assert (lag.max_s, lag.mean_s) == (1.25, 0.625)


def test_process_counts_its_memory_and_descriptors() -> None:
    """Anonymous memory is part of what is resident, and one more open file is one more descriptor."""
    before = process()
    assert before is not None
    assert 0 < before.anonymous_bytes < before.resident_bytes
    descriptor = os.open(os.devnull, os.O_RDONLY)
    try:
        after = process()
        assert after is not None
        assert after.open_fds == before.open_fds + 1
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [
        (None, "done"),
        (asyncio.CancelledError(), "cancelled"),
        (StoreFullError("full", needed_bytes=2, free_bytes=1), "store_full"),
        (ZeroDivisionError(), "fault"),
    ],
)
def test_how_a_pull_ends(raised: BaseException | None, outcome: str) -> None:
    """A pull counts once, under done, cancelled, its error's code, or fault; the error goes on."""
    tally = Tally()

    def run() -> None:
        with tally.pull():
            if raised is not None:
                raise raised

    if raised is None:
        run()
    else:
        with pytest.raises(type(raised)):
            run()
    assert {name: count for name, count in tally.pulls.items() if count} == {outcome: 1}


def test_outcomes_are_words_of_this_program() -> None:
    """Every fault of a request has its row from the start, and every error's code is one word."""
    tally = Tally()
    rows = set(tally.requests)
    tally.asked(None)
    for fault in Fault:
        tally.asked(fault)
    assert set(tally.requests) == rows
    assert set(tally.requests.values()) == {1}
    assert P2PSyncError("x").code.isidentifier()


def test_exposures_of_the_command_line_are_the_node_s() -> None:
    """--metrics takes the words that the node knows, and no other."""
    assert [values.exposure(word) for word in Exposure] == list(Exposure)
    with pytest.raises(P2PSyncError, match="loopback, open, off"):
        values.exposure("all")
