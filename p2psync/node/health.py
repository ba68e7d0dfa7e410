"""Whether a node can do its work: its store is open, and its disk takes writes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from p2psync import disk

# How often the disk is tried. Each try costs a flash disk one block and one journal entry.
CHECK_S: Final = 30.0
# A try that has not come back after so many intervals: the disk hangs, and nobody else would say so.
_INTERVALS_MAX: Final = 3
# One block of most file systems: what a disk that is full to the last byte has no room for.
_PROBE: Final = bytes(4096)
_PROBE_NAME: Final = ".health"


class Health:
    """The cached answer. ``check`` waits for the disk, in a thread; asking costs nothing."""

    def __init__(self, home: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Start healthy: whoever makes one has just opened the store for writing."""
        self._path = home / _PROBE_NAME
        self._clock = clock
        self._checked_s = clock()
        self._fault: str | None = None

    @property
    def reason(self) -> str | None:
        """Why the node cannot do its work, without a path or a name; None while it can."""
        silent_s = self._clock() - self._checked_s
        if silent_s > CHECK_S * _INTERVALS_MAX:
            return f"the disk has not answered for {silent_s:.0f} s"
        return self._fault

    def check(self) -> None:
        """Write a block to the home's disk, sync it and take it away again."""
        try:
            self._write()
            self._fault = None
        except OSError as error:
            self._fault = f"the disk takes no writes: {error.strerror or type(error).__name__}"
        self._checked_s = self._clock()

    def _write(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            if disk.write(descriptor, _PROBE) != len(_PROBE):
                raise OSError(None, "No space left for one block")
            disk.sync_data(descriptor)
        finally:
            os.close(descriptor)
            with suppress(OSError):
                disk.unlink(self._path)

    def told(self) -> tuple[int, bytes]:
        """Status and JSON of ``/healthz``."""
        reason = self.reason
        if reason is None:
            return 200, b'{"status": "ok"}\n'
        return 503, json.dumps({"status": "failing", "reason": reason}).encode() + b"\n"
