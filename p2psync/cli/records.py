"""Records of a log: lines for people or objects for programs, a few of each kind, and no secrets.

Whoever provokes a line from outside could provoke a million, so one line per kind of event and peer is said within a
window, and the next one tells how many were not.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from p2psync.cli.redacting import redacted, redacted_value

Kind = tuple[str, ...]

WINDOW_S: Final = 10.0
# Kinds that are remembered at once. One more, and the oldest window ends early.
KINDS_MAX: Final = 1024


@dataclass(slots=True)
class _Window:
    began_s: float
    held: int = 0
    latest: logging.LogRecord | None = None


class Limiter:
    """Lets one record of each kind through in a window, and counts the others."""

    def __init__(
        self,
        window_s: float = WINDOW_S,
        kinds_max: int = KINDS_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window_s = window_s
        self._kinds_max = kinds_max
        self._clock = clock
        self._windows: OrderedDict[Kind, _Window] = OrderedDict()

    def take(self, kind: Kind, record: logging.LogRecord) -> Iterator[tuple[logging.LogRecord, int]]:
        """Take one record in; yields those to be said now, each with how many like it were not.

        Where a kind was held back and nothing of it follows, its last record is said once its window is over and
        anything else is logged.
        """
        now_s = self._clock()
        window = self._windows.get(kind)
        if window is not None and now_s - window.began_s < self._window_s:
            window.held += 1
            window.latest = record
            yield from self._over(now_s, self._kinds_max)
            return
        held = self._windows.pop(kind).held if window is not None else 0
        yield from self._over(now_s, self._kinds_max - 1)
        self._windows[kind] = _Window(now_s)
        yield record, held

    def drain(self) -> Iterator[tuple[logging.LogRecord, int]]:
        """The last record of each kind that was held back: there is no later."""
        while self._windows:
            yield from self._end()

    def _over(self, now_s: float, room: int) -> Iterator[tuple[logging.LogRecord, int]]:
        while self._windows:
            oldest = next(iter(self._windows.values()))
            if now_s - oldest.began_s < self._window_s and len(self._windows) <= room:
                return
            yield from self._end()

    def _end(self) -> Iterator[tuple[logging.LogRecord, int]]:
        _, window = self._windows.popitem(last=False)
        if window.latest is not None:
            yield window.latest, window.held - 1


def kind_of(record: logging.LogRecord) -> Kind:
    """What makes records alike: their logger, their event (or the text without its values), their peer."""
    template = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
    return record.name, _event_of(record) or template, str(getattr(record, "peer", ""))


def as_object(record: logging.LogRecord, held: int, *, verbose: bool) -> dict[str, Any]:
    """A record as a program reads it. ``fields`` and ``peer`` are what the record was given as ``extra``."""
    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    told: dict[str, Any] = {
        "time": moment.removesuffix("+00:00") + "Z",
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": _event_of(record) or f"{record.module}.{record.funcName}",
        "message": redacted(record.getMessage()),
        "fields": redacted_value(getattr(record, "fields", {})),
    }
    peer = getattr(record, "peer", None)
    if peer:
        told["peer"] = redacted(str(peer))
    if held:
        told["suppressed"] = held
    if record.exc_info and record.exc_info[0]:
        told["error"] = redacted(_fault(record))
        if verbose:
            told["traceback"] = redacted("".join(traceback.format_exception(*record.exc_info)))
    return told


def as_text(record: logging.LogRecord, held: int, *, verbose: bool) -> Iterator[str]:
    """A record as lines for people."""
    more = f" ({held} more like this)" if held else ""
    fault = f": {_fault(record)}" if record.exc_info and record.exc_info[0] else ""
    first = f"{record.levelname.lower()}: {record.name}: {record.getMessage()}{fault}{more}"
    yield redacted(" ".join(first.splitlines()))
    if verbose and record.exc_info and record.exc_info[0]:
        yield redacted("".join(traceback.format_exception(*record.exc_info)).rstrip())


def _fault(record: logging.LogRecord) -> str:
    kind, error, _ = record.exc_info or (None, None, None)
    return f"{kind.__name__}: {error}" if kind else ""


def _event_of(record: logging.LogRecord) -> str:
    return str(getattr(record, "event", ""))
