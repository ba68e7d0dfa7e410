"""The only place that prints: data on standard output, everything else on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from p2psync.cli.text import printable
from p2psync.errors import P2PSyncError

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Output:
    """How this run speaks. ``quiet`` leaves ids and paths, ``as_json`` one object per answer."""

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False

    def result(self, result: Json, *, text: Iterable[str] = (), ids: Iterable[str] = ()) -> None:
        """Print an answer: the object itself, or the lines ``text`` for people, or with ``--quiet`` only ``ids``."""
        if self.as_json:
            self.line(json.dumps(result))
        else:
            for line in ids if self.quiet else text:
                self.line(line)

    def line(self, line: str) -> None:
        """One line of data, on its way before this returns.

        Raises:
            BrokenPipeError: nobody reads any more.
        """
        if sys.stdout is not None:
            sys.stdout.buffer.write(_bytes(line) + b"\n")
            sys.stdout.buffer.flush()

    def note(self, line: str) -> None:
        """A line of news, for people. ``--quiet`` leaves it out."""
        if not self.quiet:
            self.say(line)

    def say(self, line: str) -> None:
        """A line on standard error in every mode. Work goes on when nobody reads it."""
        if sys.stderr is not None:
            with suppress(OSError):
                print(printable(line), file=sys.stderr, flush=True)

    def error(self, told: Json) -> None:
        """Say what went wrong, given the object that ``told`` makes; with ``--json`` also on standard output."""
        self.explain(told)
        if self.as_json:
            self.line(json.dumps({"error": told}))

    def explain(self, told: Json) -> None:
        """Say what went wrong on standard error only: the message, an empty line, the hint."""
        self.say(f"error: {told['message']}")
        if told["hint"]:
            self.say("")
            self.say(f"hint: {told['hint']}")


def told(error: P2PSyncError) -> dict[str, Any]:
    """An error as programs get it."""
    return {"code": error.code, "message": error.message, "hint": error.hint}


def _bytes(line: str) -> bytes:
    """A path may hold bytes that are no text in this locale: the shell gets the very bytes."""
    try:
        return os.fsencode(line)
    except UnicodeEncodeError:
        return line.encode("utf-8", "surrogateescape")
