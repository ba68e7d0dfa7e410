"""Run a verb that waits: an event loop, progress, a log, and signals that end it in good order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from p2psync.cli import progress
from p2psync.cli.logs import end_log, log_to_stderr
from p2psync.cli.output import Output
from p2psync.cli.stopping import EXIT_INTERRUPTED, Interrupted, Terminated

T = TypeVar("T")
Options = Mapping[str, Any]
Emit = Callable[[dict[str, Any]], None]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR: Final = b"\x1b[?25h\r\n"


def operate(verb: str, args: dict[str, Any], options: Options, out: Output, *, on_event: Emit | None = None) -> Any:
    """Run one verb of ``p2psync.node.operations`` and return its result.

    Args:
        verb: Its name there.
        args: Its arguments, JSON values.
        options: Those of this command line.
        on_event: Sees each event before the progress display does.

    Raises:
        Interrupted: a signal ended it. What was proved is kept.
        P2PSyncError: what the verb raises.
    """
    log_to_stderr(out, as_json=options["log_json"])
    wanted = not options["no_progress"]
    display = progress.choose(f"{verb} {args.get('reference') or ''}".rstrip(), out, wanted=wanted, environ=os.environ)

    def emit(event: dict[str, Any]) -> None:
        if event.get("event") == "result":
            display.close()
        if on_event is not None:
            on_event(event)
        display.take(event)

    try:
        return asyncio.run(interruptible(_run(Path(options["home"]), verb, args, emit)))
    finally:
        display.close()
        end_log()  # What the log held back is said now.


async def _run(home: Path, verb: str, args: dict[str, Any], emit: Emit) -> dict[str, Any]:
    from p2psync.node.handing import hand_over

    handed = await hand_over(home, verb, args, emit)
    if handed is not None:
        return handed
    # Takes as long to load as many a verb takes to run.
    from p2psync.node import operations

    return await operations.run(home, verb, args, emit)


async def interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``; the first signal cancels it, a second one ends the process at once.

    Raises:
        Interrupted: a signal came.
    """
    task = asyncio.ensure_future(work)
    caught: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        caught.append(number)
        task.cancel()

    watch_signals(stop)
    try:
        return await task
    except asyncio.CancelledError:
        if caught:
            raise (Terminated if caught[0] == signal.SIGTERM else Interrupted) from None
        raise


def watch_signals(stop: Callable[[signal.Signals], None]) -> None:
    """Call ``stop`` on the first interrupt or SIGTERM; on the next one the process is gone.

    Work in threads cannot be cancelled, and the store survives a kill at any moment: so the second signal
    does not wait for anybody.
    """
    loop = asyncio.get_running_loop()

    def first(number: signal.Signals) -> None:
        for each in _SIGNALS:
            loop.add_signal_handler(each, _vanish)
        stop(number)

    for each in _SIGNALS:
        loop.add_signal_handler(each, first, each)


def _vanish() -> None:
    """End the process at once, with the cursor that a bar may have hidden."""
    if sys.stderr is not None and sys.stderr.isatty():
        os.write(sys.stderr.fileno(), _SHOW_CURSOR)  # noqa: TID251 - a terminal, no disk
    os._exit(EXIT_INTERRUPTED)
