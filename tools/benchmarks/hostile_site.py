"""How long a site takes in which two of six nodes lie, beside one of as many honest nodes."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.report import Bench, Group, Row
from benchmarks.site_case import MIB, REFERENCE, RUN_S_MAX, Case, Run, Shop, measured
from p2psync.limits import LAN_LANES
from tests.integration.lab import Serving
from tests.integration.site_lab import SiteLab, Wan
from tests.integration.site_nodes import Site, Together
from tests.integration.test_site import ABSENT, ANOTHER, FLIPS

_FILE_BYTES = 32 * MIB
_QUICK_BYTES = 8 * MIB
_HONEST = 4
_ALONE = f"{_HONEST} honest nodes alone"
# What each of the two liars does; both say that they have everything.
_LIES: dict[str, tuple[str, ...]] = {
    _ALONE: (),
    "one flips bits, one answers 404": (FLIPS, ABSENT),
    "one flips bits, one sends another chunk": (FLIPS, ANOTHER),
}
_SLOWER_MAX = 1.3
# A second wrong chunk bans; what was asked of the liar before it came may be wrong as well.
_WRONG_MAX = 2 + LAN_LANES
_ASKS = re.compile(r'^p2psync_asks_total\{outcome="(\w+)"\} (\d+)', re.MULTILINE)


def lying_site(bench: Bench, seeds: Sequence[int]) -> Group:
    """Pull at a site without liars and at one with each pair of them, with every seed of the losses."""
    quick = bench.shrink > 1
    case = Case("lying_site", _HONEST, _QUICK_BYTES if quick else _FILE_BYTES, Wan())
    shop = Shop.open(bench, case.name, case.file_bytes)
    runs = []
    for seed in seeds:
        for name, lies in _LIES.items():
            one = replace(case, nodes=_HONEST + len(lies), wan=replace(case.wan, seed=seed))
            runs.append(measured(one, shop, name, partial(_pull, lies=lies)))
            print(f"  {_line(runs[-1])}", flush=True)
    return Group(runs, _summary(runs), _table(case, runs))


def _pull(lab: SiteLab, _case: Case, shop: Shop, *, lies: Sequence[str]) -> Run:
    """The honest nodes ask together, beside liars who have been there for a while."""
    honest = lab.names[:_HONEST]
    liars = dict(zip(lab.names[_HONEST:], lies, strict=True))
    with shop.folder("site") as folder:
        _fill(shop, [folder / name for name in liars])
        with Site.open(lab, shop.publisher, folder) as site:
            for name, program in liars.items():
                site.start(name, program=(sys.executable, "-c", program))
            site.start(*honest)
            with Together(site.pulling(REFERENCE, honest), RUN_S_MAX) as pulls:
                ends, told = pulls.seconds(honest), pulls.told(honest)
            for one in told.values():
                shop.check(Path(one["path"]) / shop.file.name)
            asks = {name: _asks(lab, name, site.nodes[name]) for name in honest}
            for name in liars:
                site.nodes[name].stop()
            sent = {name: site.nodes[name].sent_bytes for name in liars}
    return {
        "seconds": max(ends.values()),
        "ends_s": ends,
        "outside_bytes": sum(one["bytes"]["wan"] for one in told.values()),
        "wrong_chunks": {name: one["corrupt"] for name, one in asks.items()},
        "asks": asks,
        "liars_sent_bytes": sent,
    }


def _fill(shop: Shop, homes: Sequence[Path]) -> None:
    """Give homes the version beforehand, past the outside link."""
    if homes:
        with shop.publisher.home.serve() as source:
            for home in homes:
                shop.publisher.node(home).run("pull", REFERENCE, "--peer", source.url)


def _asks(lab: SiteLab, name: str, node: Serving) -> dict[str, int]:
    """How the requests ended that a node made of others; it tells its numbers on its own machine alone."""
    told = lab.run(name, ["curl", "--silent", "--fail", f"http://127.0.0.1:{node.port}/metrics"]).stdout
    return {outcome: int(count) for outcome, count in _ASKS.findall(told)}


def _line(run: Run) -> str:
    return (
        f"seed {run['seed']}: {run['way']}: {run['seconds']:.1f} s, outside {run['outside_ratio']:.4f}x, "
        f"wrong chunks {sum(run['wrong_chunks'].values())}, processors {run['processors_busy']:.0%} busy"
    )


def _of(runs: Sequence[Run], way: str, column: str) -> list[Any]:
    return [run[column] for run in runs if run["way"] == way]


def _summary(runs: Sequence[Run]) -> dict[str, Any]:
    return {
        way: {
            column: measure.summary(_of(runs, way, column))
            for column in ("seconds", "outside_ratio", "ip_ratio", "processors_busy")
        }
        for way in _LIES
    }


def _table(case: Case, runs: Sequence[Run]) -> list[Row]:
    wan = case.wan
    what = (
        f"{_HONEST} honest nodes of {_HONEST + 2} pull {case.file_bytes // MIB} MiB, {wan.mbit:g} Mbit/s, "
        f"{wan.rtt_ms:g} ms, {100 * wan.loss:g} % loss"
    )
    alone_s, alone_ratio = _of(runs, _ALONE, "seconds"), max(_of(runs, _ALONE, "outside_ratio"))
    rows = []
    for way, lies in list(_LIES.items())[1:]:
        seconds, outside = _of(runs, way, "seconds"), max(_of(runs, way, "outside_ratio"))
        slower = [one / beside for one, beside in zip(seconds, alone_s, strict=True)]
        wrong: list[Mapping[str, int]] = _of(runs, way, "wrong_chunks")
        worst = max(count for one in wrong for count in one.values())
        wrong_max = _WRONG_MAX * len({FLIPS, ANOTHER}.intersection(lies))
        rows += [
            Row(
                f"{what}; {way}: all four have it",
                f"{_ALONE} {measure.summary(alone_s)['median']:.1f} s",
                f"{measure.summary(seconds)['median']:.1f} s, at worst {max(slower):.3f}x",
                f"<= {_SLOWER_MAX:g}x",
                max(slower) <= _SLOWER_MAX,
            ),
            Row(
                "the same: wrong chunks that one node took",
                "",
                f"{worst} at worst, {max(sum(one.values()) for one in wrong)} at worst by all four",
                f"<= {wrong_max} by one node",
                worst <= wrong_max,
            ),
            Row(
                "the same: chunk bytes over the outside link / unique bytes",
                f"{_ALONE} {alone_ratio:.4f}x",
                f"{outside:.4f}x at worst",
                "",
                met=True,
            ),
        ]
    return rows
