"""Reading a signed head: the one resource that a peer and an origin tree answer alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol
from urllib.parse import quote

from p2psync.errors import ModelNotFoundError, RemoteProtocolError
from p2psync.limits import HEAD_BYTES_MAX
from p2psync.transport.exchange import GONE, Reply
from p2psync.transport.source import HeadReply

PROTOCOL: Final = "1"
# A longer etag is not repeated: nothing changed must stay below 1 KiB in both directions.
_ETAG_CHARS_MAX: Final = 128


class Resources(Protocol):
    """Whatever answers GET: an HTTP server or a folder."""

    async def get(self, path: str, bytes_max: int, headers: Mapping[str, str] | None = None) -> Reply:
        """Read a resource of at most ``bytes_max`` bytes."""


def head_path(name: str, selector: str) -> str:
    """Where the head of ``name`` stands. ``selector`` is a tag or ``b3:`` and hex digits."""
    kind, value = ("digests", selector[3:]) if selector.startswith("b3:") else ("tags", selector)
    return f"v1/heads/{quote(name, safe='/')}/{kind}/{quote(value, safe='')}"


async def fetch_head(
    resources: Resources, url: str, name: str, selector: str, etag: str | None
) -> tuple[HeadReply, str | None]:
    """The head and the protocol that the server says it speaks (None: it is an origin tree).

    Raises:
        ModelNotFoundError: the source answered that it is not there.
        RemoteProtocolError: it speaks another protocol, or says "not modified" to who has nothing.
    """
    if etag is not None and not (etag.isascii() and etag.isprintable()):
        etag = None
    headers = None if etag is None else {"If-None-Match": etag}
    reply = await resources.get(head_path(name, selector), HEAD_BYTES_MAX, headers)
    if reply.protocol not in (None, PROTOCOL):
        raise RemoteProtocolError(f"{url} speaks protocol {reply.protocol[:20]!r}, this p2psync speaks {PROTOCOL}")
    if reply.status in GONE:
        raise ModelNotFoundError(f"{url} does not know {name} {selector}")
    if reply.status == 304 and etag is None:
        raise RemoteProtocolError(f"{url} answered a first question with 304")
    tag = reply.etag if reply.etag is not None and len(reply.etag) <= _ETAG_CHARS_MAX else None
    return HeadReply(None if reply.status == 304 else reply.body, tag or etag), reply.protocol
