"""The addresses of this machine, and which others are near: the only part that knows ifaddr."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import ifaddr

from p2psync.errors import DiscoveryError
from p2psync.limits import INTERFACES_MAX

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# The metadata services of clouds. A machine may have an address in their subnets.
_METADATA: Final = frozenset(map(ipaddress.ip_address, ("169.254.169.254", "169.254.170.2", "fd00:ec2::254")))


@dataclass(frozen=True, slots=True, order=True)
class Interface:
    """One address of one network interface. ``index`` is the kernel's number, the scope of link-local addresses."""

    index: int
    address: str
    prefix_bits: int

    @property
    def network(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        """The subnet that the address stands in."""
        return ipaddress.ip_network(f"{self.address}/{self.prefix_bits}", strict=False)


def read_interfaces() -> tuple[Interface, ...]:
    """The addresses that this machine has now, in a fixed order.

    Raises:
        DiscoveryError: the kernel does not say.
    """
    try:
        adapters = list(ifaddr.get_adapters())
    except OSError as error:
        raise DiscoveryError(f"the network interfaces cannot be listed: {error}") from error
    found = set()
    for adapter in adapters:
        for ip in adapter.ips:
            address = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            found.add(Interface(adapter.index or 0, address.partition("%")[0], ip.network_prefix))
    return tuple(sorted(found))


def listens_on(host: str | None, address: str) -> bool:
    """True if a node that listens on ``host`` answers on ``address``. Empty: all interfaces; None: nowhere."""
    if not host:
        return host is not None
    if host in ("::", "0.0.0.0"):  # noqa: S104 - Compared, not bound.
        return (":" in host) == (":" in address)
    return host.partition("%")[0] == address.partition("%")[0]


def heard_on(interfaces: Iterable[Interface], host: str | None) -> tuple[Interface, ...]:
    """Those that a node announces itself and hears others on: where it listens, or all but loopback."""
    if host is None:
        return tuple(each for each in interfaces if not ipaddress.ip_address(each.address).is_loopback)
    return tuple(each for each in interfaces if listens_on(host, each.address))


def inside(text: str, interfaces: Iterable[Interface], *, loopback: bool) -> bool:
    """True if an address that somebody told us lies inside the site's own networks.

    Those are the subnets of our own addresses. A link-local IPv6 address counts with the scope of one of our
    interfaces only, loopback only for a node that listens there. Anything else (the internet, a name, multicast,
    an unspecified or mapped address, and where clouds answer with a machine's credentials) is outside.
    """
    address = parse_address(text)
    if address is None or address.is_multicast or address.is_unspecified or address in _METADATA:
        return False
    if address.is_loopback:
        return loopback
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return False
        if address.is_link_local:
            scopes = {str(each.index) for each in interfaces if ":" in each.address}
            return address.scope_id is not None and address.scope_id in scopes
        if address.scope_id is not None:
            return False
    return any(_covers(each, address) for each in interfaces)


def _covers(interface: Interface, address: _Address) -> bool:
    network = interface.network
    if network.version != address.version or network.is_loopback:
        return False
    if isinstance(network, ipaddress.IPv4Network) and network.prefixlen < 31 and address == network.broadcast_address:
        return False
    return address in network


def parse_address(text: str) -> _Address | None:
    """An IPv4 or IPv6 address, None for anything else."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def base_url(address: str, port: int) -> str:
    """The URL of a node's server. A scope becomes ``%25`` and the interface's number (RFC 6874)."""
    host = address.replace("%", "%25")
    return f"http://[{host}]:{port}" if ":" in address else f"http://{host}:{port}"


def host_text(name: object) -> str:
    """The address in what a socket says of one of its ends; empty if it says nothing."""
    if not isinstance(name, tuple) or not name:
        return ""
    text = str(name[0]).partition("%")[0]
    address = parse_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        if address.is_link_local and len(name) == 4 and name[3]:
            return f"{text}%{name[3]}"
    return text


def multicast_choice(interfaces: Sequence[Interface]) -> list[str | int]:
    """How zeroconf is told to join: IPv4 by address, IPv6 by the interface's number. Never IPv6 loopback."""
    chosen: list[str | int] = []
    for each in interfaces:
        address = ipaddress.ip_address(each.address)
        if address.version == 4:
            chosen.append(each.address)
        elif not address.is_loopback and each.index and each.index not in chosen:
            # Sending to the group over ::1 fails: loopback has no route for it.
            chosen.append(each.index)
    return chosen[:INTERFACES_MAX]
