"""Where the log goes, and which events of a node stand in it.

What a record becomes is in ``records``, which is loaded with the first one: most commands log nothing. Who runs for
long loads it at once: when descriptors have run out there is something to log, and nothing to load it by.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from p2psync.cli.output import Output

if TYPE_CHECKING:
    from p2psync.cli.records import Limiter

_NODE_CHARS: Final = 16

_EVENTS: Final = logging.getLogger("p2psync.events")
# What an operator should look at; the rest is news. Figures that come several times a second are neither.
_WARNINGS: Final = frozenset({("peer", "banned"), ("source", "banned"), ("form", "refused"), ("follow_failed", "")})
_FIGURES: Final = frozenset({"progress", "hashing", "encoding"})


class LogHandler(logging.Handler):
    """Says records on standard error."""

    def __init__(self, out: Output, *, as_json: bool) -> None:
        super().__init__()
        self._out = out
        self._as_json = as_json
        self._limiter: Limiter | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """See ``logging.Handler``."""
        try:
            from p2psync.cli.records import Limiter, kind_of

            self._limiter = self._limiter or Limiter()
            for each, held in self._limiter.take(kind_of(record), record):
                self._say(each, held)
        except Exception:  # noqa: BLE001 - a line that cannot be said must not end the work that it is about
            self.handleError(record)

    def close(self) -> None:
        """Say what was held back."""
        for record, held in self._limiter.drain() if self._limiter is not None else ():
            self._say(record, held)
        super().close()

    def _say(self, record: logging.LogRecord, held: int) -> None:
        from p2psync.cli.records import as_object, as_text

        if self._as_json:
            self._out.say(json.dumps(as_object(record, held, verbose=self._out.verbose)))
            return
        for line in as_text(record, held, verbose=self._out.verbose):
            self._out.say(line)


def log_to_stderr(out: Output, *, as_json: bool = False, lasting: bool = False) -> None:
    """Send the log of this program to standard error.

    Warnings; for programs also what is news; with ``--verbose`` everything of ours. ``lasting`` is one that stays.
    """
    if lasting:
        import_module("p2psync.cli.records")
    handler = LogHandler(out, as_json=as_json)
    logging.basicConfig(level=logging.ERROR if out.quiet else logging.WARNING, handlers=[handler], force=True)
    ours = logging.DEBUG if out.verbose else logging.INFO if as_json and not out.quiet else logging.NOTSET
    logging.getLogger("p2psync").setLevel(ours)


def end_log() -> None:
    """Say what the log held back."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogHandler):
            handler.close()


def log_event(event: Mapping[str, Any]) -> None:
    """Log an event of a node, at the level that its kind deserves."""
    name, state = str(event.get("event", "")), str(event.get("state", ""))
    if name in _FIGURES:
        return
    peer = event.get("node") or event.get("url") or event.get("follow") or ""
    words = (name, state, str(peer)[:_NODE_CHARS] if event.get("node") else peer, event.get("reason") or "")
    extra = {
        "event": f"{name} {state}".rstrip(),
        "peer": peer,
        "fields": {key: value for key, value in event.items() if key not in ("event", "state")},
    }
    level = logging.WARNING if (name, state) in _WARNINGS else logging.INFO
    _EVENTS.log(level, "%s", " ".join(str(word) for word in words if word), extra=extra)
