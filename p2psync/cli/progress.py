"""Progress on standard error: a bar on a terminal, a plain line now and then anywhere else.

Events come in, and a ``Tally`` keeps what they add up to; the two displays only show it. rich is imported by the
bar alone, so a run without a terminal never pays for it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from p2psync.cli.output import Output
from p2psync.cli.text import duration, plural, printable, size

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

Event = Mapping[str, Any]

LINE_INTERVAL_S: Final = 10.0
LINE_SHARE: Final = 0.05
# A fast pull crosses 5 % many times a second.
LINE_PAUSE_S: Final = 1.0
# How far back the rate looks.
RATE_WINDOW_S: Final = 10.0
_REFRESHES_PER_S: Final = 4
_BAR_CHARS: Final = 24


class Rate:
    """Bytes per second over the last few seconds. Time is an argument."""

    def __init__(self) -> None:
        self._points: list[tuple[float, int]] = []

    def add(self, done: int, now_s: float) -> None:
        """``done`` bytes were here at ``now_s``. Fewer than before starts anew."""
        if self._points and done < self._points[-1][1]:
            self._points.clear()
        self._points.append((now_s, done))
        while len(self._points) > 2 and now_s - self._points[0][0] > RATE_WINDOW_S:
            del self._points[0]

    @property
    def bytes_per_s(self) -> float:
        """0 before there are two points."""
        if len(self._points) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._points[0], self._points[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0


@dataclass(slots=True)
class Tally:
    """What the events of one verb add up to. ``news`` is a sentence that an event is worth, else empty."""

    what: str
    done: int = 0
    total: int = 0
    reused: int = 0
    patched: int = 0
    lan: int = 0
    wan: int = 0
    moving: bool = False
    rate: Rate = field(default_factory=Rate)

    def take(self, event: Event, now_s: float) -> str:
        """Count one event; returns the news in it. Kinds that are not known are passed over."""
        kind = event.get("event")
        if kind == "plan":
            self._plan(event)
            self.rate = Rate()
            self.rate.add(self.done, now_s)
            return self._plan_news(event)
        if kind in ("progress", "hashing"):
            self.moving = kind == "progress"
            self._count(event)
            self.rate.add(self.done, now_s)
        return _news(event)

    @property
    def share(self) -> float:
        """How much of it is done, 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds that are left at the present rate."""
        rate = self.rate.bytes_per_s
        return (self.total - self.done) / rate if rate > 0 and self.total else None

    def sources(self) -> str:
        """Bytes by where they came from; empty for what only reads this disk."""
        if not self.moving:
            return ""
        named = (("reused", self.reused), ("patched", self.patched), ("lan", self.lan), ("wan", self.wan))
        return ", ".join(f"{name} {size(count)}" for name, count in named)

    def speed(self) -> str:
        """Rate and time that is left."""
        rate = self.rate.bytes_per_s
        left = self.eta_s
        return f"{size(round(rate))}/s" + (f", {duration(left)} left" if left is not None and self.share < 1 else "")

    def _plan(self, event: Event) -> None:
        self.total, self.reused = int(event["total"]), int(event["reused"])
        self.done, self.lan, self.wan, self.patched, self.moving = self.reused, 0, 0, 0, True

    def _count(self, event: Event) -> None:
        for name in ("total", "reused", "patched", "lan", "wan"):
            if name in event:
                setattr(self, name, int(event[name]))
        self.done = self.reused + self.patched + self.lan + self.wan if self.moving else int(event["done"])

    def _plan_news(self, event: Event) -> str:
        resumed = int(event.get("resumed", 0))
        again = f", {size(resumed)} of it from an interrupted pull" if resumed else ""
        files = plural(int(event["files"]), "file")
        return f"{size(self.reused)} of {size(self.total)} in {files} are here{again}"


def _news(event: Event) -> str:
    kind = event.get("event")
    if kind == "resolved" and not event.get("unchanged"):
        return f"version {event['version']} of {event['reference']} is {event['digest']}"
    if kind == "source":
        return f"source {event['url']} {event['state']}: {event.get('reason') or 'no reason given'}"
    if kind == "waiting":
        return f"waiting, and trying again in {duration(float(event['retry_s']))}: {event['reason']}"
    return ""


class Progress(Protocol):
    """Shows the events of one verb."""

    def take(self, event: Event) -> None:
        """Take one event."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Silence:
    """Shows nothing."""

    def take(self, event: Event) -> None:
        """Take one event."""

    def close(self) -> None:
        """Nothing was opened."""


class Lines:
    """A plain line every 10 s or 5 %, and one for each piece of news."""

    def __init__(self, what: str, out: Output) -> None:
        self._tally = Tally(what)
        self._out = out
        self._told_s = time.monotonic()
        self._told_share = 0.0

    def take(self, event: Event) -> None:
        """Count an event, and say what is due."""
        now_s = time.monotonic()
        if news := self._tally.take(event, now_s):
            self._out.note(news)
        if event.get("event") not in ("progress", "hashing"):
            return
        since_s, gained = now_s - self._told_s, self._tally.share - self._told_share
        if since_s >= LINE_INTERVAL_S or (since_s >= LINE_PAUSE_S and (gained >= LINE_SHARE or gained < 0)):
            self._told_s, self._told_share = now_s, self._tally.share
            self._out.note(line_of(self._tally))

    def close(self) -> None:
        """Nothing is open."""


def line_of(tally: Tally) -> str:
    """A tally on one line."""
    parts = [f"{tally.what}: {tally.share:4.0%}", f"{size(tally.done)} of {size(tally.total)}", tally.speed()]
    if sources := tally.sources():
        parts.append(f"({sources})")
    return "  ".join(parts)


class Bar:
    """A bar that moves, with rate, time left and bytes by source below it."""

    def __init__(self, what: str) -> None:
        from rich.console import Console

        self._tally = Tally(what)
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._live: Live | None = None

    def take(self, event: Event) -> None:
        """Count an event and show it."""
        if news := self._tally.take(event, time.monotonic()):
            self._console.print(printable(news), soft_wrap=True)
        if event.get("event") in ("plan", "progress", "hashing"):
            self._open().update(self._render())

    def close(self) -> None:
        """Take the bar away; what was said above it stays."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _open(self) -> Live:
        if self._live is None:
            from rich.live import Live

            self._live = Live(
                self._render(),
                console=self._console,
                transient=True,
                refresh_per_second=_REFRESHES_PER_S,
                redirect_stdout=False,
            )
            self._live.start()
        return self._live

    def _render(self) -> RenderableType:
        from rich.columns import Columns
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        tally = self._tally
        bar = ProgressBar(total=max(1, tally.total), completed=tally.done, width=_BAR_CHARS)
        facts = f"{tally.share:4.0%}  {size(tally.done)} of {size(tally.total)}  {tally.speed()}"
        lines: list[RenderableType] = [Text(printable(tally.what)), Columns([bar, Text(facts, no_wrap=True)])]
        if sources := tally.sources():
            lines.append(Text(sources, style="dim"))
        return Group(*lines)


def choose(what: str, out: Output, *, wanted: bool, environ: Mapping[str, str]) -> Progress:
    """The display that fits this run: none, a bar on a terminal, else lines."""
    if not wanted or out.quiet:
        return Silence()
    plain = environ.get("TERM") == "dumb" or environ.get("CI", "").lower() not in ("", "0", "false")
    if plain or sys.stderr is None or not sys.stderr.isatty():
        return Lines(what, out)
    return Bar(what)
