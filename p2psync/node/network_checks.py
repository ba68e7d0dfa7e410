"""What is looked at of the network: whether neighbours can find this machine, and no other in its stead.

No other machine is asked.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from p2psync.limits import INTERFACES_MAX
from p2psync.node.findings import Finding, failed, ok, warning
from p2psync.node.handing import hand_over
from p2psync.node.identity import known_node_id
from p2psync.transport import multicast
from p2psync.transport.interfaces import Interface, heard_on, read_interfaces

_STATIC: Final = "other nodes are then found by --peer HOST:PORT only"
# Beyond this share of the table the kernel may have to forget a neighbour that is in use.
_TABLE_SHARE: Final = 0.8


def check_interfaces() -> Finding:
    """Interfaces that discovery could use."""
    return judge_interfaces(heard_on(read_interfaces(), None), multicast.multicast_interfaces())


def judge_interfaces(addresses: Sequence[Interface], carrying: Sequence[str]) -> Finding:
    """Judge the addresses outside loopback, and the interfaces that are up and carry multicast."""
    if not addresses:
        return warning("interfaces", "only loopback has an address", _STATIC)
    if not carrying:
        return warning("interfaces", "none that is up carries multicast", f"ip link set IFACE multicast on; {_STATIC}")
    found = f"{', '.join(carrying[:4])}{' ...' if len(carrying) > 4 else ''}, {len(addresses)} addresses"
    if len(addresses) > INTERFACES_MAX:
        hint = "p2psync serve --listen ADDRESS:PORT names the one that the site is on"
        return warning("interfaces", f"{found}: discovery uses the first {INTERFACES_MAX}", hint)
    return ok("interfaces", found)


def check_multicast(port: int = multicast.PORT) -> Finding | None:
    """Whether the group of multicast DNS can be joined on each IPv4 address outside loopback."""
    addresses = [each.address for each in heard_on(read_interfaces(), None) if ":" not in each.address]
    return judge_joining(addresses[:INTERFACES_MAX], port) if addresses else None


def judge_joining(addresses: Sequence[str], port: int) -> Finding:
    """Join on each address and say where that fails."""
    refused = []
    for address in addresses:
        try:
            multicast.join_group(address, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                hint = f"a program that does not share it runs (ss -ulpn 'sport = :{port}'); {_STATIC}"
                return warning("multicast", f"port {port} is taken", hint)
            refused.append(f"{address} ({error.strerror or error})")
    if refused:
        return warning("multicast", f"{multicast.GROUP} cannot be joined on {', '.join(refused)}", _STATIC)
    return ok("multicast", f"{multicast.GROUP}:{port} can be joined")


def check_identity(home: Path) -> Finding | None:
    """What the node that runs on the home knows of other machines with its key; None where none runs."""
    told = asyncio.run(hand_over(home, "peers", {}, lambda _event: None))
    own = known_node_id(home)
    if told is None or own is None:
        return None
    return judge_identity(own, told["banned"])


def judge_identity(own: str, refused: Sequence[Mapping[str, Any]]) -> Finding:
    """Judge what a node tells of those that it refuses: itself is among them where somebody else has its key."""
    for row in refused:
        if row["node"] == own:
            hint = "stop one of them, remove its folder node/, which holds nothing but this key, and start it again"
            return failed("identity", str(row["reason"]), hint)
    return ok("identity", f"node {own[:16]}, met nowhere else")


def check_kernel() -> Finding | None:
    """What the kernel allows of group memberships and of neighbours."""
    count = len([each for each in heard_on(read_interfaces(), None) if ":" not in each.address])
    return judge_kernel(count, multicast.memberships_max(), multicast.neighbours())


def judge_kernel(addresses: int, memberships: int | None, table: tuple[int, int] | None) -> Finding | None:
    """Judge bounds of the kernel; None where it tells neither."""
    if memberships is not None and memberships < min(addresses, INTERFACES_MAX):
        found = f"a socket may join {memberships} groups, and {addresses} addresses are to be heard on"
        return warning("kernel", found, f"sysctl -w net.ipv4.igmp_max_memberships={INTERFACES_MAX}")
    if table is not None and table[0] > _TABLE_SHARE * table[1]:
        found = f"{table[0]} of {table[1]} places for neighbours are taken"
        return warning("kernel", found, f"sysctl -w net.ipv4.neigh.default.gc_thresh3={4 * table[1]}")
    told = [f"{memberships} group memberships"] if memberships is not None else []
    if table is not None:
        told.append(f"{table[0]} of {table[1]} neighbours")
    return ok("kernel", ", ".join(told)) if told else None
