"""One node that only keeps site channels, as a process: writes an event a line, ends on SIGTERM with a goodbye."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

from p2psync import limits
from p2psync.transport import ChannelTimes
from tests.neighbourhood import start_node


def write(event: dict[str, Any]) -> None:
    """One event, one line."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


async def run(settings: dict[str, Any]) -> None:
    """Start, say where, and write what happens until the signal comes."""
    times = ChannelTimes(**settings.pop("times", {}))
    limits.INTERFACE_CHECK_S = settings.pop("check_s", limits.INTERFACE_CHECK_S)  # type: ignore[misc]
    node = await start_node(settings.pop("number"), *settings.pop("peers", ()), times=times, **settings)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    write({"event": "listening", "url": node.url, "node": node.id})
    written = 0
    while not stop.is_set():
        for event in node.events[written:]:
            write(event)
        written = len(node.events)
        await asyncio.sleep(0.01)
    await node.stop()


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
