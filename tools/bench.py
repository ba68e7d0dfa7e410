#!/usr/bin/env python3
"""Measure p2psync beside its peers, and write what came out to benchmarks/NAME.json.

usage: tools/bench.py dataplane [--only GROUP]... [--rounds N] [--work DIR] [--quick]

The README's table is made from the file by tools/readme.py. Needs nginx, curl, aria2 and rsync from the system.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.report import Bench, Group

_SEED = 7
_ROUNDS = 5
# A quick look divides every size by this and makes one round: it shows that the machinery runs, and no number.
_QUICK = 16
_NEEDED = ("nginx", "curl", "aria2c", "rsync")


def _benchmarks() -> dict[str, dict[str, Callable[[Bench], Group]]]:
    # Imported inside .venv, where what they need is.
    from benchmarks.edits import edits
    from benchmarks.footprint import footprint
    from benchmarks.pull import pull
    from benchmarks.signed_words import signed_words
    from benchmarks.startup import startup

    return {
        "dataplane": {
            "pull": pull,
            "footprint": footprint,
            "signed_words": signed_words,
            "edits": edits,
            "startup": startup,
        }
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure p2psync beside its peers.")
    parser.add_argument("name", choices=["dataplane"])
    parser.add_argument("--only", action="append", metavar="GROUP", help="run this group; the others stay as they are")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="rounds of everything that is timed (5)")
    parser.add_argument("--work", type=Path, help="a folder on the disk to measure (the system's temporary one)")
    parser.add_argument("--quick", action="store_true", help="small and once, to see that it runs; writes nothing")
    return parser.parse_args()


def main() -> int:
    """Returns the exit code: 0 if every bound was kept, 1 if one was missed, 2 if the benchmark cannot run."""
    arguments = _arguments()
    environment.enter("dev", "bench")
    missing = [name for name in _NEEDED if shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/bin") is None]
    if missing:
        print(f"error: not installed: {', '.join(missing)}", file=sys.stderr)
        return 2
    from benchmarks import report

    groups = _benchmarks()[arguments.name]
    chosen = arguments.only or list(groups)
    unknown = set(chosen) - groups.keys()
    if unknown:
        print(f"error: no such group: {', '.join(unknown)}\n\nhint: one of {', '.join(groups)}", file=sys.stderr)
        return 2
    found: dict[str, Group] = {}
    with tempfile.TemporaryDirectory(prefix="p2psync-bench-", dir=arguments.work) as work:
        shrink, rounds = (_QUICK, 1) if arguments.quick else (1, arguments.rounds)
        bench = report.Bench(Path(work), rounds, shrink, _SEED)
        for name in chosen:
            print(f"{name} ...", file=sys.stderr, flush=True)
            found[name] = groups[name](bench)
            for row in found[name].table:
                verdict = "" if row.met else "  MISSED"
                print(f"  {row.what}: {row.ours} (must be: {row.bound or 'shown'}; beside: {row.beside}){verdict}")
        head = {
            "benchmark": arguments.name,
            "command": f"python3 tools/bench.py {arguments.name}",
            "seed": _SEED,
            "rounds": rounds,
            "machine": report.machine(Path(work)),
            "versions": report.versions(),
        }
    if not arguments.quick:
        report.write(environment.ROOT / "benchmarks" / f"{arguments.name}.json", head, found)
    return 0 if all(row.met for group in found.values() for row in group.table) else 1


if __name__ == "__main__":
    sys.exit(main())
