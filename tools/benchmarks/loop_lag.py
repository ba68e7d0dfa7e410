"""Run p2psync with a tick on every event loop, and write down how late the latest tick was.

usage: loop_lag.py FILE P2PSYNC-ARGUMENT...

A tick is due every 5 ms. One that comes late means that something held the loop, or that the machine gave the
process no core, for as long. What a command imports while its loop already runs is imported before, since that is
start-up and no stall of a transfer. FILE gets the longest lateness in seconds, when the process ends.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import os
import sys
from pathlib import Path

_TICK_S = 0.005
_LATE = (
    "aiohttp",
    "aiohttp.web",
    "p2psync.node.node",
    "p2psync.node.operations",
    "p2psync.store.begin",
    "p2psync.store.verify",
    "p2psync.transport.dial",
)


class _Watched(asyncio.DefaultEventLoopPolicy):
    """A policy whose loops tick."""

    longest_s = 0.0

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        loop = super().new_event_loop()
        loop.call_soon(lambda: self._tick(loop, loop.time()))
        return loop

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = loop.time()
        self.longest_s = max(self.longest_s, now - due)
        loop.call_at(now + _TICK_S, self._tick, loop, now + _TICK_S)


def main(arguments: list[str]) -> None:
    """Watch, and be p2psync."""
    file, *rest = arguments
    policy = _Watched()
    asyncio.set_event_loop_policy(policy)
    atexit.register(lambda: Path(file).write_text(f"{policy.longest_s:.6f}\n"))
    for name in _LATE:
        importlib.import_module(name)
    from p2psync.cli import main as program
    from p2psync.cli.stopping import watch_termination

    watch_termination()
    sys.exit(program.main(rest, os.environ))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore::DeprecationWarning")
    main(sys.argv[1:])
