"""Sites in virtual time: how well each case ends, and a thousand nodes at once. The decisions are the package's own."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.report import Bench, Group, Row
from p2psync.limits import MIB
from tests.simulation.cases import CASES, FAST_ETHERNET, HELD, TABLE, one_holder
from tests.simulation.scale import Fleet, spread
from tests.simulation.site import Outcome, lone

_LINE = 100e6 / 8
_GIGABYTE_CHUNKS = 954
_WALL_S_MAX = 600.0
_WITH_STRANGER = ("liar", "peer", "silent")


@dataclass(frozen=True, slots=True)
class _Case:
    """All runs of one case. ``last_s`` is the mean over the seeds."""

    name: str
    outcomes: Sequence[Outcome]
    last_s: float

    @property
    def outside(self) -> float:
        """The most bytes over the link, in unique bytes."""
        return max(outcome.outside for outcome in self.outcomes)


def questions(seeds: Sequence[int]) -> dict[str, Callable[[Bench], Group]]:
    """The groups of this benchmark."""
    return {
        "cases": lambda _: _cases(seeds),
        "fleet": lambda bench: _fleet(bench, _GIGABYTE_CHUNKS, "1 GB"),
        "large fleet": lambda bench: _fleet(bench, 10 * _GIGABYTE_CHUNKS, "10 GB"),
    }


def _run(name: str, seeds: Sequence[int]) -> _Case:
    outcomes = [CASES[name](seed).run() for seed in seeds]
    but = "n3" if "port" in name else ""
    last = [max(s for node, s in outcome.done_s.items() if node != but) for outcome in outcomes]
    return _Case(name, outcomes, statistics.mean(last))


def _cases(seeds: Sequence[int]) -> Group:
    alone_s = statistics.mean(lone(TABLE, seed) for seed in seeds)
    found = {name: _run(name, seeds) for name in CASES}
    six_s = found["six"].last_s
    table = [_row(case, alone_s, six_s) for case in found.values()]
    table.append(_holder_row(seeds))
    runs = [
        {"case": case.name, "seed": seed, **_numbers(outcome)}
        for case in found.values()
        for seed, outcome in zip(seeds, case.outcomes, strict=True)
    ]
    return Group(runs, {"lone_s": round(alone_s, 2), "six_s": round(six_s, 2)}, table)


def _numbers(outcome: Outcome) -> dict[str, Any]:
    numbers = {key: value for key, value in asdict(outcome).items() if key not in ("done_s", "bad", "trace")}
    return {**numbers, "last_s": outcome.last_s, "bad": max(outcome.bad.values())}


def _row(case: _Case, alone_s: float, six_s: float) -> Row:
    name, last_s, outside = case.name, case.last_s, case.outside
    ours = f"{last_s:.1f} s, {outside:.4f} of the bytes"
    if name in ("six", "twelve"):
        met = outside <= 1.005 and alone_s >= 0.97 * last_s
        return Row(f"simulated: {name}", f"one alone {alone_s:.1f} s", ours, ">= 0.97 of its rate, <= 1.005", met)
    beside = f"undisturbed {six_s:.1f} s"
    if "killed" in name or "pulled" in name:
        lost = max(o.outside_bytes - 1.005 * o.unique_bytes for o in case.outcomes)
        bound = "<= 1.05 of the time, 1.005 of the bytes and 2 MiB"
        return Row(f"simulated: {name}", beside, ours, bound, lost <= 2 * MIB and last_s <= 1.05 * six_s)
    if name.startswith(_WITH_STRANGER):
        bad = max(bad for outcome in case.outcomes for bad in outcome.bad.values())
        met = bad <= 2 and last_s <= 1.2 * six_s
        return Row(f"simulated: {name}", beside, f"{ours}, {bad} bad chunks", "<= 1.2 of the time, 2 bad", met)
    return Row(f"simulated: {name}", beside, ours, "", met=True)


def _holder_row(seeds: Sequence[int]) -> Row:
    ideal_s = HELD * MIB / FAST_ETHERNET
    outcomes = [one_holder(seed).run() for seed in seeds]
    times = [sorted(s for name, s in outcome.done_s.items() if name != "n0") for outcome in outcomes]
    slowest = max(t[-1] / statistics.median(t) for t in times)
    last = max(t[-1] / ideal_s for t in times)
    twice = max(outcome.duplicates for outcome in outcomes)
    ours = f"{last:.2f} of the ideal, slowest {slowest:.2f} of the median, {100 * twice:.2f} % twice"
    met = last <= 2.0 and slowest <= 1.3 and twice < 0.01
    return Row("simulated: 16 nodes, one holder", f"ideal {ideal_s:.2f} s", ours, "<= 2.0, <= 1.3, < 1 %", met)


def _fleet(bench: Bench, chunks: int, size: str) -> Group:
    fleet = Fleet(bench.scaled(100), 10, chunks, _LINE, bench.seed)
    bounded = size == "1 GB"
    cores = 2 if bounded else os.cpu_count() or 1
    found = spread(fleet, processes=cores)
    ours = (
        f"p50 {found.percentile(0.5):.1f} s, p99 {found.percentile(0.99):.1f} s, {found.outside:.4f} of the bytes, "
        f"simulated in {found.wall_s:.0f} s on {cores} cores ({found.cpu_s:.0f} s of CPU)"
    )
    row = Row(
        f"simulated: {fleet.sites * fleet.nodes} nodes at {fleet.sites} sites, {size}",
        "",
        ours,
        "in <= 600 s" if bounded else "",
        met=found.wall_s <= _WALL_S_MAX or not bounded,
    )
    numbers = {key: value for key, value in asdict(found).items() if key != "done_s"}
    numbers |= {"p50_s": found.percentile(0.5), "p99_s": found.percentile(0.99)}
    return Group([{"done_s": [round(s, 2) for s in found.done_s]}], {**asdict(fleet), **numbers}, [row])
