"""How many files and connections this process may have open at once, and what each of their users may take of it.

A process that has none left can accept no connection, read no chunk and write no journal, and the stranger who opened
the last one decides when it can again. So what keeps descriptors takes a share, and a small limit makes small shares.
"""

from __future__ import annotations

import resource
from contextlib import suppress

from p2psync.limits import DESCRIPTORS_BUSY, DESCRIPTORS_OWN, SHARE_MIN


def raise_limit() -> None:
    """Let this process open as many as a busy node has, as far as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= DESCRIPTORS_BUSY:
        return
    wanted = DESCRIPTORS_BUSY if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_BUSY)
    # Some systems have a lower limit of their own, and say so only now.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def share(most: int) -> int:
    """What a user may take who takes ``most`` in a process that may open as many as a busy node has."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= DESCRIPTORS_BUSY:
        return most
    left = most * (soft - DESCRIPTORS_OWN) // (DESCRIPTORS_BUSY - DESCRIPTORS_OWN)
    return min(most, max(SHARE_MIN, left))
