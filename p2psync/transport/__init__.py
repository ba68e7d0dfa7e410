"""Sockets: sources that chunks come from, the server that gives them, and the socket that a node is steered by.

The names are loaded when they are first used: whoever only steers a running node never imports aiohttp.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2psync.transport.buffers import Buffer, BufferPool
    from p2psync.transport.channel import ChannelTimes, SiteChannel, Speaker
    from p2psync.transport.dial import connect
    from p2psync.transport.discovery import Discovery, Hint
    from p2psync.transport.endpoint import parse_endpoint
    from p2psync.transport.handshake import Hello, Reason, node_id_of
    from p2psync.transport.interfaces import Interface, base_url, inside, listens_on, parse_address, read_interfaces
    from p2psync.transport.library import Library
    from p2psync.transport.local import LocalServer, call
    from p2psync.transport.meters import Meters
    from p2psync.transport.sending import Located
    from p2psync.transport.server import Page, ServeLimits, Server, SiteRoute, Told
    from p2psync.transport.site import Channels
    from p2psync.transport.source import HeadReply, Source, SourceKind, Timeouts, Wire

__all__ = [
    "Buffer",
    "BufferPool",
    "ChannelTimes",
    "Channels",
    "Discovery",
    "HeadReply",
    "Hello",
    "Hint",
    "Interface",
    "Library",
    "LocalServer",
    "Located",
    "Meters",
    "Page",
    "Reason",
    "ServeLimits",
    "Server",
    "SiteChannel",
    "SiteRoute",
    "Source",
    "SourceKind",
    "Speaker",
    "Timeouts",
    "Told",
    "Wire",
    "base_url",
    "call",
    "connect",
    "inside",
    "listens_on",
    "node_id_of",
    "parse_address",
    "parse_endpoint",
    "read_interfaces",
]

_HOMES = {
    "Buffer": "buffers",
    "BufferPool": "buffers",
    "ChannelTimes": "channel",
    "Channels": "site",
    "Discovery": "discovery",
    "HeadReply": "source",
    "Hello": "handshake",
    "Hint": "discovery",
    "Interface": "interfaces",
    "Library": "library",
    "LocalServer": "local",
    "Located": "sending",
    "Meters": "meters",
    "Page": "server",
    "Reason": "handshake",
    "ServeLimits": "server",
    "Server": "server",
    "SiteChannel": "channel",
    "SiteRoute": "server",
    "Source": "source",
    "SourceKind": "source",
    "Speaker": "channel",
    "Timeouts": "source",
    "Told": "server",
    "Wire": "source",
    "base_url": "interfaces",
    "call": "local",
    "connect": "dial",
    "inside": "interfaces",
    "listens_on": "interfaces",
    "node_id_of": "handshake",
    "parse_address": "interfaces",
    "parse_endpoint": "endpoint",
    "read_interfaces": "interfaces",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
