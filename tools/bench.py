#!/usr/bin/env python3
"""Measure p2psync beside its peers, and write what came out to benchmarks/NAME.json.

usage: tools/bench.py dataplane|site|simulation|update|codec|delta|engine|hostile [--only GROUP]... [--rounds N]
                      [--seeds N,N] [--way WAY]... [--pairs DIR] [--engine DIR] [--gpu FILE] [--torch PYTHON]
                      [--work DIR] [--quick]

The README's tables are made from the files by tools/readme.py. Needs nginx, curl, aria2 and rsync from the system;
`site`, `update` and `hostile` run in network namespaces and need root and iproute2 besides. `update`, `codec` and
`delta` need the models that tools/make_pairs.py makes, and the last two zstd and xdelta3 instead of web servers.
"""

from __future__ import annotations

import argparse
import compileall
import importlib.metadata
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import environment
import make_pairs

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.report import Bench, Group

_SEED = 7
_ROUNDS = 5
# A quick look divides every size by this and makes one round: it shows that the machinery runs, and no number.
_QUICK = 16
_NEEDED = ("nginx", "curl", "aria2c", "rsync")
# The benchmarks of bytes alone: no network, no other process to wait for.
_CODING = ("codec", "delta")
_CODING_NEEDED = ("zstd", "xdelta3")
_HOSTILE_NEEDED = ("curl",)
_CODING_PACKAGES = (
    "blosc2",
    "bsdiff4",
    "constriction",
    "hdiffpatch",
    "lmzip",
    "numpy",
    "pcodec",
    "pyfastcdc",
    "z4ai",
    "zipnn",
    "zstandard",
)


def _dataplane() -> dict[str, Callable[[Bench], Group]]:
    # Imported inside .venv, where what they need is.
    from benchmarks.edits import edits
    from benchmarks.footprint import footprint
    from benchmarks.pull import pull
    from benchmarks.receive import receive
    from benchmarks.signed_words import signed_words
    from benchmarks.startup import startup

    return {
        "pull": pull,
        "receive": receive,
        "footprint": footprint,
        "signed_words": signed_words,
        "edits": edits,
        "startup": startup,
    }


def _site(arguments: argparse.Namespace) -> dict[str, Callable[[Bench], Group]]:
    # The lab stands with the tests that it was made for.
    sys.path.append(str(environment.ROOT))
    from benchmarks import site

    def asking(name: str, question: site.Question) -> Callable[[Bench], Group]:
        ways = arguments.way or (site.QUICK_WAYS if arguments.quick else ())
        earlier = [] if arguments.quick else site.runs_of(_file(arguments), name)
        options = site.Options(tuple(arguments.seeds), frozenset(ways), tuple(earlier), quick=arguments.quick)
        return lambda bench: question.ask(bench, options)

    return {name: asking(name, question) for name, question in site.questions().items()}


def _simulation(arguments: argparse.Namespace) -> dict[str, Callable[[Bench], Group]]:
    # The world stands with the tests that it was made for.
    sys.path.append(str(environment.ROOT))
    from benchmarks import simulate

    return simulate.questions(tuple(arguments.seeds))


def _update(arguments: argparse.Namespace) -> dict[str, Callable[[Bench], Group]]:
    sys.path.append(str(environment.ROOT))
    from benchmarks import update

    return update.questions(arguments.pairs.resolve(), tuple(arguments.seeds))


def _engine(arguments: argparse.Namespace) -> dict[str, Callable[[Bench], Group]]:
    from benchmarks import engine

    return engine.questions(arguments.engine, arguments.gpu, arguments.torch)


def _hostile(arguments: argparse.Namespace) -> dict[str, Callable[[Bench], Group]]:
    # The lab and the liars stand with the tests that they were made for.
    sys.path.append(str(environment.ROOT))
    from benchmarks import hostile

    return hostile.questions(tuple(arguments.seeds))


def _coding(arguments: argparse.Namespace) -> dict[str, Callable[[Bench], Group]]:
    from benchmarks import codec, delta

    questions = codec.questions if arguments.name == "codec" else delta.questions
    return questions(arguments.pairs.resolve())


