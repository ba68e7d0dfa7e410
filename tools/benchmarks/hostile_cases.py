"""Run the cases that docs/reliability.md lists by number, each test alone in a process: seconds, memory, leaks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import command
import environment
from benchmarks.report import Bench, Group, Row

_DOCUMENT = environment.ROOT / "docs" / "reliability.md"
_ONE = Path(__file__).with_name("hostile_one.py")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+(?:\[[^]`]+\])?)`")
# A case has its number in front of its row (C 30, or 30), or in the name of a test of it.
_NUMBERED = re.compile(r"\W*(?:C\s*)?(\d{2})\b")
_NUMBERED_TEST = re.compile(r"::test_c(\d{2})_")
_FIRST, _LAST = 30, 46
_MIB = 1 << 20
# What a case may take beyond the same process with the same files imported and nothing run.
_OVER_IDLE_MIB_MAX = 100
_TEST_S_MAX = 600.0


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the document: what it is called there, and the tests that show it."""

    name: str
    tests: tuple[str, ...]


def listed(text: str) -> list[Case]:
    """The cases of a Markdown document: rows of its tables that name tests and have a number from 30 to 46."""
    return [case for line in text.splitlines() if line.startswith("|") for case in _case(line)]


def _case(line: str) -> Iterator[Case]:
    first = line.strip("|").split("|")[0].strip()
    tests = tuple(dict.fromkeys(f"{file}::{function}" for file, function in _TEST.findall(line)))
    numbered = _NUMBERED.match(first)
    numbers = {int(number) for number in ([numbered[1]] if numbered else _NUMBERED_TEST.findall(" ".join(tests)))}
    if tests and numbers and numbers <= set(range(_FIRST, _LAST + 1)):
        yield Case(f"C {', '.join(map(str, sorted(numbers)))}: {first}", tests)


def cases(bench: Bench) -> Group:
    """Run all tests of all cases, one process each; a quick look takes the first test of each."""
    found = listed(_DOCUMENT.read_text())
    if not found:
        raise RuntimeError(f"{_DOCUMENT.name} lists no case from C {_FIRST} to {_LAST}")
    idle: dict[str, int] = {}
    runs = []
    for case in found:
        for test in case.tests[:1] if bench.shrink > 1 else case.tests:
            file = test.partition("::")[0]
            if file not in idle:
                idle[file] = _run(file, "--collect-only")["peak_bytes"]
            runs.append({"case": case.name, "test": test, "idle_bytes": idle[file], **_run(test)})
            print(f"  {_line(runs[-1])}", flush=True)
    return Group(runs, _summary(runs), [_row(case, runs) for case in found])


def _run(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(_ONE), *words],
        cwd=environment.ROOT,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=_TEST_S_MAX,
        env=command.environment_of_a_user(),
    )
    lines = done.stdout.splitlines()
    if not lines or not lines[-1].startswith("{"):
        raise RuntimeError(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    told: dict[str, Any] = json.loads(lines[-1])
    if told["exit_code"]:
        print(done.stdout, file=sys.stderr)
    return told


def _over_mib(run: dict[str, Any]) -> float:
    return float(run["peak_bytes"] - run["idle_bytes"]) / _MIB


def _is_clean(run: dict[str, Any]) -> bool:
    return bool(run["threads_left"] <= 0 and run["fds_left"] <= 0)


def _line(run: dict[str, Any]) -> str:
    end = "as stated" if not run["exit_code"] else f"FAILED ({run['exit_code']})"
    left = "" if _is_clean(run) else f", left {run['threads_left']} threads, {run['fds_left']} descriptors"
    peak = f"peak {run['peak_bytes'] / _MIB:.0f} MiB, {_over_mib(run):.0f} over idle"
    return f"{run['test']}: {end}, {run['seconds']:.1f} s, {peak}{left}"


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "tests": len(runs),
        "as_stated": sum(not run["exit_code"] for run in runs),
        "seconds": round(sum(run["seconds"] for run in runs), 1),
        "over_idle_mib_max": round(max(map(_over_mib, runs)), 1),
        "clean": all(map(_is_clean, runs)),
        "idle": "the same process with the test's file imported and nothing run",
        "peak": "highest resident memory of that process, or of one that it started",
    }


def _row(case: Case, runs: list[dict[str, Any]]) -> Row:
    own = [run for run in runs if run["case"] == case.name]
    names = ", ".join(run["test"].rpartition("/")[2].replace(".py::", " ") for run in own)
    over = max(map(_over_mib, own))
    kept = all(not run["exit_code"] and _is_clean(run) for run in own) and over <= _OVER_IDLE_MIB_MAX
    seconds, peak = sum(run["seconds"] for run in own), max(run["peak_bytes"] for run in own) / _MIB
    return Row(
        case.name,
        names,
        f"{'' if kept else 'not '}as stated, {seconds:.1f} s, peak {peak:.0f} MiB, {max(over, 0):.0f} over idle",
        f"as stated, <= {_OVER_IDLE_MIB_MAX} MiB over idle, nothing left",
        kept,
    )
