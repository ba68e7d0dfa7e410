#!/usr/bin/env python3
"""Fuzz the readers of outside bytes, guided by coverage (atheris on libFuzzer).

usage: tools/fuzz.py [TARGET]... [--seconds N] [--json FILE] [--keep]

Each target runs in a process of its own, bounded in time and memory. An input that breaks one is written to
tests/fuzz/corpus/TARGET, where the ordinary tests run it from then on. ``--keep`` also keeps there the smallest inputs
that reach new code, 40 for each target at most.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import environment

_CORPUS: Final = environment.ROOT / "tests" / "fuzz" / "corpus"
_MEMORY_MB: Final = 1024
# One input; the largest honest ones take milliseconds.
_INPUT_S: Final = 10
_KEPT_MAX: Final = 40
_KEPT_BYTES_MAX: Final = 4096
_DONE: Final = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_COVERED: Final = re.compile(r"cov: (\d+)")


@dataclass(frozen=True, slots=True)
class Report:
    """What fuzzing one target came to. ``edges`` counts places in the code that were reached."""

    target: str
    seconds: int
    executions: int
    edges: int
    corpus: int
    findings: tuple[str, ...]


def fuzz(target: str, seconds: int, *, keep: bool) -> Report:
    """Fuzz one target, beginning with its corpus."""
    corpus = _CORPUS / target
    with tempfile.TemporaryDirectory() as room:
        fresh, broken = Path(room) / "fresh", Path(room) / "broken"
        fresh.mkdir()
        broken.mkdir()
        text = _run(
            target,
            fresh,
            corpus,
            f"-max_total_time={seconds}",
            f"-timeout={_INPUT_S}",
            f"-rss_limit_mb={_MEMORY_MB}",
            f"-artifact_prefix={broken}/",
            "-print_final_stats=1",
            "-max_len=8192",
        )
        findings = tuple(_adopt(corpus, broken))
        if keep and not findings:
            _minimise(target, fresh, corpus)
    executed, covered = _DONE.search(text), _COVERED.findall(text)
    if executed is None and not findings:
        sys.exit(f"error: {target} did not run\n\n{text[-2000:]}")
    return Report(
        target,
        seconds,
        int(executed[1]) if executed else 0,
        int(covered[-1]) if covered else 0,
        len(list(corpus.iterdir())),
        findings,
    )


def _adopt(corpus: Path, broken: Path) -> Iterator[str]:
    """Keep the inputs that broke a target, under names that say so."""
    for path in sorted(broken.iterdir()):
        name = f"finding-{path.name}"
        (corpus / name).write_bytes(path.read_bytes())
        yield name


def _minimise(target: str, fresh: Path, corpus: Path) -> None:
    """Keep the smallest inputs that reach code that the kept ones do not."""
    with tempfile.TemporaryDirectory() as room:
        merged = Path(room) / "merged"
        merged.mkdir()
        for path in corpus.iterdir():
            (merged / path.name).write_bytes(path.read_bytes())
        said = _run(target, merged, fresh, "-merge=1", f"-timeout={_INPUT_S}", f"-rss_limit_mb={_MEMORY_MB}")
        if "MERGE-OUTER: consumed" not in said and "new files" not in said:
            sys.exit(f"error: the inputs of {target} could not be merged\n\n{said[-2000:]}")
        added = sorted((p for p in merged.iterdir() if not (corpus / p.name).exists()), key=lambda p: p.stat().st_size)
        for path in added[: max(0, _KEPT_MAX - len(list(corpus.iterdir())))]:
            if path.stat().st_size <= _KEPT_BYTES_MAX:
                (corpus / path.name[:16]).write_bytes(path.read_bytes())


def _run(target: str, *words: object) -> str:
    command = [sys.executable, "-m", "tests.fuzz.run", target, *map(str, words)]
    path = os.pathsep.join([str(environment.ROOT), str(environment.ROOT / "tools")])
    done = subprocess.run(
        command,
        cwd=environment.ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": path},
    )
    return done.stdout + done.stderr


def main() -> int:
    """Returns 1 when an input broke a target."""
    parser = argparse.ArgumentParser(description="Fuzz the readers of outside bytes.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all when left out")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what came out there")
    parser.add_argument("--keep", action="store_true", help="keep small inputs that reach new code")
    arguments = parser.parse_args()
    environment.enter("dev", "fuzz")
    known = sorted(path.name for path in _CORPUS.iterdir())
    for name in arguments.targets:
        if name not in known:
            parser.error(f"no target {name!r}; there are {', '.join(known)}")
    reports = []
    for target in arguments.targets or known:
        report = fuzz(target, arguments.seconds, keep=arguments.keep)
        reports.append(report)
        found = f", {len(report.findings)} FOUND" if report.findings else ""
        print(
            f"{target}: {report.executions:,} inputs, {report.edges:,} edges, {report.corpus} kept{found}", flush=True
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"targets": [asdict(report) for report in reports]}, indent=1) + "\n")
    return 1 if any(report.findings for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
