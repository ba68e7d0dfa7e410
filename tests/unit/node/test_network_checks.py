"""What ``doctor`` finds of the network: too few interfaces, too many, a port that is taken, bounds that are too low."""

from __future__ import annotations

import socket

import pytest

from p2psync.limits import INTERFACES_MAX
from p2psync.node import network_checks as network
from p2psync.node.findings import Outcome
from p2psync.transport.interfaces import Interface

ONE = (Interface(2, "10.0.0.5", 24),)
MANY = tuple(Interface(2, f"10.0.0.{n + 1}", 24) for n in range(INTERFACES_MAX + 1))


@pytest.mark.parametrize(
    ("addresses", "carrying", "expected"),
    [
        (ONE, ("eth0",), Outcome.OK),
        ((), (), Outcome.WARNING),
        (ONE, (), Outcome.WARNING),
        (MANY, ("eth0",), Outcome.WARNING),
    ],
)
def test_interfaces(addresses: tuple[Interface, ...], carrying: tuple[str, ...], expected: Outcome) -> None:
    """Only loopback, none with multicast, and more than discovery uses."""
    assert network.judge_interfaces(addresses, carrying).outcome is expected


def test_a_port_that_is_not_shared() -> None:
    """A program that took the port for itself is in the way, and the hint says how to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 0))
        port = other.getsockname()[1]
        found = network.judge_joining(["127.0.0.1"], port)
    assert (found.outcome, found.found) == (Outcome.WARNING, f"port {port} is taken")
    assert network.judge_joining(["127.0.0.1"], 0).outcome is Outcome.OK


def test_a_group_that_cannot_be_joined() -> None:
    """The address on which it fails is named."""
    found = network.judge_joining(["127.0.0.1", "192.0.2.1"], 0)
    assert found.outcome is Outcome.WARNING
    assert "on 192.0.2.1 (" in found.found


def test_bounds_of_the_kernel() -> None:
    """Too few memberships, a table that is nearly full, both well, and neither told."""
    few = network.judge_kernel(3, 2, None)
    full = network.judge_kernel(1, 20, (1000, 1024))
    well = network.judge_kernel(1, 20, (3, 1024))
    assert few is not None
    assert full is not None
    assert well is not None
    assert [few.outcome, full.outcome, well.outcome] == [Outcome.WARNING, Outcome.WARNING, Outcome.OK]
    assert network.judge_kernel(1, None, None) is None
