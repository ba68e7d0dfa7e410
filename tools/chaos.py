#!/usr/bin/env python3
"""Run a great many simulated sites in which anything goes wrong, and say what came of them.

usage: tools/chaos.py [--first N] [--seeds N] [--processes N] [--within S] [--json FILE] [--record]

A seed that breaks an invariant is printed, and tests.simulation.chaos.chaos(seed, size_of(seed)).run() plays it again,
step by step. --json keeps the outcome of every seed, and a later run of the same code with the same file goes on from
there. --record keeps the summary in docs/simulation.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import environment

if TYPE_CHECKING:
    from tests.simulation.many import Told

SUMMARY: Final = environment.ROOT / "docs" / "simulation.json"


def main() -> int:
    """Returns 1 where a seed broke something."""
    parser = argparse.ArgumentParser(description="Run a great many chaotic sites.")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--within", type=float, default=float("inf"), metavar="S", help="begin no seed after this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the outcome of every seed here, and go on")
    parser.add_argument("--record", action="store_true", help="keep the summary in docs/simulation.json")
    arguments = parser.parse_args()
    environment.enter("dev")
    # The world stands with the tests that it was made for; its processes find it there, too.
    sys.path.append(str(environment.ROOT))
    from tests.simulation.many import Kept, every, summary

    began_s = time.monotonic()
    kept = Kept(arguments.json)
    found: list[Told] = kept.known
    begun = {one.seed for one in found}
    seeds = [seed for seed in range(arguments.first, arguments.first + arguments.seeds) if seed not in begun]
    for one in every(seeds, arguments.processes, arguments.within):
        found.append(one)
        if one.broken:
            print(f"seed {one.seed}: {one.broken}", flush=True)
        if len(found) % 500 == 0:
            print(f"{len(found)} seeds, {time.monotonic() - began_s:.0f} s", flush=True)
    kept.write(found)
    text = json.dumps(summary(found), indent=1)
    print(text)
    if arguments.record:
        SUMMARY.write_text(text + "\n")
    return 1 if any(one.broken for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
