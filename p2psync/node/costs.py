"""What a version's forms offer and what a plan of them costs, for people and programs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from p2psync.content import Digest
from p2psync.errors import P2PSyncError
from p2psync.manifest import Encoded, FormSet, Manifest, chunk_table
from p2psync.store import Store
from p2psync.swarm import Plan, plan


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


def between(store: Store, before: Manifest, after: Manifest, base: Digest, link_bytes_per_s: float) -> dict[str, Any]:
    """What a holder of ``before``, whose root is ``base``, moves to have ``after``: in each form, and as it chooses.

    Only what stands in this home is looked at: a version whose forms are not here moves as it is.
    """
    here = {chunk.digest for chunk in chunk_table(before)}
    missing = [chunk for chunk in chunk_table(after) if chunk.digest not in here]

    def has_base(row: Encoded) -> bool:
        return all(piece.digest in here for piece in row.bases)

    try:
        reader = store.forms(after)
        sets, rows = reader.sets, list(reader.rows())
    except P2PSyncError:
        sets, rows = (), []
    chosen = plan(missing, rows, has_base, link_bytes_per_s)
    ways = {"raw": plan(missing, (), has_base, link_bytes_per_s)}
    for one in sets:
        kind = one.kind.name.lower()
        if one.base in (None, base):
            ways[kind] = plan(missing, [row for row in rows if row[1] is one], has_base, link_bytes_per_s)
    return {
        **describe_forms(sets, (base,), chosen),
        "link": link_bytes_per_s,
        "ways": [{"kind": kind, **_cost(way)} for kind, way in ways.items()],
        "pull": _cost(chosen),
    }


def _cost(way: Plan) -> dict[str, Any]:
    return {"wire": way.wire_bytes, "seconds": round(way.seconds, 3)}
