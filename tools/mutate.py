#!/usr/bin/env python3
"""Prove that the checks matter: switch off each one alone, and demand that its test fails.

usage: tools/mutate.py [--torch] [--find [--hits FILE]] [--only TEXT] [--jobs N]

The checks are those that tools/checks_in_source.py finds, every `if` that only refuses in the rooms that read from
outside, and the caps of tools/caps_in_source.py. docs/mutations.json names a test for each. Without ``--find`` those
tests run, each with its check switched off, and one that passes is a survivor: exit 1. ``--find`` makes the list anew,
or with ``--only`` a part of it: the tests run once with checks that say when they refuse and with functions that say
when they look at a cap, so that it is known which test reaches what, and then each is tried. ``--hits`` keeps what that
first run found, or takes it from there. ``--torch`` takes, instead of all others, the checks that no test reaches
without torch, and runs in an environment that has it.
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
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import environment
from caps_in_source import Cap, caps
from checks_in_source import Check, checks
from edits_in_source import Edit, applied

LIST: Final = environment.ROOT / "docs" / "mutations.json"
# What reaches the checks soonest; tests that start processes are slow, and few checks are reached by them alone.
_TESTS: Final = ("tests/unit", "tests/adversarial", "tests/contract")
# What runs there where torch is, and the files whose checks are reached there alone.
_TORCH_TESTS: Final = ("tests/unit/engine", "tests/contract")
_TORCH_FILES: Final = "p2psync/engine/torch_"
_LIMIT_S: Final = 60.0
_TRIES: Final = 5
# A cap is read by many tests that come nowhere near it.
_CAP_TRIES: Final = 8
# What pytest says last, whatever the interpreter says behind it.
_SUMMARY: Final = re.compile(r"^=* ?(?:[0-9]+ [a-z]+(?:, )?)+ in [0-9.]+s.*$", re.MULTILINE)
_FAILED: Final = re.compile(r"\b[1-9][0-9]* failed\b")
_COPIED: Final = ("p2psync", "tests", "tools", "examples", "requirements", "docs", "pyproject.toml", "README.md")
_LOG: Final = """
import os
_told = set()
def hit(number):
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    if (number, test) not in _told:
        _told.add((number, test))
        with open({path!r}, "a") as file:
            file.write(f"{{number}}\\t{{test}}\\n")
