"""Two machines with one node key, as an image that was cloned makes them: how that is noticed, and remembered.

Theory: a node keeps one channel to each other node, so a second one means that the first was lost, and takes its
place. Where a place that was just left comes back while its successor is alive, neither was lost: two machines take
turns. Which of them is the right one nobody can know. The one that is connected stays, the other is told why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from p2psync.limits import CHANNELS_MAX, CLONE_KEEP_S, CLONE_WINDOW_S, PLACES_PER_NODE_MAX
from p2psync.swarm.acquaintances import PREFIX_CHARS, Ban

log = logging.getLogger(__name__)


class Clones:
    """What one node has noticed. Its tables are bounded; the clock is the caller's."""

    def __init__(self, me: str, clock: Callable[[], float]) -> None:
        self._me = me
        self._clock = clock
        # Where each node was when another place took over, and when that was.
        self._left: dict[str, dict[str, float]] = {}
        self._found: dict[str, Ban] = {}

    def met_self(self, where: str) -> None:
        """A machine elsewhere proved this node's key, or a neighbour says that it speaks with such a one."""
        self._note(self._me, f"this one and {where}")

    def elsewhere(self, node: str, old: str, new: str) -> bool:
        """Whether a node that has just come is another machine than the one that is here, by where both are.

        What seems alive at one place and comes from a second one may have moved. What then comes back has not.
        """
        now_s = self._clock()
        if old == new:
            return False
        left = self._left.pop(node, {})
        self._left[node] = left
        back = now_s - left.get(new, -CLONE_WINDOW_S) < CLONE_WINDOW_S
        if back or self._holds(node, now_s):
            self._note(node, f"{old} and {new}")
            return True
        left[old] = now_s
        _bound(left, PLACES_PER_NODE_MAX)
        _bound(self._left, CHANNELS_MAX)
        return False

    def all(self) -> list[Ban]:
        """The ids that two machines have now, as those of whom one is refused."""
        now_s = self._clock()
        return [found for found in self._found.values() if found.until_s > now_s]

    def _holds(self, node: str, now_s: float) -> bool:
        return node in self._found and self._found[node].until_s > now_s

    def _note(self, node: str, where: str) -> None:
        now_s = self._clock()
        reason = f"two machines have this node's key ({where}): a home was copied; remove its folder node on one"
        if not self._holds(node, now_s):
            log.warning("node %s: %s", node[:PREFIX_CHARS], reason)
        self._found.pop(node, None)
        self._found[node] = Ban(node, reason, now_s + CLONE_KEEP_S)
        _bound(self._found, CHANNELS_MAX)


def _bound(table: dict[str, Any], most: int) -> None:
    """Forget what stands first, which is the oldest."""
    while len(table) > most:
        del table[next(iter(table))]
