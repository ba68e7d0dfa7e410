#!/usr/bin/env python3
"""Run the tests in a virtual environment made from the pinned requirements.

usage: tools/test.py [--full | --again] [PYTEST ARGUMENT]...

``--full`` adds the tests marked slow (many seeds, long fuzzing, big files) and, where nothing else narrows the run,
writes what came out to docs/full-tests.json. Then the tests that need torch run in an environment of their own,
.venv/torch, and docs/full-tests-torch.json says what came out of those. ``--again`` runs what failed according to these
two, one test after the other, and writes beside it there what came out. Everything else goes to pytest. A run that
nothing narrows is spread over one process more than there are cores, since many tests wait for a process or a link.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import environment
import run_record

# What only tests marked slow need.
_FULL = ("fuzz", "tensorrt")
_RECORD = environment.ROOT / "docs" / "full-tests.json"
# What is skipped without torch: the backend of that name, and everything that makes engines.
_TORCH_TESTS = (
    "tests/contract/test_backends.py",
    "tests/integration/test_engine_export.py",
    "tests/integration/test_torch_clips.py",
    "tests/unit/compress",
    "tests/unit/engine",
    "tests/unit/tools/test_mutations.py",
)
_TORCH_RECORD = environment.ROOT / "docs" / "full-tests-torch.json"
_ALL = ("-m", "slow or not slow")


def main(arguments: list[str]) -> int:
    """Run pytest, so that its closing line and its exit code are the last word."""
    environment.enter("dev", *(_FULL if {"--full", "--again"} & {*arguments} else ()))
    chosen = [argument for argument in arguments if argument not in ("--full", "--again")]
    os.chdir(environment.ROOT)
    command = [str(environment.PYTHON), "-m", "pytest"]
    if "--again" in arguments:
        return _again(command, chosen)
    if not chosen:
        # What says in a mark that it belongs together stays on one process.
        command += ["--numprocesses", str((os.cpu_count() or 1) + 1), "--dist", "loadgroup"]
    sys.stdout.flush()
    if "--full" not in arguments:
        # Hundreds of tests start the program; where no bytecode is kept, each start compiles it again. The long runs
        # edit copies of it and start those, and bytecode of an edit within the same second could pass for the next.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.execv(environment.PYTHON, [*command, *chosen])
    command += [*_ALL, *chosen]
    if chosen:
        os.execv(environment.PYTHON, command)
    exit_code = _recorded(command, _RECORD, run_record.write)
    return _recorded([*_with_torch(), *_ALL, *_TORCH_TESTS], _TORCH_RECORD, run_record.write) or exit_code


def _again(command: list[str], chosen: list[str]) -> int:
    """Run what failed when the records were written."""
    exit_code = 0
    for record in (_RECORD, _TORCH_RECORD):
        failed = run_record.failed(record)
        if failed:
            python = command if record == _RECORD else _with_torch()
            exit_code = _recorded([*python, *_ALL, *chosen, *failed], record, run_record.write_again) or exit_code
    return exit_code


def _with_torch() -> list[str]:
    # Threads of torch that wait take the core from those that work; it reads this when it is loaded.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return [str(environment.make("torch", "dev", "torch")), "-m", "pytest"]


def _recorded(command: list[str], record: Path, write: Callable[[Path, Path, int], None]) -> int:
    """Run pytest and write what came out."""
    with tempfile.TemporaryDirectory(prefix="p2psync-tests-") as folder:
        results = Path(folder) / "results.xml"
        exit_code = subprocess.run([*command, f"--junitxml={results}"], check=False).returncode
        if results.exists():
            write(record, results, exit_code)
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
