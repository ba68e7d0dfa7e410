"""Disks that fail: at the n-th durable step, or by forgetting what was never synced."""

from __future__ import annotations

import errno
import functools
import os
import random
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from p2psync import disk
from p2psync.store import linux

WRITES = ("write", "pwrite")
STEPS = (*WRITES, "sync", "sync_data", "rename", "replace", "link", "unlink", "mkdir", "rmdir")
# What only prepares: nothing of it has to survive, and the disk may refuse it all the same.
PREPARATIONS = ("chmod", "fchmod", "ftruncate")
# Steps that are no single call, and that a dead process does not take either.
_LARGE = ("remove_tree",)
FAULTS = ("full", "broken", "short", "killed")


class Killed(BaseException):
    """The process is gone. Nothing catches it, and no step after it reaches the disk."""


class Failing:
    """Counts durable steps and makes the n-th of them fail.

    ``full`` and ``broken`` are ENOSPC and EIO at that step alone; ``short`` lets half of a write through and then says
    ENOSPC; ``killed`` ends everything from that step on.
    """

    def __init__(self, number: int, fault: str) -> None:
        self.number = number
        self.fault = fault
        self.count = 0
        self.dead = False
        self.failed: tuple[str, tuple[Any, ...]] | None = None
        self.after: list[tuple[str, tuple[Any, ...]]] = []

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        """The step ``name``, watched."""

        def step(*arguments: Any, **named: Any) -> Any:
            if self.dead:
                raise Killed
            self.count += name not in _LARGE
            if self.failed is not None:
                self.after.append((name, arguments))
            if self.failed is not None or self.count != self.number or name in _LARGE:
                return real(*arguments, **named)
            self.failed = name, arguments
            return self._fail(name, real, arguments)

        return step

    def wrap_open(self, real: Callable[..., int]) -> Callable[..., int]:
        """``os.open``, watched where it makes a file."""
        make = self.wrap("create", real)

        def opened(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
            return (make if flags & os.O_CREAT else real)(path, flags, *arguments, **named)

        return opened

    def _fail(self, name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if self.fault == "killed":
            self.dead = True
            raise Killed
        if self.fault == "short" and name in WRITES:
            fd, data, *where = arguments
            if len(data) > 1:
                return real(fd, memoryview(data)[: len(data) // 2], *where)
        code = errno.EIO if self.fault == "broken" else errno.ENOSPC
        raise OSError(code, os.strerror(code))


@pytest.fixture(autouse=True)
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """For modules that import this: what is watched above the system call need not wait for a real disk."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda _fd: None)


@contextmanager
def failing(number: int, fault: str) -> Iterator[Failing]:
    """Inside, the ``number``-th durable step fails in the way of ``fault``. 0 fails none and counts them."""
    watch = Failing(number, fault)
    with pytest.MonkeyPatch.context() as patch:
        for name in (*STEPS, *_LARGE):
            patch.setattr(disk, name, watch.wrap(name, getattr(disk, name)))
        for name in ("reserve", "copy_range"):
            patch.setattr(linux, name, watch.wrap(name, getattr(linux, name)))
        for name in PREPARATIONS:
            patch.setattr(os, name, watch.wrap(name, getattr(os, name)))
        patch.setattr(os, "open", watch.wrap_open(os.open))
        patch.setattr(tempfile, "mkdtemp", watch.wrap("mkdtemp", tempfile.mkdtemp))
        yield watch


class Kind(Enum):
    """What survives of what was never synced.

    ``NOTHING``: neither names nor bytes, SQLite's files included. ``NAMES``: names reached the disk by themselves, as
    on file systems that order nothing, and bytes did not; SQLite's files, which keep an order of their own, are as
    they are. ``SOME``: of each file and directory, by lot, its newest place or the one before, and of its bytes those
    that were synced, all of them, or the first half.
    """

    NOTHING = "nothing"
    NAMES = "names"
    SOME = "some"


class PowerCut:
    """Watches what reaches the disk below ``top``, and shows what a power cut would leave of it.

    Bytes survive as they were when their file was last synced, names as they were when their directory was; a file that
    was never synced is empty, a directory that was never synced too. What stood there before is taken for durable.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self.files: dict[int, bytes] = {}
        self.folders: dict[int, dict[str, int]] = {}
        self.modes: dict[int, int] = {}
        self._held: dict[int, int] = {}
        for folder, _, names in os.walk(top):
            self._keep_folder(Path(folder))
            for name in names:
                self._keep_file(Path(folder) / name)

    def synced(self, fd: int) -> None:
        """What an open file or directory is now would survive."""
        path = Path(f"/proc/self/fd/{fd}")
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            self._keep_folder(path)
        else:
            self._keep_file(path)

    def close(self) -> None:
        """Let go of every inode: until then no number is given to another file."""
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()

    def leave(self, target: Path, kind: Kind, seed: int = 0) -> None:
        """Write to ``target`` what a power cut now would leave."""
        target.mkdir()
        remains = _Remains(self, kind, random.Random(seed))
        remains.write(self.top, target, os.lstat(self.top).st_ino)

    def names_of(self, inode: int, now: Path | None) -> tuple[dict[str, int], dict[str, int]]:
        """What stands in a directory for sure, and what stands there now."""
        return self.folders.get(inode, {}), {} if now is None else self._listing(now)

    def settled(self) -> set[int]:
        """What stands for sure where it stands now. A rename is one step: its old place is gone with that."""
        found: set[int] = set()
        for folder, _, _ in os.walk(self.top):
            sure, fresh = self.names_of(os.lstat(folder).st_ino, Path(folder))
            found.update(inode for name, inode in fresh.items() if sure.get(name) == inode)
        return found

    def places(self) -> Iterator[tuple[int, Path]]:
        """Where everything stands now: what a directory holds is its own, whichever place of it survives."""
        for folder, _, _ in os.walk(self.top):
            for entry in os.scandir(folder):
                yield entry.inode(), Path(entry.path)

    def is_folder(self, inode: int) -> bool:
        """Whether this is a directory, as far as one has been seen."""
        return inode in self._is_folder

    def _hold(self, inode: int, path: Path | str, flags: int) -> None:
        if inode not in self._held:
            self._held[inode] = os.open(path, os.O_PATH | os.O_CLOEXEC | flags)

    def _keep_folder(self, path: Path) -> None:
        self._hold(os.stat(path).st_ino, path, 0)
        self.folders[os.stat(path).st_ino] = self._listing(path)

    def _keep_file(self, path: Path) -> None:
        facts = os.stat(path)
        self._hold(facts.st_ino, path, 0)
        self.files[facts.st_ino] = path.read_bytes()
        self.modes[facts.st_ino] = facts.st_mode

    def _listing(self, path: Path) -> dict[str, int]:
        found = {}
        for entry in os.scandir(path):
            found[entry.name] = entry.inode()
            self._hold(entry.inode(), entry.path, os.O_NOFOLLOW)
            if entry.is_dir(follow_symlinks=False):
                self._is_folder.add(entry.inode())
        return found

    @functools.cached_property
    def _is_folder(self) -> set[int]:
        return set()


class _Remains:
    """Writes down one way in which a cut may have gone."""

    def __init__(self, power: PowerCut, kind: Kind, lots: random.Random) -> None:
        self._power = power
        self._kind = kind
        self._lots = lots
        self._drawn = dict.fromkeys(power.settled(), True)
        self._where = dict(power.places())

    def _moved(self, inode: int) -> bool:
        """Whether the newest place of a file or directory is the one that survived."""
        if self._kind is not Kind.SOME:
            return self._kind is Kind.NAMES
        return self._drawn.setdefault(inode, self._lots.random() < 0.5)

    def write(self, now: Path | None, target: Path, inode: int) -> None:
        """What is left of one directory; ``now`` is where it stands, None where it does not any more."""
        sure, fresh = self._power.names_of(inode, now)
        for name in sorted(sure.keys() | fresh.keys()):
            old, new = sure.get(name), fresh.get(name)
            if new is not None and (new == old or self._moved(new)):
                assert now is not None
                self._entry(now / name, target / name, new)
            elif old is not None and (new is not None or not self._moved(old)):
                # What was to take its place did not get there, so it is still here.
                self._entry(self._where.get(old), target / name, old)

    def _entry(self, now: Path | None, target: Path, inode: int) -> None:
        if target.name.startswith("index.db"):
            if now is not None and self._kind is not Kind.NOTHING:
                shutil.copyfile(now, target)
        elif self._power.is_folder(inode):
            target.mkdir(0o700)
            self.write(now, target, inode)
        else:
            target.write_bytes(self._bytes(now, inode))
            target.chmod(self._power.modes.get(inode, 0o600) if now is None else now.stat().st_mode)

    def _bytes(self, now: Path | None, inode: int) -> bytes:
        synced = self._power.files.get(inode, b"")
        if self._kind is not Kind.SOME or now is None:
            return synced
        fresh = now.read_bytes()
        if fresh == synced:
            return synced
        # What was synced of a file that only grew is there for sure.
        sure = len(synced) if fresh.startswith(synced) else 0
        half = fresh[: (sure + len(fresh)) // 2]
        return self._lots.choice([synced, fresh, half, half.ljust(len(fresh), b"\0")])


@contextmanager
def watching_power(top: Path, after: Callable[[int, PowerCut], None]) -> Iterator[PowerCut]:
    """Inside, ``after`` is called once each durable step is done, with its number and what a cut would leave then."""
    cut = PowerCut(top)
    count = 0
    busy = False

    def watch(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            nonlocal count, busy
            result = real(*arguments, **named)
            if not busy:
                busy = True
                if name in ("sync", "sync_data"):
                    cut.synced(arguments[0])
                count += 1
                after(count, cut)
                busy = False
            return result

        return step

    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            patch.setattr(disk, name, watch(name, getattr(disk, name)))
        try:
            yield cut
        finally:
            cut.close()
