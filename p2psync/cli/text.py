"""Numbers, times, names and tables as people read them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final

_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_DIGEST_CHARS: Final = 11  # "b3:" and eight digits tell versions apart.


def size(count: int) -> str:
    """A number of bytes in decimal units with three digits: ``17 B``, ``1.05 MB``, ``16.1 GB``."""
    if count < 1000:
        return f"{count} B"
    value, unit = float(count), 0
    # 999.5 would print as 1000.
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1000
        unit += 1
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """A time span: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``5 h 10 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def moment(unix_s: int) -> str:
    """A point in time, to the minute: ``2026-11-24 09:30 UTC``. The number itself where no calendar has it."""
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix_s))
    except (OverflowError, ValueError, OSError):
        return str(unix_s)


def day(unix_s: int) -> str:
    """The day of a point in time."""
    return moment(unix_s).partition(" ")[0]


def short_digest(digest: str) -> str:
    """The beginning of a printed digest, enough to tell versions apart in a table."""
    return digest[:_DIGEST_CHARS]


def short_reference(reference: str) -> str:
    """A reference whose digest is shortened, for tables."""
    name, at, digest = reference.partition("@")
    return f"{name}{at}{short_digest(digest)}"


def plural(count: int, noun: str) -> str:
    """``1 file``, ``3 files``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def printable(text: str) -> str:
    """``text`` without what could move a terminal's cursor: file names and remote messages are others' words."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows under a head, columns two spaces apart. Columns whose title begins with ``>`` are set to the right.

    A column that is empty in every row is left out.
    """
    titles = [title.removeprefix(">") for title in head]
    cells = [[printable(cell) for cell in row] for row in rows]
    kept = [i for i in range(len(head)) if any(row[i] for row in cells)]
    widths = {i: max(len(titles[i]), *(len(row[i]) for row in cells)) for i in kept}
    lines = []
    for row in [titles, *cells]:
        line = (row[i].rjust(widths[i]) if head[i].startswith(">") else row[i].ljust(widths[i]) for i in kept)
        lines.append("  ".join(line).rstrip())
    return lines


def pairs(rows: Iterable[tuple[str, str]]) -> list[str]:
    """One line per pair, the first ones in a column."""
    listed = [(name, printable(value)) for name, value in rows if value]
    left = max((len(name) for name, _ in listed), default=0) + 2
    return [f"{name:<{left}}{value}".rstrip() for name, value in listed]
