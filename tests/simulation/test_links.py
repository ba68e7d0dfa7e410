"""The model that the simulator's figures rest on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.simulation.clock import Clock
from tests.simulation.links import CURVE, Outside, SharedPort, Transfer, share_of


def finish(clock):
    while clock.step():
        pass


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 10_000)), min_size=1, max_size=20))
def test_a_port_is_busy_as_long_as_its_bytes_need(transfers):
    """No byte is lost or made, no transfer ends before its own time, and the last one ends when the port is free."""
    clock = Clock()
    port = SharedPort(clock, 1000.0)
    done = {}
    for number, (at_s, size) in enumerate(transfers):
        transfer = Transfer(size, 1.0, lambda number=number: done.setdefault(number, clock.now_s))
        clock.at(at_s, port.start, transfer)
    finish(clock)
    busy_s = 0.0
    for at_s, size in sorted(transfers):
        busy_s = max(busy_s, at_s) + size / 1000
    assert max(done.values()) == pytest.approx(busy_s, abs=1e-3)
    assert port.moved == pytest.approx(sum(size for _, size in transfers), abs=1)
    for number, (at_s, size) in enumerate(transfers):
        assert done[number] >= at_s + size / 1000 - 1e-3


def test_readers_get_equal_shares():
    """Two that begin together end together, at half the rate; one that stops leaves its share to the other."""
    clock = Clock()
    port = SharedPort(clock, 1000.0)
    done = []
    one, two = (Transfer(1000, 1.0, lambda name=name: done.append((name, clock.now_s))) for name in "ab")
    port.start(one)
    port.start(two)
    clock.at(1.0, port.stop, two)
    finish(clock)
    assert done == [("a", pytest.approx(1.5))]
    assert port.received(one) == 1000


@pytest.mark.parametrize(("count", "share"), [*CURVE[1:], (3, 0.305), (12, 0.74), (64, 0.92)])
def test_connections_get_what_was_measured(count, share):
    """The line's share grows with the connections as on the measured link, and is interpolated between."""
    assert share_of(count) == pytest.approx(share)


@pytest.mark.parametrize("count", [1, 4, 16])
def test_the_outside_link_gives_the_share(count):
    """So many equal transfers end after one round trip and their bytes over the share of the line."""
    clock = Clock()
    outside = Outside(clock, 1e6, 0.05)
    done = []
    for _ in range(count):
        outside.start("a", Transfer(100_000, 1.0, lambda: done.append(clock.now_s)))
    finish(clock)
    assert len(done) == count
    assert max(done) == pytest.approx(0.05 + count * 0.1 / share_of(count), rel=1e-3)
    assert outside.moved == pytest.approx(count * 100_000, rel=1e-6)


def test_a_cut_link_gives_nothing_and_goes_on():
    """Connections survive a cut, and a node with a path of its own gets no more than that path gives."""
    clock = Clock()
    outside = Outside(clock, 1e6, 0.05)
    outside.narrow("slow", 10_000)
    done = {}
    for name in ("slow", "fast"):
        outside.start(name, Transfer(10_000, 1.0, lambda name=name: done.setdefault(name, clock.now_s)))
    clock.at(0.06, lambda: outside.set_cut(cut=True))
    clock.at(10.06, lambda: outside.set_cut(cut=False))
    finish(clock)
    assert done["slow"] == pytest.approx(11.05, rel=1e-3)
    assert 10.06 < done["fast"] < 10.2
