"""What a node has done since it began, as plain numbers under words that nobody outside chooses."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from p2psync.errors import P2PSyncError
from p2psync.swarm import Fault

ANSWERED: Final = "answered"
_OUTCOMES: Final = (ANSWERED, *(fault.name.lower() for fault in Fault))


@dataclass(slots=True)
class Tally:
    """Counters of everything that one process fetches. Written in its event loop, read at any time.

    ``pulls`` counts pulls that ended: ``done``, ``cancelled``, ``fault`` (a bug), or the code of their error.
    ``requests`` counts what sources were asked for, by how it ended: ``answered``, or a ``Fault`` in lower case.
    """

    pulls: Counter[str] = field(default_factory=lambda: Counter(done=0, cancelled=0))
    requests: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(_OUTCOMES, 0)))
    chunks_proved: int = 0
    forms_refused: int = 0

    def asked(self, fault: Fault | None) -> None:
        """Count one request of a source that ended."""
        self.requests[ANSWERED if fault is None else fault.name.lower()] += 1

    @contextmanager
    def pull(self) -> Iterator[None]:
        """Count how the pull within ends."""
        outcome = "fault"
        try:
            yield
            outcome = "done"
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except P2PSyncError as error:
            outcome = error.code
            raise
        finally:
            self.pulls[outcome] += 1
