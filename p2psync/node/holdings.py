"""What this node holds of a version that it does not know yet: found by digest, from a manifest that the asker has."""

from __future__ import annotations

import asyncio

from p2psync.content import Digest
from p2psync.errors import P2PSyncError
from p2psync.limits import HOLDINGS_CHUNKS_MAX, HOLDINGS_S
from p2psync.manifest import TreeReader, chunk_table
from p2psync.node.nodes import read_nodes
from p2psync.node.sources import SourceSet
from p2psync.store import Store
from p2psync.swarm import Inventory


async def holdings(store: Store, root: Digest, count: int, url: str) -> Inventory | None:
    """Which of the ``count`` chunks of the version ``root`` stand in this store, whatever version brought them.

    The manifest is read from the node at ``url``, which wants to know. Nothing of it is kept or believed: its digests
    are looked up, and bytes are proved by whoever gets them. None where the manifest cannot be had, or is not worth it.
    """
    if not 0 < count <= HOLDINGS_CHUNKS_MAX:
        return None
    reader = TreeReader(root)
    try:
        async with asyncio.timeout(HOLDINGS_S), SourceSet(((url, "lan"),), lambda _event: None) as sources:
            await read_nodes(reader, store, sources, sources.all)
            return await asyncio.to_thread(_held, store, reader, count)
    except (P2PSyncError, TimeoutError):
        return None


def _held(store: Store, reader: TreeReader, count: int) -> Inventory | None:
    manifest = reader.manifest()
    table = chunk_table(manifest)
    if len(table) + manifest.encoded != count:
        return None
    return Inventory(count, (chunk.index for chunk in table if store.has(chunk.digest)))
