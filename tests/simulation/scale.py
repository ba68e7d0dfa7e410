"""A thousand nodes: many sites that share nothing but the seed, which is taken to be wide enough for all of them."""

from __future__ import annotations

import multiprocessing
import resource
import time
from dataclasses import dataclass

from tests.simulation.site import Site
from tests.simulation.world import even_table


@dataclass(frozen=True, slots=True)
class Fleet:
    """So many sites of so many nodes each. ``line`` is what each site has of the outside, in bytes/s."""

    sites: int
    nodes: int
    chunks: int
    line: float
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Spread:
    """When each node of a fleet was done, in virtual seconds, and what it took to find out."""

    done_s: list[float]
    outside: float
    duplicates: float
    events: int
    wall_s: float
    cpu_s: float
    memory_bytes: int

    def percentile(self, share: float) -> float:
        """The time by which this share of the nodes was done."""
        return self.done_s[min(len(self.done_s) - 1, int(share * len(self.done_s)))]


def _one_site(fleet: Fleet, number: int) -> tuple[list[float], float, float, int]:
    site = Site(even_table(fleet.chunks), fleet.seed * 1_000_003 + number, line=fleet.line, checked=False)
    site.world.wire = False
    for node in range(fleet.nodes):
        site.add(f"{number}.{node}", at_s=site.world.random.uniform(0.0, 5.0))
    outcome = site.run()
    return sorted(outcome.done_s.values()), outcome.outside, outcome.duplicates, outcome.steps


def _work(arguments: tuple[Fleet, int]) -> tuple[list[float], float, float, int, float, int]:
    began_s = time.process_time()
    found = _one_site(*arguments)
    took_s = time.process_time() - began_s
    return *found, took_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def spread(fleet: Fleet, *, processes: int = 2) -> Spread:
    """Run a fleet to its end."""
    began_s = time.perf_counter()
    tasks = [(fleet, number) for number in range(fleet.sites)]
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=8) as pool:
        found = list(pool.imap_unordered(_work, tasks))
    return Spread(
        sorted(done_s for times, *_ in found for done_s in times),
        sum(row[1] for row in found) / len(found),
        sum(row[2] for row in found) / len(found),
        sum(row[3] for row in found),
        time.perf_counter() - began_s,
        sum(row[4] for row in found),
        max(row[5] for row in found),
    )
