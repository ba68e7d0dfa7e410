"""A chain of deltas: when no base of a version is here, but a base of its base is, the version between comes first.

The version between is pulled and installed like any other, so its site brings it once and its files are proved, and it
goes again when the pull that needed it is done. Publishers bound a chain by the bases that they name; readers by
``CHAIN_VERSIONS_MAX``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from p2psync.content import Digest
from p2psync.errors import P2PSyncError
from p2psync.limits import CHAIN_BASES_MAX, CHAIN_GAIN_MIN
from p2psync.manifest import FormSet, FormsReader, Manifest, SetKind, TreeReader, chunk_count
from p2psync.node.nodes import read_nodes
from p2psync.node.sources import SourceSet
from p2psync.store import Store
from p2psync.transport import Source


@dataclass(frozen=True, slots=True)
class _Offer:
    """What one version can be had for: in full, and by each of its bases. In bytes."""

    full: int
    deltas: dict[Digest, int]


async def version_between(store: Store, root: Digest, manifest: Manifest, sources: SourceSet) -> Digest | None:
    """The base of ``root`` that is worth bringing first, None when none is.

    It is worth it when its delta and the delta from it together are clearly smaller than the version in full.
    """
    bases = manifest.bases[:CHAIN_BASES_MAX]
    if not bases or manifest.forms is None or any(store.manifest(base) is not None for base in bases):
        return None
    try:
        ready = await sources.open(root)
        own = await _offer(store, manifest, sources, ready)
        costs = {}
        for base in bases:
            if base in own.deltas:
                first = await _cheapest_from_here(store, base, sources)
                if first is not None:
                    costs[base] = first + own.deltas[base]
        await sources.open(root)
    except P2PSyncError:
        # What cannot be read cannot be worth it.
        return None
    best = min(costs, key=lambda base: costs[base], default=None)
    return best if best is not None and costs[best] < own.full * (1 - CHAIN_GAIN_MIN) else None


async def _cheapest_from_here(store: Store, root: Digest, sources: SourceSet) -> int | None:
    """Bytes of the smallest delta by which a version can be had from what is here."""
    reader = TreeReader(root)
    ready = await sources.open(root)
    await read_nodes(reader, store, sources, ready)
    offer = await _offer(store, reader.manifest(), sources, ready)
    return min((size for base, size in offer.deltas.items() if store.manifest(base) is not None), default=None)


async def _offer(store: Store, manifest: Manifest, sources: SourceSet, ready: Sequence[Source]) -> _Offer:
    if manifest.forms is None:
        return _Offer(manifest.size, {})
    reader = FormsReader(manifest.forms, manifest.encoded, chunk_count(manifest), lambda _set, _first, _end: False)
    await read_nodes(reader, store, sources, ready)
    return _Offer(_full_bytes(manifest, reader.sets), _delta_bytes(reader.sets))


def _full_bytes(manifest: Manifest, sets: Sequence[FormSet]) -> int:
    return manifest.size - sum(one.raw_bytes - one.encoded_bytes for one in sets if one.kind is SetKind.FULL)


def _delta_bytes(sets: Sequence[FormSet]) -> dict[Digest, int]:
    return {one.base: one.encoded_bytes for one in sets if one.base is not None}