def _file(arguments: argparse.Namespace) -> Path:
    return environment.ROOT / "benchmarks" / f"{arguments.name}.json"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure p2psync beside its peers.")
    parser.add_argument("name", choices=["dataplane", "site", "simulation", "update", "engine", "hostile", *_CODING])
    parser.add_argument("--only", action="append", metavar="GROUP", help="run this group; the others stay as they are")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="rounds of everything that is timed (5)")
    parser.add_argument(
        "--seeds", type=_numbers, help="site, simulation, update, hostile: seeds of the losses (1,2,3; with --quick 1)"
    )
    parser.add_argument("--way", action="append", help="site: measure this way; the others stay as they are")
    pairs = "codec, delta, update: what make_pairs.py made (build/pairs)"
    parser.add_argument("--pairs", type=Path, default=make_pairs.PAIRS, help=pairs)
    parser.add_argument("--engine", type=Path, help="engine: a variant's directory that `p2psync compress` made")
    parser.add_argument("--gpu", type=Path, help="engine: what benchmarks.engine_gpu wrote on a machine with a GPU")
    parser.add_argument(
        "--torch", metavar="PYTHON", help="engine: a Python with p2psync[compress] and onnxruntime, for int8 and start"
    )
    parser.add_argument("--work", type=Path, help="a folder on the disk to measure (the system's temporary one)")
    parser.add_argument("--quick", action="store_true", help="small and once, to see that it runs; writes nothing")
    arguments = parser.parse_args()
    arguments.seeds = arguments.seeds or ([1] if arguments.quick else [1, 2, 3])
    if arguments.name == "site" and arguments.quick:
        arguments.only = arguments.only or ["six"]
    return arguments


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _cannot(arguments: argparse.Namespace) -> str:
    """Why a benchmark cannot run on this machine, or nothing."""
    name = arguments.name
    if name in ("simulation", "engine"):
        return ""
    needed = {**dict.fromkeys(_CODING, _CODING_NEEDED), "hostile": _HOSTILE_NEEDED}.get(name, _NEEDED)
    missing = [program for program in needed if shutil.which(program, path="/usr/sbin:/usr/bin:/usr/local/bin") is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if name in (*_CODING, "update") and (unmade := make_pairs.missing(arguments.pairs)):
        return f"{len(unmade)} files are missing in {arguments.pairs}: run tools/make_pairs.py --out {arguments.pairs}"
    if name in ("site", "update", "hostile"):
        from tests.integration import site_lab

        return site_lab.why_not()
    return ""


def main() -> int:
    """Returns the exit code: 0 if every bound was kept, 1 if one was missed, 2 if the benchmark cannot run."""
    arguments = _arguments()
    # An engine has no peer among the downloaders; what runs it, or attacks it, is among the packages of the tests.
    needed = {**dict.fromkeys(_CODING, "codec"), "engine": "dev", "hostile": "dev"}
    environment.enter("dev", needed.get(arguments.name, "bench"))
    targets = {
        "dataplane": lambda _: _dataplane(),
        "site": _site,
        "simulation": _simulation,
        "update": _update,
        "engine": _engine,
        "hostile": _hostile,
    }
    groups = targets.get(arguments.name, _coding)(arguments)
    chosen = arguments.only or list(groups)
    unknown = set(chosen) - groups.keys()
    if unknown:
        print(f"error: no such group: {', '.join(unknown)}\n\nhint: one of {', '.join(groups)}", file=sys.stderr)
        return 2
    if reason := _cannot(arguments):
        print(f"error: {reason}", file=sys.stderr)
        return 2
    from benchmarks import report

    # As an installer does; in place, Python would do it on the first run, or on every one where it may not write.
    compileall.compile_dir(environment.ROOT / "p2psync", quiet=1)
    kept = True
    with tempfile.TemporaryDirectory(prefix="p2psync-bench-", dir=arguments.work) as work:
        shrink, rounds = (_QUICK, 1) if arguments.quick else (1, arguments.rounds)
        for name in chosen:
            print(f"{name} ...", file=sys.stderr, flush=True)
            group = groups[name](report.Bench(Path(work), rounds, shrink, _SEED))
            for row in group.table:
                verdict = "" if row.met else "  MISSED"
                print(f"  {row.what}: {row.ours} (must be: {row.bound or 'shown'}; beside: {row.beside}){verdict}")
                kept &= row.met
            # After each group, since a benchmark may take hours and end early.
            if not arguments.quick:
                _write(arguments, Path(work), name, group)
    return 0 if kept else 1


def _write(arguments: argparse.Namespace, work: Path, name: str, group: Group) -> None:
    from benchmarks import report

    seeded = arguments.name in ("site", "simulation", "update", "hostile")
    timed = arguments.name == "hostile" or not seeded
    often = ({"seeds": arguments.seeds} if seeded else {}) | ({"rounds": arguments.rounds} if timed else {})
    head = {
        "benchmark": arguments.name,
        "command": f"python3 tools/bench.py {arguments.name}",
        "seed": _SEED,
        **often,
        "machine": report.machine(work),
        "versions": report.versions() | (_coding_versions() if arguments.name in _CODING else {}),
    }
    report.write(_file(arguments), head, {name: group})


def _coding_versions() -> dict[str, str]:
    found = {}
    for package in _CODING_PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


if __name__ == "__main__":
    sys.exit(main())
