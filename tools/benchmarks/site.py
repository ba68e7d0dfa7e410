"""How a site of several machines gets one version over one thin line, beside the other ways to do it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import measure, site_nodes, site_peers
from benchmarks.report import Bench, Group, Row
from benchmarks.site_case import MIB, Case, Run, Shop, Way, measured
from tests.integration.site_lab import Wan

_FILE_BYTES = 96 * MIB
_QUICK_BYTES = 24 * MIB
_OURS, _LONE, _ARIA = "p2psync", "one lone p2psync pull", "one lone aria2, 16 connections"
_KILLED, _UNPLUGGED = "p2psync, fetcher killed", "p2psync, fetcher unplugged"
_PEERS: dict[str, Way] = {
    "libtorrent": site_peers.swarm,
    "libtorrent, super-seeding": site_peers.super_seeding,
    "curl on every node": site_peers.curl_everywhere,
    "one curl, then rsync": site_peers.curl_then_rsync,
}
_ALONE: dict[str, Way] = {_OURS: site_nodes.together, _LONE: site_nodes.lone, _ARIA: site_peers.lone_aria2}
QUICK_WAYS = tuple(_ALONE)
_IN_FLIGHT_BYTES_MAX = 2 * MIB

Table = Callable[["Found"], list[Row]]


@dataclass(frozen=True, slots=True)
class Options:
    """Which seeds of the losses, and which ways; ``earlier`` are runs that stand in the file and are not repeated."""

    seeds: tuple[int, ...] = (1, 2, 3)
    ways: frozenset[str] = frozenset()
    earlier: tuple[Run, ...] = ()
    quick: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """The runs of one case, by way."""

    case: Case
    runs: tuple[Run, ...]

    def of(self, way: str, *columns: str) -> list[float]:
        """A figure of a way, one per seed, looked up under keys inside keys."""
        found: list[Any] = [run for run in self.runs if run["way"] == way]
        for column in columns:
            found = [run[column] for run in found]
        return [float(figure) for figure in found]

    def has(self, *ways: str) -> bool:
        """Whether each of the ways was measured."""
        return set(ways) <= {run["way"] for run in self.runs}

    def over(self, way: str, *others: str) -> list[float]:
        """The rate of ``way`` over that of the fastest of ``others``, seed by seed."""
        rates = []
        for run in self.runs:
            beside = [one["seconds"] for one in self.runs if one["way"] in others and one["seed"] == run["seed"]]
            if run["way"] == way and beside:
                rates.append(min(beside) / run["seconds"])
        return rates

    @property
    def what(self) -> str:
        """The case in words."""
        wan = self.case.wan
        return (
            f"{self.case.nodes} nodes start together, {self.case.file_bytes // MIB} MiB, "
            f"{wan.mbit:g} Mbit/s, {wan.rtt_ms:g} ms, {100 * wan.loss:g} % loss"
        )


@dataclass(frozen=True, slots=True)
class Question:
    """A case, the ways to measure in it, and the rows that the answers make."""

    case: Case
    ways: dict[str, Way]
    table: Table

    def ask(self, bench: Bench, options: Options) -> Group:
        """Run every way with every seed of the losses, and keep those of earlier that were not run again."""
        case = replace(self.case, file_bytes=_QUICK_BYTES) if options.quick else self.case
        ways = {name: way for name, way in self.ways.items() if not options.ways or name in options.ways}
        runs = []
        shop = Shop.open(bench, f"site-{case.name}", case.file_bytes)
        for seed in options.seeds:
            for name, way in ways.items():
                runs.append(measured(replace(case, wan=replace(case.wan, seed=seed)), shop, name, way))
                print(f"  {_line(runs[-1])}", flush=True)
        again = {(run["way"], run["seed"]) for run in runs}
        runs = [run for run in options.earlier if (run["way"], run["seed"]) not in again] + runs
        order = list(self.ways)
        runs.sort(key=lambda run: (run["seed"], order.index(run["way"])))
        found = Found(case, tuple(runs))
        return Group(runs, _summary(runs), self.table(found))


def _line(run: Run) -> str:
    return (
        f"{run['case']}, seed {run['seed']}: {run['way']}: {run['seconds']:.1f} s, "
        f"outside {run['outside_ratio']:.4f}x, IP {run['ip_ratio']:.3f}x, processors {run['processors_busy']:.0%} busy"
    )


def _summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Seconds, outside bytes and IP bytes of every way."""
    ways = dict.fromkeys(run["way"] for run in runs)
    return {
        way: {
            column: measure.summary([run[column] for run in runs if run["way"] == way])
            for column in ("seconds", "outside_ratio", "ip_ratio", "processors_busy")
        }
        for way in ways
    }


