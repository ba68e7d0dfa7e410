"""What a full run of the tests came to, as it is committed: counts, seconds, the slowest, where, when and of what."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import environment
from benchmarks import report

_SLOWEST = 20
# The elements of a JUnit file that say how a case ended; a case without one passed.
_ENDS = {"failure": "failed", "error": "errors", "skipped": "skipped"}


@dataclass(frozen=True, slots=True)
class Case:
    """One test: its name, how it ended, why where it did not pass, and how long it took."""

    name: str
    end: str
    reason: str
    seconds: float


def read(results: Path) -> list[Case]:
    """The tests in the JUnit file that pytest wrote. Setup and teardown count to their test."""
    cases = []
    for element in ET.parse(results).getroot().iter("testcase"):  # noqa: S314 -- pytest wrote it a moment ago.
        ends = [(child, _ENDS[child.tag]) for child in element if child.tag in _ENDS]
        name = f"{element.get('classname', '').replace('.', '/')}::{element.get('name', '')}"
        reason = str(ends[0][0].get("message", "")).splitlines()[:1] if ends else []
        cases.append(
            Case(
                name,
                ends[0][1] if ends else "passed",
                reason[0][:200] if reason else "",
                float(element.get("time", "0")),
            )
        )
    return cases


def write(path: Path, results: Path, exit_code: int) -> None:
    """Write the record of one full run."""
    path.parent.mkdir(exist_ok=True)
    record = summary(read(results), exit_code)
    record |= {
        "command": "python3 tools/test.py --full",
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "machine": report.machine(environment.ROOT),
    }
    path.write_text(json.dumps(record, indent=1) + "\n")


def failed(path: Path) -> list[str]:
    """The tests that failed according to a record, as pytest takes them."""
    if not path.exists():
        return []
    names = [one["test"] for one in json.loads(path.read_text())["not_passed"] if one["end"] in ("failed", "errors")]
    return [f"{file}.py::{test}" for file, _, test in (name.partition("::") for name in names)]


def write_again(path: Path, results: Path, exit_code: int) -> None:
    """Write beside a record what came out when its failures were run again."""
    record = json.loads(path.read_text())
    counts = summary(read(results), exit_code)
    record["again"] = {
        **{name: value for name, value in counts.items() if name != "slowest"},
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "commit": _git("rev-parse", "HEAD"),
    }
    path.write_text(json.dumps(record, indent=1) + "\n")


def summary(cases: list[Case], exit_code: int) -> dict[str, Any]:
    """Counts of how the tests ended, their seconds, the slowest of them, and those that did not pass."""
    ends = Counter(case.end for case in cases)
    slowest = sorted(cases, key=lambda case: -case.seconds)[:_SLOWEST]
    return {
        "exit_code": exit_code,
        "tests": len(cases),
        **{end: ends[end] for end in ("passed", *_ENDS.values())},
        "seconds": round(sum(case.seconds for case in cases), 1),
        "slowest": [{"test": case.name, "seconds": round(case.seconds, 2)} for case in slowest],
        "not_passed": [
            {"test": case.name, "end": case.end, "reason": case.reason} for case in cases if case.end != "passed"
        ],
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(environment.ROOT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()
