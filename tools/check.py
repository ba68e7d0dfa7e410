#!/usr/bin/env python3
"""Check what the tests do not: format, lint, types, imports, sizes, and whether the README is current.

usage: tools/check.py

Prints what is wrong, then one table. Exits 1 if anything is.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import environment
import readme
import rules

ROOT = environment.ROOT
_FOLDERS = ("p2psync", "tools", "examples", "tests")
_BIN = environment.PYTHON.parent


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the table. ``detail`` is printed above it when the check failed."""

    check: str
    number: str
    bound: str
    passed: bool
    detail: str = ""


def _run(*command: str) -> tuple[bool, str]:
    done = subprocess.run(
        [str(_BIN / command[0]), *command[1:]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "NO_COLOR": "1"},
    )
    return done.returncode == 0, done.stdout


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    return match[1] if match else "0"


def _format() -> Result:
    passed, text = _run("ruff", "format", "--check", *_FOLDERS)
    return Result("ruff format", _found(r"^(\d+) files? would be", text), "0 files to change", passed, text)


def _lint() -> Result:
    passed, text = _run("ruff", "check", "--output-format", "concise", *_FOLDERS)
    return Result("ruff check", _found(r"^Found (\d+) error", text), "0 findings", passed, text)


def _types() -> Result:
    passed, text = _run("mypy", "p2psync", "tools", "examples")
    return Result("mypy --strict", _found(r"^Found (\d+) error", text), "0 errors", passed, text)


def _imports() -> Result:
    passed, text = _run("lint-imports", "--no-cache")
    return Result("import contracts", _found(r"(\d+) broken", text), "0 broken", passed, text)


def _file_sizes() -> Result:
    sizes = rules.file_sizes(ROOT, rules.python_files(ROOT, *_FOLDERS))
    return _sizes("longest file", sizes, rules.FILE_LINES_MAX)


def _function_sizes() -> Result:
    sizes = rules.function_sizes(ROOT, rules.python_files(ROOT, *_FOLDERS))
    return _sizes("longest function", sizes, rules.FUNCTION_LINES_MAX)


def _sizes(check: str, sizes: list[rules.Size], lines_max: int) -> Result:
    over = [f"{size.name} has {size.lines} lines, {lines_max} are allowed" for size in sizes if size.lines > lines_max]
    return Result(check, str(sizes[0].lines), f"{lines_max} lines", not over, "\n".join(over))


def _coroutines() -> Result:
    stray = rules.stray_coroutines(ROOT / "p2psync")
    rooms = ", ".join(sorted(rules.ASYNC_ROOMS))
    return Result("coroutines elsewhere", str(len(stray)), f"0, only in {rooms}", not stray, "\n".join(stray))


def _readme() -> Result:
    stale = readme.stale()
    detail = "README.md differs from what it is made from: run python3 tools/readme.py" if stale else ""
    return Result("README", "stale" if stale else "current", "current", not stale, detail)


_CHECKS: tuple[Callable[[], Result], ...] = (
    _format,
    _lint,
    _types,
    _imports,
    _file_sizes,
    _function_sizes,
    _coroutines,
    _readme,
)


def main() -> int:
    """Run every check, whatever the others say.

    Returns:
        The exit code: 0 if all passed, else 1.
    """
    environment.enter("dev")
    results = [check() for check in _CHECKS]
    for result in results:
        if not result.passed:
            print(f"{result.check}:\n{result.detail.rstrip()}\n")
    print(f"{'check':<22}{'is':>12}  {'must be':<32}result")
    for result in results:
        print(f"{result.check:<22}{result.number:>12}  {result.bound:<32}{'ok' if result.passed else 'FAILED'}")
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
