"""The log of generations: one JSON line each, bounded, never the prompt.

Lines are appended under a lock, so two runs on one home do not mix theirs, and are synced. One that a crash or a full
disk cut short is ended before the next. Beyond its bound the older half goes; the new file takes the name of the old
one in one step.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from p2psync import disk
from p2psync.engine.video import writing
from p2psync.limits import GENERATIONS_BYTES_MAX

FILE_NAME: Final = "generations.jsonl"


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation. Times in seconds, memory in bytes. ``outcome`` is ``done``, or the code of the error."""

    time_unix_s: int
    reference: str
    digest: str
    version: int | None
    variant: str
    backend: str
    precision: str
    height_px: int
    width_px: int
    frames: int
    steps: int
    seconds: float
    seconds_per_step: float | None
    peak_memory_bytes: int | None
    outcome: str


def append(path: Path, generation: Generation) -> None:
    """Add one line.

    Raises:
        StoreError: the disk refuses.
    """
    line = json.dumps(asdict(generation), sort_keys=True, separators=(",", ":")).encode() + b"\n"
    with writing(path), _locked(path):
        new = not path.exists()
        if not new and path.stat().st_size + len(line) >= GENERATIONS_BYTES_MAX:
            _halve(path)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(fd).st_size
            torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            disk.write_all(fd, b"\n" * torn + line)
            disk.sync_data(fd)
        finally:
            os.close(fd)
        if new:
            disk.sync_folder(path.parent)


def last(path: Path, count: int) -> list[dict[str, Any]]:
    """The newest ``count`` generations, oldest first. A line that a crash cut short is passed over."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found: list[dict[str, Any]] = []
    for line in reversed(lines):
        if len(found) == count:
            break
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found[::-1]


def _halve(path: Path) -> None:
    """Keep the newer half, from the start of a line."""
    data = path.read_bytes()
    kept = data[len(data) // 2 :]
    disk.write_durably(path, kept[kept.find(b"\n") + 1 :], mode=0o600)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of the log, a file of its own that is never replaced."""
    fd = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
