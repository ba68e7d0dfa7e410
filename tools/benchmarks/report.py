"""What a benchmark writes down: every run, the machine, the versions, and the rows that the README shows."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the README's table. ``bound`` is what was promised, ``met`` whether ``ours`` keeps it."""

    what: str
    beside: str
    ours: str
    bound: str
    met: bool


@dataclass(frozen=True, slots=True)
class Group:
    """One group of measurements: every run as it was, what follows from them, and the rows to show."""

    runs: list[dict[str, Any]]
    summary: dict[str, Any]
    table: list[Row] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The group as it stands in the file."""
        return {"table": [asdict(row) for row in self.table], "summary": self.summary, "runs": self.runs}


@dataclass(frozen=True, slots=True)
class Bench:
    """What every group is given: a folder on the disk to measure, how often, how big, and the seed of all noise."""

    work: Path
    rounds: int
    shrink: int
    seed: int

    def scaled(self, count: int) -> int:
        """A size in bytes, divided for a quick look at the machinery."""
        return count // self.shrink

    def folder(self, name: str) -> Path:
        """A new, empty folder in the work folder."""
        path = self.work / name
        path.mkdir(parents=True)
        return path


def machine(work: Path) -> dict[str, Any]:
    """What the figures depend on: processor, cores, memory, kernel, and the file system of ``work``."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "cpu": cpu[1].strip() if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": int(memory[1]) * 1024 if memory else None,
        "kernel": platform.release(),
        "filesystem": _line(["stat", "--file-system", "--format=%T", str(work)], r"(\S+)"),
        "congestion_control": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
    }


def versions() -> dict[str, str]:
    """The versions of everything that was measured."""
    found = {"python": platform.python_version()}
    for package in ("p2psync", "aiohttp", "blake3", "libtorrent"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    found["nginx"] = _line(["/usr/sbin/nginx", "-v"], r"nginx/(\S+)")
    found["curl"] = _line(["curl", "--version"], r"curl (\S+)")
    found["aria2"] = _line(["aria2c", "--version"], r"aria2 version (\S+)")
    found["rsync"] = _line(["rsync", "--version"], r"version (\S+)")
    return found


def _line(argv: list[str], pattern: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except OSError:
        return "absent"
    match = re.search(pattern, done.stdout + done.stderr)
    return match[1] if match else "unknown"


def write(path: Path, head: dict[str, Any], groups: dict[str, Group]) -> None:
    """Write a benchmark's file. Groups that were not run this time stay as they stand there."""
    old: dict[str, Any] = json.loads(path.read_text())["groups"] if path.exists() else {}
    new = {name: group.as_json() for name, group in groups.items()}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**head, "groups": {**old, **new}}, indent=1) + "\n")
