"""Which nodes of a site fetch from outside, and over how many connections each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# Four were as fast as six or sixteen, lose less than one when one dies, and leave no long tail of slow chunks.
FETCHERS_MAX: Final = 4
# A node that gets less than this share of the median per connection has a path of its own that is bad.
_OUTSIDE_SHARE_MIN: Final = 0.25


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that wants a version and reaches its source. Rates in bytes/s, 0 is unknown.

    ``salt`` orders the nodes alike for everybody. ``selection`` is the same for nodes that want the same chunks.
    """

    node: str
    salt: int
    selection: bytes = b""
    outside_rate: float = 0.0
    lan_rate: float = 0.0


def fit(candidates: Sequence[Candidate], connections: int) -> list[Candidate]:
    """Those whose rates do not speak against them.

    A rate excludes and never orders: an order by rate flaps, and every flap strands half-fetched chunks. Out are
    nodes far slower outside than the rest (their chunks come last) and nodes whose LAN port is slower than the
    whole outside link (what they fetch sits behind that port). Unknown rates count as fit.
    """
    known = sorted(c.outside_rate for c in candidates if c.outside_rate > 0)
    median = known[len(known) // 2] if known else 0.0
    good = [
        c
        for c in candidates
        if (not c.outside_rate or c.outside_rate >= median * _OUTSIDE_SHARE_MIN)
        and (not c.lan_rate or c.lan_rate >= median * connections)
    ]
    return good or list(candidates)


def share(candidates: Sequence[Candidate], connections: int) -> dict[str, int]:
    """Connections for each fetcher: the first fit nodes in the common order, the connections split evenly.

    Where nodes want different variants of a version, each selection has fetchers of its own: a node fetches only what
    it wants itself.
    """
    groups: dict[bytes, list[Candidate]] = {}
    for candidate in sorted(fit(candidates, connections), key=lambda c: (c.salt, c.node)):
        groups.setdefault(candidate.selection, []).append(candidate)
    each = max(1, FETCHERS_MAX // max(1, len(groups)))
    # No more fetchers than connections: one that may open none would wait for itself.
    chosen = [c.node for _, group in sorted(groups.items()) for c in group[:each]][: max(1, connections)]
    return {node: connections // len(chosen) + (place < connections % len(chosen)) for place, node in enumerate(chosen)}
