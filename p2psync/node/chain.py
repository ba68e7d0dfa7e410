"""A chain of deltas: when no base of a version is here, but a base of its base is, the version between comes first.

The version between is pulled and installed like any other, so its site brings it once and its files are proved, and it
goes again when the pull that needed it is done. Publishers bound a chain by the bases that they name; readers by
``CHAIN_VERSIONS_MAX``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from p2psync.content import Digest
from p2psync.errors import P2PSyncError
from p2psync.limits import CHAIN_BASES_MAX, CHAIN_GAIN_MIN
from p2psync.manifest import FormSet, FormsReader, Manifest, SetKind, TreeReader, chunk_count, chunk_table
from p2psync.node.nodes import read_nodes
from p2psync.node.sources import SourceSet
from p2psync.store import Store
from p2psync.transport import Source


@dataclass(frozen=True, slots=True)
class _Offer:
    """One version, and its sets of encoded chunks."""

    manifest: Manifest
    sets: tuple[FormSet, ...]

    @property
    def bases(self) -> set[Digest]:
        """The versions that it has deltas from."""
        return {one.base for one in self.sets if one.base is not None}

    def cost(self, here: Container[Digest], base: Digest | None) -> int:
        """Bytes to bring it to who holds the chunks ``here``: in full, or by the deltas from ``base``.

        Deltas tell chunks that are not here, so what they do not tell comes as it is.
        """
        missing = sum(chunk.length for chunk in chunk_table(self.manifest) if chunk.digest not in here)
        for one in self.sets:
            if one.kind is SetKind.FULL and base is None:
                return round(missing * (1 - (one.raw_bytes - one.encoded_bytes) / max(1, self.manifest.size)))
            if base is not None and one.base == base:
                return max(0, missing - one.raw_bytes) + one.encoded_bytes
        return missing


async def version_between(store: Store, root: Digest, manifest: Manifest, sources: SourceSet) -> Digest | None:
    """The base of ``root`` that is worth bringing first, None when none is.

    It is worth it when its delta and the delta from it together are clearly smaller than the version in full.
    """
    bases = manifest.bases[:CHAIN_BASES_MAX]
    if not bases or manifest.forms is None or any(store.manifest(base) is not None for base in bases):
        return None
    try:
        own = await _offer(store, manifest, sources, await sources.open(root))
        offers = {base: await _read(store, base, sources) for base in bases if base in own.bases}
        await sources.open(root)
    except P2PSyncError:
        # What cannot be read cannot be worth it.
        return None
    return await asyncio.to_thread(_shortest, store, own, offers)


def _shortest(store: Store, own: _Offer, offers: Mapping[Digest, _Offer]) -> Digest | None:
    """Over which version the way is clearly shorter than the direct one."""
    every = [own, *offers.values()]
    here = {c.digest for offer in every for c in chunk_table(offer.manifest) if store.has(c.digest)}
    costs = {}
    for base, offer in offers.items():
        firsts = [offer.cost(here, known) for known in offer.bases if store.manifest(known) is not None]
        if firsts:
            there = here | {chunk.digest for chunk in chunk_table(offer.manifest)}
            costs[base] = min(firsts) + own.cost(there, base)
    best = min(costs, key=lambda base: costs[base], default=None)
    direct = own.cost(here, None)
    return best if best is not None and costs[best] < direct * (1 - CHAIN_GAIN_MIN) else None


async def _read(store: Store, root: Digest, sources: SourceSet) -> _Offer:
    reader = TreeReader(root)
    ready = await sources.open(root)
    await read_nodes(reader, store, sources, ready)
    return await _offer(store, reader.manifest(), sources, ready)


async def _offer(store: Store, manifest: Manifest, sources: SourceSet, ready: Sequence[Source]) -> _Offer:
    if manifest.forms is None:
        return _Offer(manifest, ())
    reader = FormsReader(manifest.forms, manifest.encoded, chunk_count(manifest), lambda _set, _first, _end: False)
    await read_nodes(reader, store, sources, ready)
    return _Offer(manifest, reader.sets)
