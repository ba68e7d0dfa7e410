#!/usr/bin/env python3
"""Prove that the checks matter: switch off each one alone, and demand that its test fails.

usage: tools/mutate.py [--find] [--only TEXT] [--jobs N]

The checks are those that tools/checks_in_source.py finds: every `if` that only refuses, in the rooms that read from
outside. docs/mutations.json names a test for each. Without ``--find`` those tests run, each with its check switched
off, and one that passes is a survivor: exit 1. ``--find`` makes the list
anew, or with ``--only`` a part of it: the tests run once with checks that say when they refuse, so that it is known
which test reaches which check, and then each is tried.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import environment
from checks_in_source import Check, checks

LIST: Final = environment.ROOT / "docs" / "mutations.json"
# What reaches the checks soonest; tests that start processes are slow, and few checks are reached by them alone.
_TESTS: Final = ("tests/unit", "tests/adversarial", "tests/contract")
_LIMIT_S: Final = 60.0
_TRIES: Final = 4
_FAILED: Final = re.compile(r"\b[1-9][0-9]* failed\b")
_COPIED: Final = ("p2psync", "tests", "tools", "examples", "requirements", "docs", "pyproject.toml", "README.md")
_LOG: Final = """
import os
def hit(number):
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    with open({path!r}, "a") as file:
        file.write(f"{{number}}\\t{{test}}\\n")
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """``test`` fails when the check is off; empty where none does, and then ``reached`` is whether any gets there."""

    check: str
    test: str
    reached: bool
    seconds: float


