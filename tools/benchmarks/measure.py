"""Measure processes: wall and CPU seconds, anonymous memory, and what the page cache held before."""

from __future__ import annotations

import os
import statistics
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import command

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Memory moves slowly against this; the sampler costs half a percent of a core.
_SAMPLE_S = 0.02


@dataclass(frozen=True, slots=True)
class Cost:
    """What one process took from its start to its end. ``anonymous_bytes`` is the highest of all samples."""

    seconds: float
    cpu_s: float
    anonymous_bytes: int
    output: str


def run(argv: Sequence[str], *, beside: MemoryWatch | None = None) -> Cost:
    """Run one command to its end. Its children count if it waited for them.

    Args:
        argv: the command.
        beside: another process's watch, started and stopped with this command.

    Raises:
        RuntimeError: it did not exit 0.
    """
    began = time.monotonic()
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=command.environment_of_a_user(),
    )
    with MemoryWatch(process.pid) as watch:
        output, errors = _drain(process)
        _pid, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if beside is not None:
        beside.stop()
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)}: exit {process.returncode}\n{errors or output}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, watch.highest_bytes, output)


def _drain(process: subprocess.Popen[str]) -> tuple[str, str]:
    # Reaping is left to wait4, which alone tells the CPU time of this one child.
    errors: list[str] = []

    def read_errors() -> None:
        if process.stderr is not None:
            errors.append(process.stderr.read())

    reader = threading.Thread(target=read_errors)
    reader.start()
    output = process.stdout.read() if process.stdout is not None else ""
    reader.join()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    return output, errors[0] if errors else ""


class MemoryWatch:
    """Sample one process's anonymous memory (RssAnon; mapped file pages are not counted) until stopped."""

    def __init__(self, pid: int) -> None:
        self.highest_bytes = 0
        self._status = Path(f"/proc/{pid}/status")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """End the sampling and return the highest sample in bytes."""
        self._over.set()
        self._thread.join()
        return self.highest_bytes

    def _watch(self) -> None:
        while not self._over.is_set():
            self.highest_bytes = max(self.highest_bytes, self._sample())
            self._over.wait(_SAMPLE_S)

    def _sample(self) -> int:
        try:
            lines = self._status.read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def cpu_of(pids: Sequence[int]) -> float:
    """CPU seconds that processes and their living descendants have used so far, to 10 ms."""
    total = 0
    for pid in _families(pids):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        # Fields 14 and 15 of proc(5), counted from behind the command's closing bracket; 16 and 17 are reaped children.
        total += sum(int(fields[place]) for place in (11, 12, 13, 14))
    return total / _TICKS_PER_S


def _families(pids: Sequence[int]) -> set[int]:
    found, todo = set(pids), list(pids)
    while todo:
        for children in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            try:
                new = {int(child) for child in children.read_text().split()} - found
            except OSError:
                continue
            found |= new
            todo += new
    return found


def warm(*files: Path) -> None:
    """Read files once, so that they stand in the page cache."""
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.read(1 << 24):
                pass


def cool(*files: Path) -> None:
    """Drop files from the page cache."""
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def settle() -> None:
    """Let the disk finish what earlier runs left dirty, so that nobody pays for a neighbour."""
    os.sync()


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, extremes and spread (the range over the median) of several runs."""
    middle = statistics.median(values)
    spread = (max(values) - min(values)) / middle if middle else 0.0
    return {
        "median": round(middle, 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
        "spread": round(spread, 3),
        "runs": len(values),
    }