def runs_of(file: Path, group: str) -> list[Run]:
    """The runs of one group that a benchmark's file holds."""
    groups: dict[str, Any] = json.loads(file.read_text())["groups"] if file.exists() else {}
    runs: list[Run] = groups[group]["runs"] if group in groups else []
    return runs


def questions() -> dict[str, Question]:
    """Every question of this benchmark by its name."""
    six = Case("six", 6, _FILE_BYTES, Wan())
    fast = Wan(mbit=100, loss=0.0)
    return {
        "six": Question(six, {**_ALONE, **_PEERS}, _start_together),
        "twelve": Question(replace(six, name="twelve", nodes=12, ports={"n12": 2.0}), _ALONE, _start_together),
        "slow_line": Question(replace(six, name="slow_line", wan=Wan(mbit=5)), _ALONE, _start_together),
        "fast_line": Question(replace(six, name="fast_line", wan=Wan(mbit=100)), _ALONE, _start_together),
        "lost_fetcher": Question(
            replace(six, name="lost_fetcher"),
            {_OURS: site_nodes.together, _KILLED: site_nodes.fetcher_killed, _UNPLUGGED: site_nodes.fetcher_unplugged},
            _lost_fetcher,
        ),
        "holder": Question(
            Case("holder", 16, 64 * MIB, replace(fast, mbit=200), lan_mbit=100), {_OURS: site_nodes.holder}, _holder
        ),
        "latecomer": Question(
            Case("latecomer", 7, _FILE_BYTES, fast, ports={"n7": 100}), {_OURS: site_nodes.latecomer}, _latecomer
        ),
        "many": Question(Case("many", 32, 32 * MIB, fast), {_OURS: site_nodes.many}, _many),
    }


def _start_together(found: Found) -> list[Row]:
    if not found.has(_OURS, _LONE):
        return []
    # The faster of the two lone downloaders, so that a slow pull of our own flatters nobody.
    outside, rates = found.of(_OURS, "outside_ratio"), found.over(_OURS, _LONE, _ARIA)
    others = [way for way in _PEERS if found.has(way)]
    beside = ", ".join(f"{way} {_middle(found.of(way, 'outside_ratio')):.2f}x" for way in others)
    slow = "".join(f", one LAN port of {mbit:g} Mbit/s" for mbit in found.case.ports.values())
    rows = [
        Row(
            f"{found.what}{slow}: chunk bytes over the outside link / unique bytes",
            beside,
            f"{_middle(outside):.4f}x, at worst {max(outside):.4f}x",
            "<= 1.005x",
            max(outside) <= 1.005,
        )
    ]
    seconds = {way: _middle(found.of(way, "seconds")) for way in (_OURS, _LONE, _ARIA, *others) if found.has(way)}
    beside = ", ".join(f"{way} {seconds[way]:.1f} s" for way in seconds if way != _OURS)
    rows.append(
        Row(
            "the same: all have it" + (" but the one behind the slow port" if slow else ""),
            beside,
            f"{seconds[_OURS]:.1f} s, {_middle(rates):.3f}x the rate of the faster lone one, worst {min(rates):.3f}x",
            ">= 0.97x",
            min(rates) >= 0.97,
        )
    )
    ips = {way: _middle(found.of(way, "ip_ratio")) for way in seconds}
    beside = ", ".join(f"{way} {ips[way]:.2f}x" for way in ips if way != _OURS)
    rows.append(Row("the same: IP bytes that the seed sent / unique bytes", beside, f"{ips[_OURS]:.3f}x", "", met=True))
    for name in found.case.ports:
        own = found.of(_OURS, "ends_s", name)
        rows.append(Row("the same: the one behind the slow port has it", "", f"{_middle(own):.0f} s", "", met=True))
    return rows


