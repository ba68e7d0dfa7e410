"""How the engine's benchmark starts its processes: one at a time, from the checkout, answers as lines of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, Final

ROOT: Final = Path(__file__).parents[2]
ONE: Final = Path(__file__).with_name("engine_one.py")


def ask(*arguments: str, script: Path = ONE, python: str = sys.executable) -> dict[str, Any]:
    """Run a script to its end and return the object in its last line.

    Raises:
        RuntimeError: it failed; the message ends with what it said.
    """
    argv = [python, str(script), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=_environment())
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def begin(*arguments: str) -> subprocess.Popen[str]:
    """Start ``engine_one.py`` and leave it running; talk to it by ``tell`` and ``hear``."""
    argv = [sys.executable, str(ONE), *arguments]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment())


def hear(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next object that a process says.

    Raises:
        RuntimeError: it ended without one.
    """
    line = _stream(process.stdout).readline()
    if not line:
        raise RuntimeError(f"{process.args!r} ended with {process.wait()}")
    answer: dict[str, Any] = json.loads(line)
    return answer


def tell(process: subprocess.Popen[str]) -> None:
    """Let a process go on to its next stage."""
    stream = _stream(process.stdin)
    stream.write("\n")
    stream.flush()


def _stream(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise RuntimeError("the process was started without pipes")
    return stream


def _environment() -> dict[str, str]:
    # Found where the checkout is, also by an interpreter in which p2psync is not installed.
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tools", ROOT / "examples")))}