"""

# What can be switched off.
Switch = Check | Cap


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
        found = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(self.folder), str(self.folder / "tools")]),
            # Bytecode of an edit within the same second, and of the same length, would pass for the next one.
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
        try:
            done = subprocess.run(
                command, cwd=self.folder, env=found, capture_output=True, text=True, check=False, timeout=limit_s
            )
        except subprocess.TimeoutExpired:
            return 124, ""
        return done.returncode, done.stdout

    def edited(self, edits: Sequence[Edit]) -> dict[Path, str]:
        """Make edits; the files that were changed, as they were before."""
        by_file: dict[str, list[Edit]] = {}
        for edit in edits:
            by_file.setdefault(edit.file, []).append(edit)
        before = {self.folder / file: (self.folder / file).read_text() for file in by_file}
        for file, inside in by_file.items():
            path = self.folder / file
            path.write_text(applied(before[path], inside))
        return before

    def fails(self, switch: Switch, test: str) -> bool:
        """Whether a test fails with a check switched off. A hang counts: the check was what ended it."""
        before = self.edited(switch.off())
        try:
            code, said = self.pytest("-x", "--timeout", str(int(_LIMIT_S)), test, limit_s=_LIMIT_S + 30)
        finally:
            for path, text in before.items():
                path.write_text(text)
        last = ["", *_SUMMARY.findall(said)][-1]
        return code == 124 or (code == 1 and _FAILED.search(last) is not None and "error" not in last)


def switches(root: Path) -> list[Switch]:
    """Everything that can be switched off, caps last."""
    return [*checks(root), *caps(root)]


def needs_torch(switch: Switch) -> bool:
    """Whether only tests with torch get there."""
    return switch.id.startswith(_TORCH_FILES)


def reached(found: Sequence[Switch], room: Path, folders: Sequence[str] = _TESTS) -> dict[str, list[str]]:
    """Run the tests once; for each check the tests in which it refused, for each cap those that looked at it."""
    copy = Copy(room)
    log = room / "hits"
    log.touch()
    (room / "mutation_log.py").write_text(_LOG.format(path=str(log)))
    copy.edited([edit for number, switch in enumerate(found) for edit in switch.told(number)])
    _, said = copy.pytest("--numprocesses", str((os.cpu_count() or 1) + 1), "--dist", "loadgroup", *folders)
    print("\n".join([*re.findall(r"^FAILED .*$", said, re.MULTILINE), *_SUMMARY.findall(said)]), flush=True)
    hits: dict[str, dict[str, None]] = {switch.id: {} for switch in found}
    for line in log.read_text().splitlines():
        told, _, test = line.partition("\t")
        if plain := test.partition("@")[0]:
            hits[found[int(told)].id][plain] = None
    return {name: list(tests) for name, tests in hits.items()}


def candidates(switch: Switch, hits: dict[str, list[str]]) -> list[str]:
    """The tests to try, the likeliest first: those that reach little else; of a cap, those that speak of it.

    A broad test seldom sees which of many checks refused.
    """
    reach = Counter(test for found in hits.values() for test in found)
    tests = sorted(hits.get(switch.id, []), key=lambda test: reach[test])
    if isinstance(switch, Check):
        return _varied(tests)[:_TRIES]
    word = re.compile(rf"\b{switch.name}\b")
    refused = [test for name, found in hits.items() if name != switch.id and word.search(name) for test in found]
    files = {test.partition("::")[0] for test in tests}
    speaking = {file for file in files if word.search((environment.ROOT / file).read_text())}
    spoken = [test for test in tests if test.partition("::")[0] in speaking]
    return list(dict.fromkeys([*_varied(refused)[:_TRIES], *_varied(spoken)[:_CAP_TRIES], *_varied(tests)]))[
        :_CAP_TRIES
    ]


def _varied(tests: Sequence[str]) -> list[str]:
    """One of each function first: what differs in its arguments alone is likely to notice the same."""
    seen: dict[str, int] = {}
    ranked: list[tuple[int, int, str]] = []
    for test in tests:
        function = test.partition("[")[0]
        ranked.append((seen.get(function, 0), len(ranked), test))
        seen[function] = seen.get(function, 0) + 1
    return [test for _, _, test in sorted(ranked)]


def prove(copy: Copy, check: Switch, tests: Sequence[str]) -> Outcome:
    """Switch a check off and look for a test that notices."""
    began_s = time.monotonic()
    for test in tests:
        if copy.fails(check, test):
            return Outcome(check.id, test, reached=True, seconds=round(time.monotonic() - began_s, 1))
    return Outcome(check.id, "", reached=bool(tests), seconds=round(time.monotonic() - began_s, 1))


def run(
    found: Sequence[Switch], tests: dict[str, Sequence[str]], jobs: int, tell: Callable[[Outcome], object]
) -> list[Outcome]:
    """Prove all, a few at a time, each worker in a copy of its own."""
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as room, ThreadPoolExecutor(jobs) as pool:
        copies = [Copy(Path(room) / str(number)) for number in range(jobs)]

        def work(check: Switch) -> Outcome:
            copy = copies.pop()
            try:
                return prove(copy, check, tests.get(check.id, ()))
            finally:
                copies.append(copy)

        for outcome in pool.map(work, found):
            outcomes.append(outcome)
            tell(outcome)
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
    order = [switch.id for switch in switches(environment.ROOT)]
    LIST.write_text(json.dumps({"checks": [known[name] for name in order if name in known]}, indent=1) + "\n")


def _hits(every: Sequence[Switch], kept: Path | None, folders: Sequence[str]) -> dict[str, list[str]]:
    if kept is not None and kept.exists():
        found: dict[str, list[str]] = json.loads(kept.read_text())
        return found
    with tempfile.TemporaryDirectory() as room:
        found = reached(every, Path(room), folders)
    if kept is not None:
        kept.write_text(json.dumps(found))
    return found


def _enter(*, torch: bool) -> None:
    if not torch:
        environment.enter("dev")
        return
    python = environment.make("torch", "dev", "torch")
    if Path(sys.prefix).resolve() != python.parent.parent.resolve():
        os.execv(python, [str(python), *sys.argv])


class _Kept:
    """The outcomes of a search so far, a line each, in a file if one is wanted."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        self.known = {outcome.check: outcome for outcome in (Outcome(**json.loads(line)) for line in lines)}

    def add(self, outcome: Outcome) -> None:
        """Keep one more."""
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")


def main() -> int:
    """Returns 1 where a check of the list can be switched off unnoticed."""
    parser = argparse.ArgumentParser(description="Prove that each check matters.")
    parser.add_argument("--find", action="store_true", help="make the list anew")
    parser.add_argument("--torch", action="store_true", help="those that only tests with torch reach, and no others")
    parser.add_argument("--hits", type=Path, metavar="FILE", help="which test reaches what, kept from one --find on")
    parser.add_argument("--only", default="", metavar="TEXT", help="checks whose name holds this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    _enter(torch=arguments.torch)
    every = switches(environment.ROOT)
    found = [switch for switch in every if arguments.only in switch.id and needs_torch(switch) == arguments.torch]
    if arguments.find:
        hits = _hits(every, arguments.hits, _TORCH_TESTS if arguments.torch else _TESTS)
        tests: dict[str, Sequence[str]] = {switch.id: candidates(switch, hits) for switch in found}
    elif not LIST.exists():
        parser.error(f"{LIST.relative_to(environment.ROOT)} is not there; make it with --find")
    else:
        listed = json.loads(LIST.read_text())["checks"]
        strange = sorted({switch.id for switch in every} ^ {entry["check"] for entry in listed})
        if strange:
            print("the list is not of this source; run it with --find:", *strange, sep="\n  ")
            return 1
        tests = {entry["check"]: [entry["test"]] for entry in listed if entry["test"]}
        found = [check for check in found if check.id in tests]
    kept = _Kept(arguments.hits.with_suffix(".outcomes") if arguments.find and arguments.hits else None)
    done = [kept.known[switch.id] for switch in found if switch.id in kept.known]
    outcomes = done + run([s for s in found if s.id not in kept.known], tests, arguments.jobs, kept.add)
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
