"""What a version's forms offer and what a plan of them costs, for people and programs."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from p2psync.content import Digest
from p2psync.errors import P2PSyncError
from p2psync.limits import DIFF_ROWS_MAX, FORM_NODE_ROWS_MAX
from p2psync.manifest import Encoded, FormSet, Layer, Manifest, SetKind, chunk_table, missing_chunks
from p2psync.store import Store
from p2psync.swarm import RAW, Plan, plan


def describe_set(one: FormSet) -> dict[str, Any]:
    """What a set of forms offers: bytes of its chunks, and of what they are encoded as."""
    return {
        "kind": one.kind.name.lower(),
        "base": str(one.base) if one.base is not None else None,
        "chunks": one.count,
        "raw": one.raw_bytes,
        "encoded": one.encoded_bytes,
    }


def describe_forms(sets: Sequence[FormSet], bases_here: Collection[Digest], chosen: Plan) -> dict[str, Any]:
    """What is offered, whether its base is here, and what was chosen."""
    return {
        "offered": [describe_set(one) | {"here": one.base is None or one.base in bases_here} for one in sets],
        "chosen": [
            {"kind": kind, "chunks": count, "raw": raw, "wire": wire}
            for kind, (count, raw, wire) in sorted(chosen.by_kind().items())
        ],
    }


@dataclass(frozen=True, slots=True)
class Costs:
    """What a holder of the version ``base`` moves to have another one.

    ``ways`` are plans by the kind of form, raw among them: if of all forms only this one were used. ``pull`` is what it
    chooses. ``unread`` encoded chunks were not looked at, since that many rows are not read.
    """

    base: Digest
    sets: tuple[FormSet, ...]
    ways: Mapping[str, Plan]
    pull: Plan
    unread: int

    def described(self) -> dict[str, Any]:
        """For people and programs."""
        return {
            **describe_forms(self.sets, (self.base,), self.pull),
            "link": self.pull.link_bytes_per_s,
            "unread": self.unread,
            **_told(self.ways, self.pull),
        }

    def by_layer(self, owners: Sequence[Layer], layers: Iterable[Layer]) -> Iterator[dict[str, Any]]:
        """The same of each of ``layers``: their sums are the costs of the version.

        Args:
            owners: The layer of each chunk, by number.
            layers: Those to tell of, in this order.
        """
        ways = {kind: way.split(lambda chunk: owners[chunk.index]) for kind, way in self.ways.items()}
        pull = self.pull.split(lambda chunk: owners[chunk.index])
        nothing = Plan((), self.pull.link_bytes_per_s)
        for layer in layers:
            yield _told({kind: way.get(layer, nothing) for kind, way in ways.items()}, pull.get(layer, nothing))


def between(store: Store, before: Manifest, after: Manifest, base: Digest, link_bytes_per_s: float) -> Costs:
    """What a holder of ``before``, whose root is ``base``, moves to have ``after``: in each form, and as it chooses.

    Only what stands in this home is looked at: a version whose forms are not here moves as it is. Of these forms the
    rows are read that tell of chunks that are missing, up to a bound.
    """
    here = {chunk.digest for chunk in chunk_table(before)}
    missing = missing_chunks(before, after)

    def has_base(row: Encoded) -> bool:
        return all(piece.digest in here for piece in row.bases)

    wants = _Wants(base, [chunk.index for chunk in missing])
    try:
        reader = store.forms(after, wants)
        sets, rows = reader.sets, [row for row in reader.rows() if wants.is_missing(row[2].chunk)]
    except P2PSyncError:
        sets, rows = (), []
    ways = {RAW: plan(missing, (), has_base, link_bytes_per_s)}
    for one in sets:
        if one.base in (None, base):
            own = [row for row in rows if row[1] is one]
            ways[one.kind.name.lower()] = plan(missing, own, has_base, link_bytes_per_s)
    return Costs(base, sets, ways, plan(missing, rows, has_base, link_bytes_per_s), wants.unread)


class _Wants:
    """Which nodes of forms a comparison reads: those that tell a holder of ``base`` of what it lacks, up to a bound."""

    def __init__(self, base: Digest, missing: Sequence[int]) -> None:
        self._base = base
        self._missing = missing
        self._read: Counter[tuple[SetKind, Digest | None]] = Counter()
        self.unread = 0

    def __call__(self, one: FormSet, first: int, end: int) -> bool:
        if one.base not in (None, self._base) or not any_within(self._missing, first, end):
            return False
        rows = min(FORM_NODE_ROWS_MAX, one.count)
        if self._read[one.kind, one.base] + rows > DIFF_ROWS_MAX:
            self.unread += rows
            return False
        self._read[one.kind, one.base] += rows
        return True

    def is_missing(self, chunk: int) -> bool:
        """Whether a row of this chunk counts."""
        return any_within(self._missing, chunk, chunk + 1)


def any_within(numbers: Sequence[int], first: int, end: int) -> bool:
    """Whether one of the ascending ``numbers`` is in the range."""
    near = bisect_left(numbers, first)
    return near < len(numbers) and numbers[near] < end


def _told(ways: Mapping[str, Plan], pull: Plan) -> dict[str, Any]:
    return {"ways": [{"kind": kind, **_cost(way)} for kind, way in ways.items()], "pull": _cost(pull)}


def _cost(way: Plan) -> dict[str, Any]:
    # Microseconds, so that what the layers take adds up to what the version takes.
    return {"wire": way.wire_bytes, "seconds": round(way.seconds, 6)}
