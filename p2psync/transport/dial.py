"""From a URL to a source. Whether an HTTP server is a peer or an origin tree is learnt from its first answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from p2psync.content import Digest
from p2psync.errors import RemoteProtocolError
from p2psync.limits import HTTP_HEAD_BYTES_MAX
from p2psync.manifest import Chunk
from p2psync.transport.buffers import Buffer, BufferPool
from p2psync.transport.endpoint import Endpoint, parse_endpoint
from p2psync.transport.exchange import Client, Fetcher
from p2psync.transport.fast import FastFetcher
from p2psync.transport.folder import FolderTree
from p2psync.transport.heads import PROTOCOL, fetch_head
from p2psync.transport.origin import OriginSource
from p2psync.transport.peer import PeerSource
from p2psync.transport.plain import PlainClient
from p2psync.transport.source import HeadReply, Meter, Source, SourceKind, Timeouts, Wire


def connect(url: str, kind: SourceKind, *, timeouts: Timeouts | None = None, fast: bool = True) -> Source:
    """A source for ``url``: ``http://``, ``https://`` or ``file:///``. Opens no connection yet.

    ``fast`` off leaves everything to aiohttp, as it is always over HTTPS and through a proxy.

    Raises:
        UsageError: the URL is none of these.
    """
    timeouts = timeouts or Timeouts()
    if url.startswith("file:"):
        wire = Wire()
        tree = FolderTree(url, timeouts, wire)
        return OriginSource(url, kind, wire, tree, tree)
    return WebSource(parse_endpoint(url), kind, timeouts, fast=fast)


class WebSource:
    """An HTTP source of either sort. See ``Source`` for what each method promises."""

    def __init__(self, endpoint: Endpoint, kind: SourceKind, timeouts: Timeouts, *, fast: bool) -> None:
        self.url = endpoint.url
        self.kind = kind
        self.wire = Wire()
        self._source: PeerSource | OriginSource | None = None
        self._client: Client
        self._fetcher: Fetcher
        proxy = endpoint.proxy() if kind is SourceKind.WAN else None
        if fast and not endpoint.tls and not endpoint.login and proxy is None:
            self._client = PlainClient(endpoint, timeouts, self.wire)
            self._fetcher = FastFetcher(endpoint, timeouts, self.wire)
        else:
            # aiohttp takes longer to import than a small pull takes to run.
            from p2psync.transport.http import HttpClient

            self._client = self._fetcher = HttpClient(endpoint, proxy, timeouts, self.wire)

    async def head(self, name: str, selector: str, etag: str | None = None) -> HeadReply:
        """See ``Source.head``. The first answer says which sort of source this is."""
        reply, protocol = await fetch_head(self._client, self.url, name, selector, etag)
        if self._source is None:
            self._become(protocol)
        return reply

    async def open(self, root: Digest) -> None:
        """See ``Source.open``."""
        await (await self._known()).open(root)

    async def nodes(self, digests: Sequence[Digest]) -> dict[Digest, bytes]:
        """See ``Source.nodes``."""
        return await (await self._known()).nodes(digests)

    async def inventory(self, root: Digest, count: int) -> bytes | None:
        """See ``Source.inventory``."""
        return await (await self._known()).inventory(root, count)

    async def part(self, chunk: Chunk, start: int, length: int, pool: BufferPool, meter: Meter | None = None) -> Buffer:
        """See ``Source.part``."""
        return await (await self._known()).part(chunk, start, length, pool, meter)

    async def chunks(
        self, batch: Sequence[Chunk], pool: BufferPool, meter: Meter | None = None
    ) -> AsyncGenerator[tuple[Chunk, Buffer]]:
        """See ``Source.chunks``."""
        source = await self._known()
        async with aclosing(source.chunks(batch, pool, meter)) as chunks:
            async for pair in chunks:
                yield pair

    async def close(self) -> None:
        """See ``Source.close``."""
        await self._fetcher.close()
        await self._client.close()

    async def _known(self) -> PeerSource | OriginSource:
        """Ask who is there, where nobody asked for a head before."""
        if self._source is None:
            reply = await self._client.get("v1/node", HTTP_HEAD_BYTES_MAX)
            return self._become(reply.protocol)
        return self._source

    def _become(self, protocol: str | None) -> PeerSource | OriginSource:
        if protocol not in (None, PROTOCOL):
            raise RemoteProtocolError(f"{self.url} speaks protocol {protocol!r}, this p2psync speaks {PROTOCOL}")
        if protocol == PROTOCOL:
            self._source = PeerSource(self.url, self.kind, self.wire, self._client, self._fetcher)
        else:
            self._source = OriginSource(self.url, self.kind, self.wire, self._client, self._fetcher)
        return self._source
