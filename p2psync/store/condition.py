"""What can be learnt of the disk below a home by trying it, without owning the home or changing it.

What is tried is tried on a nameless file that is gone when it is closed, in the home or, while that does not exist, in
the nearest directory that does.
"""

from __future__ import annotations

import os
import re
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from p2psync import disk
from p2psync.content import DIGEST_BYTES
from p2psync.store import linux
from p2psync.store.home import Home

_MOUNTS: Final = Path("/proc/self/mountinfo")
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_SYNC_TRIES: Final = 5
# One block of most file systems: below it a reflink is refused.
_BLOCK: Final = bytes(4096)
_DIGITS: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Mounted:
    """The file system that a path stands on: its type as Linux calls it, and whether it takes no writes."""

    kind: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class Room:
    """What a file system has left for this user. ``files`` is None where it keeps no count of them."""

    free_bytes: int
    files: int | None


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Pulls that did not end: how many, the seconds since the oldest one moved, and folders that belong to none."""

    pulls: int
    oldest_s: float
    strays: tuple[str, ...]


def standing(path: Path) -> Path:
    """The path itself, or the nearest directory above it that exists."""
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path


def mounted(path: Path) -> Mounted | None:
    """The file system of an existing path; None where the kernel does not say.

    Raises:
        OSError: the path cannot be looked at.
    """
    read_only = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    device = os.stat(path).st_dev
    where = os.path.realpath(path)
    best: tuple[int, int, str] | None = None
    for number, line in enumerate(_mount_lines()):
        left, _, right = line.partition(" - ")
        fields = left.split()
        kind = right.split()[0]
        point = _OCTAL.sub(lambda found: chr(int(found[1], 8)), fields[4])
        if where != point and not where.startswith(f"{point.rstrip('/')}/"):
            continue
        # Btrfs gives every subvolume a device of its own, so the device only decides between mounts of one place.
        same = fields[2] == f"{os.major(device)}:{os.minor(device)}"
        best = max(filter(None, (best, (len(point) * 2 + same, number, kind))))
    return Mounted(best[2], read_only) if best else None


def _mount_lines() -> list[str]:
    try:
        return _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []


def room(path: Path) -> Room:
    """What is left where an existing path stands.

    Raises:
        OSError: the file system does not say.
    """
    facts = os.statvfs(path)
    return Room(facts.f_bavail * facts.f_frsize, facts.f_favail if facts.f_files else None)


def takes_files(folder: Path) -> bool:
    """Whether a file can be made in ``folder``, found out by making one: permissions alone do not tell."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def shares_blocks(folder: Path) -> bool:
    """Whether a copy in ``folder`` can share its blocks (a reflink), found out by making one.

    Raises:
        OSError: no file can be made there.
    """
    with tempfile.TemporaryFile(dir=folder) as source, tempfile.TemporaryFile(dir=folder) as target:
        disk.write_all(source.fileno(), _BLOCK)
        return linux.reflink(source.fileno(), target.fileno())


def sync_time_s(folder: Path) -> float:
    """The median time in which a block that was just written reaches the disk, in seconds.

    Raises:
        OSError: no file can be made there, or the disk does not take it.
    """
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for number in range(_SYNC_TRIES):
            disk.write_at(file.fileno(), _BLOCK, number * len(_BLOCK))
            begun_s = time.monotonic()
            disk.sync_data(file.fileno())
            times.append(time.monotonic() - begun_s)
    return statistics.median(times)


def interrupted(home: Path, now_unix_s: float) -> Interrupted:
    """The pulls that stand in a home and did not end. Reads names and times only.

    Raises:
        OSError: the directory cannot be read.
    """
    top = Home(home).partial
    moved, strays = [], []
    for folder in sorted(top.iterdir()) if top.is_dir() else []:
        if folder.is_dir() and len(folder.name) == 2 * DIGEST_BYTES and _DIGITS.issuperset(folder.name):
            journal = folder / "journal"
            moved.append(os.stat(journal if journal.exists() else folder).st_mtime)
        else:
            strays.append(folder.name)
    oldest_s = max(0.0, now_unix_s - min(moved)) if moved else 0.0
    return Interrupted(len(moved), oldest_s, tuple(strays))
