"""Limits hold, change while they are used, and the LAN port is judged by what several readers take."""

from __future__ import annotations

import pytest

from p2psync.errors import UsageError
from p2psync.node.rates import Limits, Rates

MIB = 1 << 20


def sampled(rates: Rates, *looks: dict[int, tuple[str, int]]) -> float:
    """The LAN rate after looks that are half a second apart."""
    for number, flows in enumerate(looks):
        rates.flows = lambda flows=flows: flows
        rates.sample(1000.0 + 0.5 * number)
    return rates.lan_rate


def flows(step: int, *addresses: str) -> dict[int, tuple[str, int]]:
    """Connections to readers, each of which has acknowledged ``step`` times 1 MiB."""
    return {number: (address, step * MIB) for number, address in enumerate(addresses)}


def test_unlimited_never_waits() -> None:
    """Without a limit a sender is told that there is none, and may send all at once."""
    assert Rates().pace("10.0.0.2", 10 * MIB) < 0


def test_each_limit_holds_for_its_readers() -> None:
    """``lan_up`` slows readers nearby, ``wan_up`` the others, ``up`` both."""
    rates = Rates(Limits(wan_up=1e6))
    rates.outside = lambda address: address.startswith("9.")
    assert rates.pace("10.0.0.2", 2_000_000) == 0
    assert rates.pace("9.0.0.2", 2_000_000) > 1.5
    rates.set(Limits(lan_up=1e6))
    assert rates.pace("9.0.0.2", 2_000_000) == 0
    assert rates.pace("10.0.0.2", 2_000_000) > 1.5
    rates.set(Limits(up=1e6))
    assert rates.pace("9.0.0.2", 2_000_000) > 1.5
    assert rates.pace("10.0.0.2", 1) > 1.5


def test_each_reader_has_its_own_share() -> None:
    """``peer_up`` makes one greedy reader wait and no other."""
    rates = Rates(Limits(peer_up=1e6))
    assert rates.pace("10.0.0.2", 2_000_000) > 1.5
    assert rates.pace("10.0.0.3", 50_000) == 0


@pytest.mark.parametrize("name", ["wan_down", "up", "wan_up", "lan_up", "peer_up"])
@pytest.mark.parametrize("rate", [0, -1.0])
def test_limit_must_let_something_through(name: str, rate: float) -> None:
    """A limit of nothing is refused, and named."""
    with pytest.raises(UsageError, match=name):
        Limits(**{name: rate})


def test_several_readers_show_what_the_port_gives() -> None:
    """What two readers took together over two seconds is the rate of the port."""
    looks = [flows(step, "10.0.0.2", "10.0.0.3") for step in range(5)]
    assert sampled(Rates(), *looks) == 4 * MIB


def test_one_reader_shows_nothing() -> None:
    """One reader may be the slow end, whatever the number of its connections."""
    looks = [flows(step, "10.0.0.2", "10.0.0.2") for step in range(6)]
    assert sampled(Rates(), *looks) == 0


def test_connections_that_ended_show_nothing() -> None:
    """Only what was being sent at both looks counts: a port that is idle half of the time is not slow."""
    looks = [{2 * step: ("10.0.0.2", MIB), 2 * step + 1: ("10.0.0.3", MIB)} for step in range(6)]
    assert sampled(Rates(), *looks) == 0


def test_readers_outside_do_not_count() -> None:
    """What goes out over the outside link says nothing of the LAN port."""
    rates = Rates()
    rates.outside = lambda _address: True
    assert sampled(rates, *[flows(step, "9.0.0.2", "9.0.0.3") for step in range(6)]) == 0
