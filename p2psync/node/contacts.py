"""One neighbour: its channel, where it is, what others may be told of it, and what it may be told."""

from __future__ import annotations

from dataclasses import dataclass

from p2psync.swarm import TokenBucket
from p2psync.swarm.acquaintances import PREFIX_CHARS
from p2psync.swarm.gossip import Whereabouts, tellable
from p2psync.transport import SiteChannel, parse_address


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A node with a channel to this one, as it is now.

    ``url`` is the base URL of its server, None if it serves nowhere. Times are those of ``loop.time()``. The bytes are
    those of the channel: frames of WebSocket, without TCP and IP headers.
    """

    id: str
    url: str | None
    address: str
    rtt_s: float
    since_s: float
    software: str
    static: bool
    sent_bytes: int
    received_bytes: int


@dataclass(slots=True)
class Contact:
    """A channel and what belongs to it. ``gossip`` is how much of the node's gossip is read."""

    channel: SiteChannel
    url: str | None
    gossip: TokenBucket

    @property
    def near(self) -> bool:
        """Whether the node speaks from this machine's loopback."""
        return is_loopback(self.channel.address)

    def whereabouts(self) -> Whereabouts | None:
        """What may be told of the node: where it was reached, if that means something on another machine."""
        channel = self.channel
        if not channel.peer.port or not tellable(channel.address):
            return None
        return Whereabouts(channel.node[:PREFIX_CHARS], channel.address, channel.peer.port)

    def shares(self, entry: Whereabouts) -> bool:
        """Whether an address means the same to both sides: one on this machine alone is for nodes on it alone."""
        return self.near or not is_loopback(entry.address)

    def neighbour(self, *, static: bool) -> Neighbour:
        """The node as it is now. ``static``: the operator named it."""
        channel = self.channel
        return Neighbour(
            id=channel.node,
            url=self.url,
            address=channel.address,
            rtt_s=channel.rtt_s,
            since_s=channel.since_s,
            software=channel.peer.software,
            static=static,
            sent_bytes=channel.sent_bytes,
            received_bytes=channel.received_bytes,
        )


def place_of(channel: SiteChannel) -> str:
    """Where a node is, as people read it; 0 is the port of one that serves nowhere."""
    return f"{channel.address}:{channel.peer.port}"


def is_loopback(text: str) -> bool:
    """Whether an address is one of this machine's loopback."""
    address = parse_address(text)
    return address is not None and address.is_loopback
