"""Whether this machine can be found by multicast: interfaces that carry it, the group joined for a moment, bounds.

Linux numbers: <linux/sockios.h>, <linux/if.h>. The group and its port are those of multicast DNS (RFC 6762, section 3).
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

GROUP: Final = "224.0.0.251"
PORT: Final = 5353
_GET_FLAGS: Final = 0x8913
_UP, _LOOPBACK, _MULTICAST = 0x1, 0x8, 0x1000
_REQUEST: Final = "16sH14x"
_IPV4: Final = Path("/proc/sys/net/ipv4")
_NEIGHBOURS: Final = Path("/proc/net/arp")


def multicast_interfaces() -> tuple[str, ...]:
    """The names of the interfaces that are up, carry multicast and are not loopback.

    Raises:
        OSError: no socket can be opened.
    """
    names = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            request = struct.pack(_REQUEST, name.encode(), 0)
            try:
                flags = struct.unpack(_REQUEST, fcntl.ioctl(asked.fileno(), _GET_FLAGS, request))[1]
            except OSError as error:
                if error.errno == errno.ENODEV:  # It went just now.
                    continue
                raise
            if flags & _UP and flags & _MULTICAST and not flags & _LOOPBACK:
                names.append(name)
    return tuple(names)


def join_group(address: str, port: int = PORT) -> None:
    """Take the port and join the group on the interface of an IPv4 address, and leave both at once.

    Raises:
        OSError: EADDRINUSE, another program does not share the port; else the interface carries no multicast.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as joining:
        joining.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(AttributeError, OSError):
            joining.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        joining.bind(("", port))
        member = socket.inet_aton(GROUP) + socket.inet_aton(address)
        joining.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)


def memberships_max() -> int | None:
    """Groups that one socket may join, None where the kernel does not say."""
    return _number(_IPV4 / "igmp_max_memberships")


def neighbours() -> tuple[int, int] | None:
    """Entries of the IPv4 neighbour table, and how many the kernel keeps at most; None where it does not say."""
    most = _number(_IPV4 / "neigh/default/gc_thresh3")
    try:
        count = max(0, len(_NEIGHBOURS.read_text().splitlines()) - 1)
    except OSError:
        return None
    return None if most is None else (count, most)


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
