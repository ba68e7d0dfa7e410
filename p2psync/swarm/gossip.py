"""What neighbours tell each other about neighbours: where live nodes of the site are reached.

One message is the tag 0 and then, for each node, 8 bytes of its id, one byte 4 or 6, that many bits of address (4 or
16 bytes, network order) and its port (2 bytes, little endian). An entry is hearsay: who is there is known after the
handshake.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from p2psync.errors import MalformedError
from p2psync.limits import GOSSIP_ENTRIES_MAX

GOSSIP_TAG: Final = 0
_PORT: Final = struct.Struct("<H")
_PREFIX_BYTES: Final = 8
_ADDRESS_BYTES: Final = {4: 4, 6: 16}


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where one node is reached. ``prefix`` is the first 16 digits of its id, ``address`` has no scope."""

    prefix: str
    address: str
    port: int


def tellable(address: str) -> bool:
    """True for an address that means the same on another machine: not link-local."""
    try:
        return not ipaddress.ip_address(address).is_link_local
    except ValueError:
        return False


def encode_gossip(entries: Sequence[Whereabouts]) -> bytes:
    """One message with at most as many entries as one may have; the rest is left out."""
    parts = [bytes([GOSSIP_TAG])]
    for entry in entries[:GOSSIP_ENTRIES_MAX]:
        address = ipaddress.ip_address(entry.address)
        parts += [bytes.fromhex(entry.prefix), bytes([address.version]), address.packed, _PORT.pack(entry.port)]
    return b"".join(parts)


def decode_gossip(data: bytes) -> list[Whereabouts]:
    """Take such a message apart.

    Raises:
        MalformedError: it is none, or has more entries than one may have.
    """
    entries: list[Whereabouts] = []
    place = 1
    if data[:1] != bytes([GOSSIP_TAG]):
        raise MalformedError("it is no gossip", offset=0)
    while place < len(data):
        kind = place + _PREFIX_BYTES
        length = _ADDRESS_BYTES.get(data[kind]) if kind < len(data) else None
        if length is None or kind + 1 + length + _PORT.size > len(data):
            raise MalformedError("an entry of gossip is cut off or has no kind of address", offset=place)
        if len(entries) == GOSSIP_ENTRIES_MAX:
            raise MalformedError(f"gossip has more than {GOSSIP_ENTRIES_MAX} entries", offset=place)
        end = kind + 1 + length
        address = ipaddress.ip_address(data[kind + 1 : end])
        entries.append(Whereabouts(data[place:kind].hex(), str(address), _PORT.unpack_from(data, end)[0]))
        place = end + _PORT.size
    return entries
