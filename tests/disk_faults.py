"""Disks that fail: at the n-th durable step, or by forgetting what was never synced."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from p2psync import disk
from p2psync.store import linux

WRITES = ("write", "pwrite")
STEPS = (*WRITES, "sync", "sync_data", "rename", "replace", "link", "unlink", "mkdir", "rmdir")
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


@contextmanager
def failing(number: int, fault: str) -> Iterator[Failing]:
    """Inside, the ``number``-th durable step fails in the way of ``fault``. 0 fails none and counts them."""
    watch = Failing(number, fault)
    with pytest.MonkeyPatch.context() as patch:
        for name in (*STEPS, *_LARGE):
            patch.setattr(disk, name, watch.wrap(name, getattr(disk, name)))
        for name in ("reserve", "copy_range"):
            patch.setattr(linux, name, watch.wrap(name, getattr(linux, name)))
        yield watch


class PowerCut:
    """Watches what reaches the disk below ``top``, and shows what a power cut would leave of it.

    Bytes survive as they were when their file was last synced, names as they were when their directory was; a file that
    was never synced is empty, a directory that was never synced too. What stood there before is taken for durable.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self.files: dict[int, bytes] = {}
        self.folders: dict[int, dict[str, int]] = {}
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

    def leave(self, target: Path, *, kind: bool) -> None:
        """Write to ``target`` what a power cut now would leave.

        ``kind``: names reached the disk by themselves, as file systems that order nothing may do, and bytes did not;
        SQLite's files, which keep an order of their own, are as they are. Otherwise both are lost that were not synced,
        SQLite's files too.
        """
        target.mkdir()
        self._leave(self.top, target, os.lstat(self.top).st_ino, kind=kind)

    def _leave(self, now: Path | None, target: Path, inode: int, *, kind: bool) -> None:
        names = self._listing(now) if kind and now is not None else self.folders.get(inode, {})
        for name, below in names.items():
            if name.startswith("index.db"):
                if kind and now is not None:
                    shutil.copyfile(now / name, target / name)
            elif below in self._is_folder:
                (target / name).mkdir()
                self._leave(now / name if kind and now is not None else None, target / name, below, kind=kind)
            else:
                (target / name).write_bytes(self.files.get(below, b""))

    def _keep_folder(self, path: Path) -> None:
        self.folders[os.stat(path).st_ino] = self._listing(path)

    def _keep_file(self, path: Path) -> None:
        self.files[os.stat(path).st_ino] = path.read_bytes()

    def _listing(self, path: Path) -> dict[str, int]:
        found = {}
        for entry in os.scandir(path):
            found[entry.name] = entry.inode()
            if entry.is_dir(follow_symlinks=False):
                self._is_folder.add(entry.inode())
        return found

    @functools.cached_property
    def _is_folder(self) -> set[int]:
        return set()


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
        yield cut
