"""Progress of a clip on standard error: a bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final, Self

from p2psync.cli.output import Output

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_NAMES: Final = {"step": "denoising", "frames": "decoding"}
_LINE_PAUSE_S: Final = 2.0


class Steps:
    """Takes (what, done, of). A context manager; silent with --quiet, --json and --no-progress."""

    def __init__(self, out: Output, *, wanted: bool) -> None:
        self._out = out
        self._wanted = wanted and not (out.quiet or out.as_json)
        self._terminal = self._wanted and sys.stderr is not None and sys.stderr.isatty()
        self._progress: Progress | None = None
        self._bars: dict[str, TaskID] = {}
        self._told_s = time.monotonic()

    def __enter__(self) -> Self:
        if self._terminal:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def take(self, what: str, done: int, of: int) -> None:
        """A step, or some frames, are done."""
        name = _NAMES.get(what, what)
        if self._progress is not None:
            if what not in self._bars:
                self._bars[what] = self._progress.add_task(name, total=of)
            self._progress.update(self._bars[what], completed=done)
            return
        now_s = time.monotonic()
        if self._wanted and (done == of or now_s - self._told_s >= _LINE_PAUSE_S):
            self._told_s = now_s
            self._out.note(f"{name} {done} of {of}")
