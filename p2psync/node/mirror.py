"""Bring every encoded chunk of a version here, so that a follower of a publisher offers what the publisher does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from p2psync.content import Digest
from p2psync.errors import DigestMismatchError, P2PSyncError
from p2psync.limits import MIRROR_BYTES_MAX, PULL_BUFFERS
from p2psync.manifest import Chunk, Encoded, FormsReader, Manifest, chunk_count
from p2psync.node.nodes import read_nodes
from p2psync.node.sources import SourceSet
from p2psync.store import Store
from p2psync.transport import BufferPool, Source

Emit = Callable[[dict[str, Any]], None]


async def mirror_forms(store: Store, root: Digest, manifest: Manifest, sources: SourceSet, emit: Emit) -> None:
    """Bring what is not here, and keep it for good once all of it is.

    What no source gives is done without and said: the version itself is here, and can be given.
    """
    if manifest.forms is None or store.has_all_encoded(root):
        return
    try:
        ready = await sources.open(root)
        reader = FormsReader(manifest.forms, manifest.encoded, chunk_count(manifest))
        await read_nodes(reader, store, sources, ready)
        await asyncio.to_thread(store.add_nodes, root, reader.nodes())
        rows = {number: row for number, _, row in reader.rows()}
        for source in ready:
            await _bring(store, root, rows, source)
        whole = await asyncio.to_thread(store.finish_encoded, root, manifest)
        emit({"event": "forms", "state": "mirrored" if whole else "partly mirrored", "reason": ""})
    except P2PSyncError as error:
        emit({"event": "forms", "state": "not mirrored", "reason": str(error)})


async def _bring(store: Store, root: Digest, rows: dict[int, Encoded], source: Source) -> None:
    """Ask one source for all that is still missing. Its faults end its turn."""
    pool = BufferPool(PULL_BUFFERS)
    missing = [number for number, row in rows.items() if not store.has(row.digest)]
    try:
        for batch in _batches([Chunk(n, rows[n].digest, rows[n].length, ()) for n in missing]):
            async with aclosing(source.chunks(batch, pool)) as arrivals:
                async for chunk, buffer in arrivals:
                    try:
                        view = buffer.view(chunk.length)
                        if Digest.of(view) != chunk.digest:
                            raise DigestMismatchError(f"{source.url} sent other bytes than chunk {chunk.digest}")
                        store.keep_encoded(root, chunk.index, rows[chunk.index], view)
                    finally:
                        buffer.release()
    except P2PSyncError:
        # The next source has its turn; what is missing in the end is said by the caller.
        return


def _batches(chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
    batch: list[Chunk] = []
    for chunk in chunks:
        if batch and sum(c.length for c in batch) + chunk.length > MIRROR_BYTES_MAX:
            yield batch
            batch = []
        batch.append(chunk)
    if batch:
        yield batch
