"""Which addresses are near, and how they are written."""

import ifaddr
import pytest

from p2psync.errors import DiscoveryError
from p2psync.transport import Interface, base_url, inside, listens_on, parse_address, parse_endpoint, read_interfaces
from p2psync.transport.interfaces import heard_on, host_text, multicast_choice

LO4, LO6 = Interface(1, "127.0.0.1", 8), Interface(1, "::1", 128)
LAN = Interface(2, "192.0.2.7", 24)
LAN6, LINK6 = Interface(2, "fd00::7", 64), Interface(2, "fe80::7", 64)
POINT = Interface(3, "198.51.100.1", 32)
ALL = (LO4, LO6, LAN, LAN6, LINK6, POINT)


@pytest.mark.parametrize(
    ("address", "near"),
    [
        ("192.0.2.9", True),
        ("192.0.2.7", True),
        ("192.0.2.255", False),  # Broadcast.
        ("192.0.3.9", False),
        ("198.51.100.1", True),
        ("198.51.100.2", False),
        ("8.8.8.8", False),
        ("fd00::1234", True),
        ("fd01::1234", False),
        ("fe80::1%2", True),
        ("fe80::1%3", False),  # An interface without IPv6.
        ("fe80::1%eth0", False),
        ("fe80::1", False),
        ("fd00::1234%2", False),
        ("::ffff:192.0.2.9", False),
        ("224.0.0.251", False),
        ("ff02::fb", False),
        ("0.0.0.0", False),
        ("::", False),
        ("localhost", False),
        ("192.0.2.9/24", False),
        ("", False),
    ],
)
def test_near_is_inside_a_subnet_of_ours(address: str, near: bool) -> None:
    """Only addresses of our own subnets are near; a link-local one needs the scope of one of our interfaces."""
    assert inside(address, ALL, loopback=True) is near


def test_loopback_is_near_to_whoever_listens_there() -> None:
    """An announcement cannot send a node to its own loopback, unless it listens there."""
    for address in ("127.0.0.1", "127.8.8.8", "::1"):
        assert inside(address, ALL, loopback=True)
        assert not inside(address, ALL, loopback=False)


@pytest.mark.parametrize(
    ("host", "there", "elsewhere"),
    [
        ("", ("127.0.0.1", "192.0.2.7", "fd00::7"), ()),
        ("0.0.0.0", ("127.0.0.1", "192.0.2.7"), ("::1", "fd00::7")),
        ("::", ("::1", "fd00::7"), ("192.0.2.7",)),
        ("192.0.2.7", ("192.0.2.7",), ("127.0.0.1", "192.0.2.8")),
        ("fe80::7%eth0", ("fe80::7%2",), ("fe80::8%2",)),
        (None, (), ("127.0.0.1", "192.0.2.7")),
    ],
)
def test_where_a_node_listens(host, there, elsewhere) -> None:
    """A node listens on what its host covers."""
    assert all(listens_on(host, address) for address in there)
    assert not any(listens_on(host, address) for address in elsewhere)


def test_multicast_is_joined_where_a_node_listens() -> None:
    """By address for IPv4, once by number for IPv6, and never on IPv6 loopback; who listens nowhere skips loopback."""
    assert multicast_choice(heard_on(ALL, "")) == ["127.0.0.1", "192.0.2.7", 2, "198.51.100.1"]
    assert multicast_choice(heard_on(ALL, None)) == ["192.0.2.7", 2, "198.51.100.1"]
    assert multicast_choice(heard_on(ALL, "127.0.0.1")) == ["127.0.0.1"]
    assert multicast_choice(heard_on(ALL, "::1")) == []
    many = [Interface(number, f"10.0.{number}.1", 24) for number in range(1, 60)]
    assert len(multicast_choice(many)) == 16


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("192.0.2.7", "http://192.0.2.7:7000"),
        ("fd00::7", "http://[fd00::7]:7000"),
        ("fe80::7%2", "http://[fe80::7%252]:7000"),
    ],
)
def test_urls_of_addresses_read_back(address: str, url: str) -> None:
    """The URL of an address is one that leads back to it."""
    assert base_url(address, 7000) == url
    assert (parse_endpoint(url).host, parse_endpoint(url).port) == (address, 7000)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (("192.0.2.7", 80), "192.0.2.7"),
        (("fd00::7", 80, 0, 0), "fd00::7"),
        (("fe80::7%eth0", 80, 0, 2), "fe80::7%2"),
        (("fe80::7", 80, 0, 2), "fe80::7%2"),
        (("::ffff:192.0.2.7", 80, 0, 0), "192.0.2.7"),
        (None, ""),
        ("/a/socket", ""),
        ((), ""),
    ],
)
def test_ends_of_sockets_are_read(name: object, text: str) -> None:
    """A link-local end keeps its scope as a number; a mapped one is IPv4."""
    assert host_text(name) == text


def test_this_machine_has_addresses() -> None:
    """The kernel's list holds loopback, each entry with its subnet."""
    found = read_interfaces()
    assert any(each.address == "127.0.0.1" and each.prefix_bits == 8 for each in found)
    assert list(found) == sorted(set(found))
    assert all(parse_address(each.address) in each.network for each in found)


def test_a_kernel_that_does_not_say_is_a_named_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """An OSError of the listing becomes ours."""

    def fail() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(ifaddr, "get_adapters", fail)
    with pytest.raises(DiscoveryError, match="cannot be listed"):
        read_interfaces()