def _lost_fetcher(found: Found) -> list[Row]:
    rows = []
    for way, what in (
        (_KILLED, "the busiest fetcher killed at 30 %"),
        (_UNPLUGGED, "the cable of the busiest fetcher pulled at 60 %"),
    ):
        if not found.has(_OURS, way):
            continue
        pairs = zip(found.of(way, "outside_bytes"), found.of(way, "bytes"), strict=True)
        beyond = [max(0.0, outside - 1.005 * unique) for outside, unique in pairs]
        slower = [1 / rate for rate in found.over(way, _OURS)]
        rows += [
            Row(
                f"{found.what}, {what}: chunk bytes outside beyond 1.005x",
                "",
                f"{_middle(beyond) / MIB:.2f} MiB, at worst {max(beyond) / MIB:.2f} MiB",
                "<= 2 MiB, what it had in flight",
                max(beyond) <= _IN_FLIGHT_BYTES_MAX,
            ),
            Row(
                "the same: the others have it",
                f"undisturbed {_middle(found.of(_OURS, 'seconds')):.1f} s",
                f"{_middle(found.of(way, 'seconds')):.1f} s, at worst {max(slower):.3f}x",
                "<= 1.05x",
                max(slower) <= 1.05,
            ),
        ]
    return rows


def _holder(found: Found) -> list[Row]:
    if not found.has(_OURS):
        return []
    case = found.case
    ideal_s = case.file_bytes * 8 / 1e6 / (case.lan_mbit or 1)
    ends = [sorted(run["ends_s"].values()) for run in found.runs]
    spread = [one[-1] / one[len(one) // 2] for one in ends]
    times = [one[-1] / ideal_s for one in ends]
    wire, lan = found.of(_OURS, "lan_wire_bytes"), found.of(_OURS, "lan_bytes")
    beyond = [(crossed - counted) / counted for crossed, counted in zip(wire, lan, strict=True)]
    twice = [surplus / counted for surplus, counted in zip(found.of(_OURS, "lan_surplus_bytes"), lan, strict=True)]
    what = f"{case.nodes} nodes on LAN ports of {case.lan_mbit:g} Mbit/s, one has {case.file_bytes // MIB} MiB"
    return [
        Row(
            f"{what}: the last one done",
            f"the holder's own port needs {ideal_s:.2f} s for one copy",
            f"{_middle([one[-1] for one in ends]):.1f} s, at worst {max(times):.2f}x",
            "<= 2.0x",
            max(times) <= 2.0,
        ),
        Row("the same: slowest / median", "", f"{max(spread):.2f}x at worst", "<= 1.3x", max(spread) <= 1.3),
        Row("the same: chunk bytes twice on the LAN", "", f"{max(twice):.2%} at worst", "< 1 %", max(twice) < 0.01),
        Row(
            "the same: LAN bytes beyond the chunks, headers and talk too",
            "",
            f"{max(beyond):.2%} at worst",
            "",
            met=True,
        ),
        _nothing_outside(found),
    ]


def _latecomer(found: Found) -> list[Row]:
    if not found.has(_OURS):
        return []
    (mbit,) = found.case.ports.values()
    shares = [found.case.file_bytes * 8 / 1e6 / seconds / mbit for seconds in found.of(_OURS, "seconds")]
    return [
        Row(
            f"a node that joins after the others, {found.case.file_bytes // MIB} MiB, LAN port of {mbit:g} Mbit/s",
            "",
            f"{_middle(shares):.2f} of its port, at worst {min(shares):.2f}",
            ">= 0.8",
            min(shares) >= 0.8,
        ),
        _nothing_outside(found),
    ]


def _nothing_outside(found: Found) -> Row:
    outside = max(found.of(_OURS, "outside_bytes"))
    return Row("the same: chunk bytes from outside", "", f"{outside:.0f} B", "0 B", outside == 0)


def _many(found: Found) -> list[Row]:
    if not found.has(_OURS):
        return []
    payload = [case_bytes * found.case.nodes for case_bytes in found.of(_OURS, "bytes")]
    talk = [(w - n) / p for w, n, p in zip(*(found.of(_OURS, c) for c in _TALK), payload, strict=True)]
    idle = max(found.of(_OURS, "idle_core_share", "max"))
    return [
        Row(
            f"{found.case.nodes} nodes, {found.case.file_bytes // MIB} MiB: LAN bytes beyond the chunks / chunk bytes",
            "",
            f"{max(talk):.2%} at worst",
            "<= 1 %",
            max(talk) <= 0.01,
        ),
        Row(
            f"an idle `serve` with {found.case.nodes - 1} peers: share of a core",
            "",
            f"{_middle(found.of(_OURS, 'idle_core_share', 'median')):.2%}, at worst {idle:.2%}",
            "<= 1 %",
            idle <= 0.01,
        ),
    ]


_TALK = ("lan_wire_bytes", "lan_bytes")


def _middle(values: Sequence[float]) -> float:
    return float(measure.summary(values)["median"])