class Copy:
    """A copy of the working tree in which files may be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in _COPIED:
            source = environment.ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
            elif source.exists():
                shutil.copy(source, folder / name)

    def pytest(self, *words: str, limit_s: float | None = None) -> tuple[int, str]:
        """Run pytest in the copy; its exit code (124 at the limit) and what it said."""
        found = os.environ | {"PYTHONPATH": os.pathsep.join([str(self.folder), str(self.folder / "tools")])}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
        try:
            done = subprocess.run(
                command, cwd=self.folder, env=found, capture_output=True, text=True, check=False, timeout=limit_s
            )
        except subprocess.TimeoutExpired:
            return 124, ""
        return done.returncode, done.stdout

    def fails(self, check: Check, test: str) -> bool:
        """Whether a test fails with a check switched off. A hang counts: the check was what ended it."""
        path = self.folder / check.file
        text = path.read_text()
        path.write_text(check.off(text))
        try:
            code, said = self.pytest("-x", "--timeout", str(int(_LIMIT_S)), test, limit_s=_LIMIT_S + 30)
        finally:
            path.write_text(text)
        last = said.rstrip().rpartition("\n")[2]
        return code == 124 or (code == 1 and _FAILED.search(last) is not None and "error" not in last)


def reached(found: Sequence[Check], room: Path) -> dict[int, list[str]]:
    """Run the tests once; for each check the tests in which it refused."""
    copy = Copy(room)
    log = room / "hits"
    log.touch()
    (room / "mutation_log.py").write_text(_LOG.format(path=str(log)))
    by_file: dict[str, list[tuple[int, Check]]] = {}
    for number, check in enumerate(found):
        by_file.setdefault(check.file, []).append((number, check))
    for file, inside in by_file.items():
        text = (room / file).read_text()
        # From the end, so that offsets before it still hold.
        for number, check in sorted(inside, key=lambda one: -one[1].refusal):
            text = check.told(text, number)
        (room / file).write_text(text)
    copy.pytest("--numprocesses", str((os.cpu_count() or 1) + 1), "--dist", "loadgroup", *_TESTS)
    hits: dict[int, list[str]] = {}
    for line in log.read_text().splitlines():
        told, _, test = line.partition("\t")
        known = hits.setdefault(int(told), [])
        plain = test.partition("@")[0]
        if plain and plain not in known:
            known.append(plain)
    return hits


def prove(copy: Copy, check: Check, tests: Sequence[str]) -> Outcome:
    """Switch a check off and look for a test that notices."""
    began_s = time.monotonic()
    for test in tests[:_TRIES]:
        if copy.fails(check, test):
            return Outcome(check.id, test, reached=True, seconds=round(time.monotonic() - began_s, 1))
    return Outcome(check.id, "", reached=bool(tests), seconds=round(time.monotonic() - began_s, 1))


def run(found: Sequence[Check], tests: dict[str, Sequence[str]], jobs: int) -> list[Outcome]:
    """Prove all, a few at a time, each worker in a copy of its own."""
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as room, ThreadPoolExecutor(jobs) as pool:
        copies = [Copy(Path(room) / str(number)) for number in range(jobs)]

        def work(check: Check) -> Outcome:
            copy = copies.pop()
            try:
                return prove(copy, check, tests.get(check.id, ()))
            finally:
                copies.append(copy)

        for outcome in pool.map(work, found):
            outcomes.append(outcome)
            if not outcome.test:
                what = "no test notices" if outcome.reached else "no test reaches"
                print(f"{what}: {outcome.check}", flush=True)
            elif len(outcomes) % 25 == 0:
                print(f"{len(outcomes)} of {len(found)}", flush=True)
    return outcomes


def sound(outcomes: Sequence[Outcome]) -> bool:
    """Whether the tests that notice pass as long as nothing is switched off."""
    tests = sorted({outcome.test for outcome in outcomes if outcome.test})
    with tempfile.TemporaryDirectory() as room:
        copy = Copy(Path(room))
        code, said = copy.pytest("--numprocesses", str(os.cpu_count() or 1), *tests) if tests else (0, "")
    if code:
        print(f"these tests fail anyhow:\n{said[-3000:]}", flush=True)
    return code == 0


def _write(outcomes: Sequence[Outcome]) -> None:
    """Put outcomes into the list, in the order of the source; what is no check any more goes."""
    known = {entry["check"]: entry for entry in json.loads(LIST.read_text())["checks"]} if LIST.exists() else {}
    known |= {outcome.check: asdict(outcome) for outcome in outcomes}
    order = [check.id for check in checks(environment.ROOT)]
    LIST.write_text(json.dumps({"checks": [known[name] for name in order if name in known]}, indent=1) + "\n")


def main() -> int:
    """Returns 1 where a check of the list can be switched off unnoticed."""
    parser = argparse.ArgumentParser(description="Prove that each check matters.")
    parser.add_argument("--find", action="store_true", help="make the list anew")
    parser.add_argument("--only", default="", metavar="TEXT", help="checks whose name holds this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    environment.enter("dev")
    found = [check for check in checks(environment.ROOT) if arguments.only in check.id]
    if arguments.find:
        with tempfile.TemporaryDirectory() as room:
            hits = reached(found, Path(room))
        tests: dict[str, Sequence[str]] = {check.id: hits.get(number, []) for number, check in enumerate(found)}
    elif not LIST.exists():
        parser.error(f"{LIST.relative_to(environment.ROOT)} is not there; make it with --find")
    else:
        listed = [entry for entry in json.loads(LIST.read_text())["checks"] if arguments.only in entry["check"]]
        strange = sorted({check.id for check in found} ^ {entry["check"] for entry in listed})
        if strange:
            print("the list is not of this source; run it with --find:", *strange, sep="\n  ")
            return 1
        tests = {entry["check"]: [entry["test"]] for entry in listed if entry["test"]}
        found = [check for check in found if check.id in tests]
    outcomes = run(found, tests, arguments.jobs)
    killed = sum(bool(outcome.test) for outcome in outcomes)
    print(f"{killed} of {len(outcomes)} checks are noticed when they are off")
    if not sound(outcomes):
        return 1
    if arguments.find:
        _write(outcomes)
        return 0
    return 0 if killed == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
