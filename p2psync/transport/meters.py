"""What a server counts of its own work, in words that no asker chooses: a table of them cannot grow."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

RESOURCES: Final = ("node", "heads", "nodes", "chunks", "have", "site")
# Resources outside ``/v1``: what is told of the node itself.
PAGES: Final = ("healthz", "metrics")
OTHER: Final = "other"


@dataclass(slots=True)
class Meters:
    """Counters since the server began. Written in its event loop, read at any time.

    ``requests`` counts by resource and class of status (``2xx``), a channel when it ends; ``chunks`` those that were
    sent to the end; ``broken`` answers that ended before their last byte, by ``slow`` (the reader was cut off) and
    ``gone`` (it left, or the file or its disk failed); ``refused`` connections by the cap that they met.
    """

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    chunks: int = 0
    broken: Counter[str] = field(default_factory=lambda: Counter(slow=0, gone=0))
    refused: Counter[str] = field(default_factory=lambda: Counter(total=0, address=0))

    def answered(self, path: str, status: int) -> None:
        """Count one answer."""
        self.requests[resource_of(path), f"{status // 100}xx"] += 1

    def broke(self, error: OSError) -> None:
        """Count an answer that did not end."""
        self.broken["slow" if isinstance(error, TimeoutError) else "gone"] += 1


def resource_of(path: str) -> str:
    """Which resource a path names, ``other`` where that is none of ours."""
    parts = path.split("/", 3)
    if len(parts) == 2 and parts[1] in PAGES:
        return parts[1]
    return parts[2] if len(parts) > 2 and parts[1] == "v1" and parts[2] in RESOURCES else OTHER
