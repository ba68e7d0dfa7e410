"""Run tests as pytest does, alone in this process, and say what they took and left behind.

usage: hostile_one.py [PYTEST ARGUMENT]...

Prints a JSON object on the last line: the exit code, how many passed, the seconds of the tests themselves, the highest
resident memory of this process and of any one that it waited for, and threads and descriptors beyond those before.
"""

from __future__ import annotations

import gc
import json
import os
import re
import resource
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

_HIGHEST = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


class Watch:
    """A plugin of pytest: how the tests ended and how long they took, with what set them up."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.seconds = 0.0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called after setup, call and teardown of each test."""
        self.seconds += report.duration
        if report.when == "call" or report.outcome != "passed":
            self.ends[report.outcome] += 1


def _held() -> tuple[int, int]:
    """Threads and descriptors of this process."""
    gc.collect()
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


def _peak_bytes() -> int:
    """Of this process since it began, and of those that it waited for, whichever was the largest alone."""
    # The kernel counts what a process was before exec to its peak, so a child never shows less than its parent's.
    own = _HIGHEST.search(Path("/proc/self/status").read_text())
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(int(own[1]) if own else 0, children) * 1024


def main() -> None:
    """Run and report. The exit code is that of pytest."""
    watch, before = Watch(), _held()
    code = int(pytest.main(["-q", "-p", "no:cacheprovider", "-m", "slow or not slow", *sys.argv[1:]], plugins=[watch]))
    threads, fds = (now - was for now, was in zip(_held(), before, strict=True))
    told = {"exit_code": code, **watch.ends, "seconds": round(watch.seconds, 3), "peak_bytes": _peak_bytes()}
    print(json.dumps({**told, "threads_left": threads, "fds_left": fds}), flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
