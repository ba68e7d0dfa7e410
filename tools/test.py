#!/usr/bin/env python3
"""Run the tests in a virtual environment made from the pinned requirements.

usage: tools/test.py [--full] [PYTEST ARGUMENT]...

``--full`` adds the tests marked slow (many seeds, long fuzzing, big files) and, where nothing else narrows the run,
writes what came out to docs/full-tests.json. Then the tests that need torch run in an environment of their own,
.venv/torch, and docs/full-tests-torch.json says what came out of those. Everything else goes to pytest. A run that
nothing narrows is spread over one process more than there are cores, since many tests wait for a process or a link.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
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
    environment.enter("dev", *(_FULL if "--full" in arguments else ()))
    chosen = [argument for argument in arguments if argument != "--full"]
    os.chdir(environment.ROOT)
    command = [str(environment.PYTHON), "-m", "pytest"]
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
    exit_code = _recorded(command, _RECORD)
    python = environment.make("torch", "dev", "torch")
    # Threads of torch that wait take the core from those that work; it reads this when it is loaded.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return _recorded([str(python), "-m", "pytest", *_ALL, *_TORCH_TESTS], _TORCH_RECORD) or exit_code


def _recorded(command: list[str], record: Path) -> int:
    """Run pytest and write what came out."""
    with tempfile.TemporaryDirectory(prefix="p2psync-tests-") as folder:
        results = Path(folder) / "results.xml"
        exit_code = subprocess.run([*command, f"--junitxml={results}"], check=False).returncode
        if results.exists():
            run_record.write(record, results, exit_code)
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
