"""Disks that fail: at the n-th durable step, or by forgetting what was never synced."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
