"""From a command line to an exit code: find the verb, run it, and say in one form what went wrong."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NoReturn

from p2psync.cli.output import Output, told
from p2psync.cli.parser import Invocation, parse, wants_json
from p2psync.cli.stopping import EXIT_INTERRUPTED, Interrupted, Terminated, watch_termination
from p2psync.cli.verbs import Verb
from p2psync.errors import P2PSyncError

EXIT_OTHER: Final = 1

_RESUMABLE: Final = ("pull", "verify")


def entry() -> NoReturn:
    """The program ``p2psync``."""
    watch_termination()
    _leave(main(sys.argv[1:], os.environ))


def _leave(code: int) -> NoReturn:
    """End the process without taking a few hundred modules apart first, which takes 20 ms.

    Nothing of ours waits for an exit handler: the store is closed, and the event loop has joined its threads.
    """
    for stream in (sys.stdout, sys.stderr):
        # Without a terminal or a reader there is nobody to tell any more.
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command line and return its exit code. Nothing but the exit of the process escapes."""
    out = Output(as_json=wants_json(argv, environ), verbose="-v" in argv or "--verbose" in argv)
    verb: Verb | None = None
    try:
        try:
            invocation = parse(argv, environ)
            verb = invocation.verb
            out = _output(invocation, out)
            return _run(invocation, out)
        except P2PSyncError as error:
            if not argv:
                _show_help(out)
            _trace(out)
            out.error(told(error))
            return error.exit_code
        except (KeyboardInterrupt, Interrupted) as stop:
            return _stopped(stop, verb, out)
        except BrokenPipeError:
            raise
        except Exception as error:  # noqa: BLE001 - what no room foresaw still ends in a message and an exit code
            _trace(out)
            out.error(_fault(error))
            return EXIT_OTHER
    except BrokenPipeError:
        # Whoever read our output has enough. What is still buffered must not fail at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OTHER


def _output(invocation: Invocation, otherwise: Output) -> Output:
    options = invocation.options
    if invocation.verb is None:
        return otherwise
    return Output(as_json=options["json"], quiet=options["quiet"], verbose=options["verbose"])


def _run(invocation: Invocation, out: Output) -> int:
    verb = invocation.verb
    if verb is None:
        out.line(invocation.text)
        return 0
    from p2psync.open_files import raise_limit

    raise_limit()
    module, _, function = verb.run.partition(":")
    code: int = getattr(importlib.import_module(f"p2psync.cli.{module}"), function)(invocation.options, out)
    return code


def _show_help(out: Output) -> None:
    """For whoever typed the name of the program alone."""
    from p2psync.cli.help import program_help

    for line in program_help().splitlines():
        out.say(line)
    out.say("")


def _stopped(stop: BaseException, verb: Verb | None, out: Output) -> int:
    name = verb.name if verb is not None else ""
    if name == "serve" and isinstance(stop, Terminated):
        return 0
    kept = name in _RESUMABLE
    message = "interrupted; what arrived is kept" if kept else "interrupted"
    hint = "run the same command again: it goes on where it was" if kept else None
    out.error({"code": "interrupted", "message": message, "hint": hint})
    return EXIT_INTERRUPTED


def _fault(error: Exception) -> dict[str, Any]:
    """What no room foresaw. An error of the operating system speaks for itself; the rest is a fault of ours."""
    if isinstance(error, OSError):
        return {"code": "os", "message": str(error), "hint": None}
    message = f"fault in p2psync: {type(error).__name__}: {error}"
    return {"code": "fault", "message": message, "hint": "run it again with -v for the traceback"}


def _trace(out: Output) -> None:
    if out.verbose:
        import traceback

        for line in traceback.format_exc().splitlines():
            out.say(line)
