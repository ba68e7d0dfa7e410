"""Sockets: sources that chunks come from, the server that gives them, and the socket that a node is steered by.

The names are loaded when they are first used: whoever only steers a running node never imports aiohttp.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2psync.transport.buffers import Buffer, BufferPool
    from p2psync.transport.dial import connect
    from p2psync.transport.local import LocalServer, call
    from p2psync.transport.sending import Located
    from p2psync.transport.server import Library, ServeLimits, Server
    from p2psync.transport.source import HeadReply, Source, SourceKind, Timeouts, Wire

__all__ = [
    "Buffer",
    "BufferPool",
    "HeadReply",
    "Library",
    "LocalServer",
    "Located",
    "ServeLimits",
    "Server",
    "Source",
    "SourceKind",
    "Timeouts",
    "Wire",
    "call",
    "connect",
]

_HOMES = {
    "Buffer": "buffers",
    "BufferPool": "buffers",
    "HeadReply": "source",
    "Library": "server",
    "LocalServer": "local",
    "Located": "sending",
    "ServeLimits": "server",
    "Server": "server",
    "Source": "source",
    "SourceKind": "source",
    "Timeouts": "source",
    "Wire": "source",
    "call": "local",
    "connect": "dial",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
