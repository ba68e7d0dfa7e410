"""Read nodes of a version: those that an earlier version brought from here, the others from the sources."""

from __future__ import annotations

from collections.abc import Sequence

from p2psync.node.sources import NodeReader, SourceSet
from p2psync.store import Store
from p2psync.transport import Source


async def read_nodes(reader: NodeReader, store: Store, sources: SourceSet, ready: Sequence[Source]) -> None:
    """Feed ``reader`` until nothing is missing.

    Raises:
        P2PSyncError: no source gave a node that proves, or one is malformed.
    """
    while wanted := reader.missing():
        known = [(d, data) for d in wanted if (data := store.node(d)) is not None]
        for digest, data in known:
            reader.feed(digest, data)
        if not known:
            await sources.read_level(reader, ready)
