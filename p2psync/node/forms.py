"""Which encoded chunks a pull fetches: what the version offers and what is here, for the planner to choose from."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Final

from p2psync.content import Digest
from p2psync.errors import P2PSyncError
from p2psync.limits import FORM_NODE_ROWS_MAX
from p2psync.manifest import Chunk, FormSet, FormsReader, Manifest, SetKind
from p2psync.node.costs import any_within, describe_forms
from p2psync.node.decoding import Decoder, bases_here
from p2psync.node.fetch import Version
from p2psync.node.nodes import read_nodes
from p2psync.node.sources import SourceSet
from p2psync.store import Store
from p2psync.swarm import Inventory, Plan, plan
from p2psync.transport import Source

Emit = Callable[[dict[str, Any]], None]
# What a row of a full form takes in its node.
_ROW_BYTES: Final = 41


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be fetched, and into which store. ``offered`` says which encoded chunks count, by number."""

    store: Store
    root: Digest
    manifest: Manifest
    table: Sequence[Chunk]
    missing: Sequence[Chunk]
    offered: Callable[[int], bool] = lambda _number: True


@dataclass(frozen=True, slots=True)
class ChosenForms:
    """A plan, the nodes that it was made from, and why there is no better one."""

    store: Store
    plan: Plan
    encoded: int
    sets: tuple[FormSet, ...] = ()
    nodes: Mapping[Digest, bytes] = field(default_factory=dict)
    bases_here: tuple[Digest, ...] = ()

    @property
    def patched_bytes(self) -> int:
        """Bytes that will be made of bytes that are here."""
        return sum(choice.chunk.length for choice in self.plan.choices if choice.row is not None and choice.row.bases)

    def version(self, root: Digest, table: Sequence[Chunk], selection: bytes) -> Version:
        """What a fetch needs."""
        chosen = {choice.number: choice for choice in self.plan.choices if choice.row is not None}
        decoder = Decoder(self.store, root, chosen)
        instead = {choice.chunk.index: number for number, choice in chosen.items()}
        return Version(root, table, selection, self.encoded, decoder, instead)

    def described(self) -> dict[str, Any]:
        """For people and programs: what is offered, what was chosen, and which bases are here."""
        return describe_forms(self.sets, self.bases_here, self.plan)


async def choose_forms(
    wish: Wish, sources: SourceSet, link_bytes_per_s: float, emit: Emit, *, offered_only: bool = False
) -> ChosenForms:
    """Choose in which form each missing chunk is fetched.

    ``offered_only`` asks the sources what they hold now, and counts on nothing else; a pull does not, since what it
    wants may be on its way to a neighbour.

    Where bases are here their deltas are read, and rows of full forms only for what these do not tell: each node of a
    site reads them over the outside link.

    A version without forms, or with forms that nobody gives or no reader understands, is fetched as it is: that is
    said, and is no fault of the pull.
    """
    manifest = wish.manifest
    nothing = ChosenForms(wish.store, plan(wish.missing, (), lambda _row: False, link_bytes_per_s), manifest.encoded)
    if manifest.forms is None or not wish.missing:
        return nothing
    bases = await asyncio.to_thread(_bases_here, wish)
    numbers = sorted(chunk.index for chunk in wish.missing)

    def patches(one: FormSet, first: int, end: int) -> bool:
        if one.kind is SetKind.RESIDUAL:
            # Only who has another variant of this version has what these need.
            return len(wish.missing) < len(wish.table) and any_within(numbers, first, end)
        return one.base in bases and any_within(numbers, first, end)

    reader = FormsReader(manifest.forms, manifest.encoded, len(wish.table), patches)
    try:
        ready = await sources.open(wish.root)
        await read_nodes(reader, wish.store, sources, ready)
        if offered_only:
            wish = replace(wish, offered=await _offered(wish, sources, ready))
        chosen = await asyncio.to_thread(_choose, wish, reader, bases, link_bytes_per_s)
        left = _Left([choice.chunk for choice in chosen.plan.choices if choice.row is None])
        reader.widen(lambda one, first, end: one.kind is SetKind.FULL and left.pays(one, first, end))
        if reader.missing():
            chosen = await _with_full_forms(wish, reader, sources, ready, chosen, emit)
        return chosen
    except P2PSyncError as error:
        emit({"event": "forms", "state": "unusable", "reason": str(error)})
        return nothing


async def _with_full_forms(
    wish: Wish, reader: FormsReader, sources: SourceSet, ready: Sequence[Source], chosen: ChosenForms, emit: Emit
) -> ChosenForms:
    """The same with the rows of full forms. Where these cannot be had, what was chosen stays."""
    try:
        await read_nodes(reader, wish.store, sources, ready)
        return await asyncio.to_thread(_choose, wish, reader, chosen.bases_here, chosen.plan.link_bytes_per_s)
    except P2PSyncError as error:
        emit({"event": "forms", "state": "unusable", "reason": str(error)})
        return chosen


async def _offered(wish: Wish, sources: SourceSet, ready: Sequence[Source]) -> Callable[[int], bool]:
    """Whether a source holds an encoded chunk now; one that does not say holds everything."""
    count = len(wish.table) + wish.manifest.encoded
    held = await sources.inventories(wish.root, count, ready)
    if any(bits is None for bits in held.values()):
        return lambda _number: True
    known = [Inventory.from_bits(bits, count) for bits in held.values() if bits is not None]
    return lambda number: any(number in one for one in known)


class _Left:
    """Chunks that nothing here tells, by number, with the bytes before each: a version may have millions."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._numbers = [chunk.index for chunk in chunks]
        self._before = list(accumulate((chunk.length for chunk in chunks), initial=0))

    def pays(self, one: FormSet, first: int, end: int) -> bool:
        """Whether the rows of a node save more than it takes to read them."""
        start, stop = bisect_left(self._numbers, first), bisect_left(self._numbers, end)
        saved = (self._before[stop] - self._before[start]) * (1 - one.encoded_bytes / one.raw_bytes)
        return saved > _ROW_BYTES * min(one.count, FORM_NODE_ROWS_MAX)


def _bases_here(wish: Wish) -> tuple[Digest, ...]:
    return tuple(base for base in wish.manifest.bases if wish.store.manifest(base) is not None)


def _choose(wish: Wish, reader: FormsReader, bases: tuple[Digest, ...], link_bytes_per_s: float) -> ChosenForms:
    rows = [found for found in reader.rows() if wish.offered(found[0])]
    chosen: Plan = plan(wish.missing, rows, lambda row: bases_here(wish.store, row), link_bytes_per_s)
    return ChosenForms(wish.store, chosen, wish.manifest.encoded, reader.sets, reader.nodes(), bases)
