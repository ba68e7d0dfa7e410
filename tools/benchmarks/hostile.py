"""What p2psync keeps to among hostile peers: liars at a site, a flood of connections, and every case that is listed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.hostile_cases import cases
from benchmarks.hostile_flood import flood
from benchmarks.hostile_site import lying_site
from benchmarks.report import Bench, Group


def questions(seeds: Sequence[int]) -> dict[str, Callable[[Bench], Group]]:
    """The groups of this benchmark. ``seeds`` are those of the losses of a site's outside link."""
    return {"lying_site": lambda bench: lying_site(bench, seeds), "flood": flood, "cases": cases}
