"""How a signal ends a run."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Final

EXIT_INTERRUPTED: Final = 130


class Interrupted(BaseException):
    """An interrupt ended the work in good order. Like ``KeyboardInterrupt`` it is no ``Exception``."""


class Terminated(Interrupted):
    """SIGTERM did."""


def watch_termination() -> None:
    """Let SIGTERM end the main thread as an interrupt does, until an event loop takes it over."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
