"""How fast this node may send and fetch, changed at run time, and how fast it has been."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from p2psync.errors import UsageError
from p2psync.limits import FOLDER_BYTES_PER_S, KIB, MIB, OUTSIDE_BYTES_PER_S
from p2psync.node.tally import Tally
from p2psync.swarm import Ask, TokenBucket
from p2psync.transport import SourceKind

# What the LAN port gives is judged over windows in which several readers took something all the time.
_WINDOW_S: Final = 0.25
_WINDOWS: Final = 8
_WINDOWS_MIN: Final = 4
_READERS_MIN: Final = 2
_BUCKETS_MAX: Final = 1024
# A fetch of less says nothing about the link.
_JUDGED_BYTES_MIN: Final = 8 * MIB
# The kind of a source that is a folder.
FOLDER: Final = "folder"
_EXPECTED: Final = {"wan": OUTSIDE_BYTES_PER_S, FOLDER: FOLDER_BYTES_PER_S}
NAMES: Final = ("wan_down", "up", "wan_up", "lan_up", "peer_up")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes per second; None is unlimited. ``up`` holds for all readers together, ``peer_up`` for each alone."""

    wan_down: float | None = None
    up: float | None = None
    wan_up: float | None = None
    lan_up: float | None = None
    peer_up: float | None = None

    def __post_init__(self) -> None:
        for name in NAMES:
            rate = getattr(self, name)
            if rate is not None and rate <= 0:
                raise UsageError(f"the limit {name} must be more than 0 bytes/s, not {rate:g}")


def _bucket(rate: float | None) -> TokenBucket | None:
    # A burst of a tenth of a second keeps a slow limit smooth; below one piece it would only cost wake-ups.
    return None if rate is None else TokenBucket(rate, max(64 * KIB, min(MIB, int(rate / 10))), time.monotonic())


class Rates:
    """The limits of one node, what it measured and what it counted. For one event loop."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.tally = Tally()
        self.set(self.limits)
        self.flows: Callable[[], dict[int, tuple[str, int]]] = dict
        self.outside: Callable[[str], bool] = lambda _address: False
        self._seen: dict[int, tuple[str, int]] = {}
        self._seen_s = 0.0
        self._windows: deque[float] = deque(maxlen=_WINDOWS)
        self._measured: dict[str, float] = {}

    def expected(self, kind: str) -> float:
        """Bytes per second that a link of this kind (wan or folder) is expected to give to one more fetch."""
        rate = self._measured.get(kind, _EXPECTED[kind])
        return min(rate, self.limits.wan_down or rate) if kind == "wan" else rate

    def measured(self, kind: str, count: int, seconds: float) -> None:
        """A fetch that was busy all the time took ``count`` bytes over a link of this kind."""
        if kind in _EXPECTED and count >= _JUDGED_BYTES_MIN and seconds > 0:
            self._measured[kind] = count / seconds

    def set(self, limits: Limits) -> None:
        """Use other limits from now on."""
        self.limits = limits
        self._down, self._up = _bucket(limits.wan_down), _bucket(limits.up)
        self._wan_up, self._lan_up = _bucket(limits.wan_up), _bucket(limits.lan_up)
        self._peers: dict[str, TokenBucket] = {}

    async def before(self, kind: SourceKind, ask: Ask) -> None:
        """Wait until a request of a source may be made."""
        if self._down is None or kind is not SourceKind.WAN:
            return
        length = ask.part.length if ask.part is not None else sum(chunk.length for chunk in ask.chunks)
        await asyncio.sleep(self._down.take(length, time.monotonic()))

    @property
    def paced(self) -> bool:
        """Whether anything is limited on the way up."""
        return any(
            rate is not None for rate in (self.limits.up, self.limits.wan_up, self.limits.lan_up, self.limits.peer_up)
        )

    def pace(self, address: str, count: int) -> float:
        """Seconds to wait before ``count`` bytes go to a reader; below 0 where nothing is limited."""
        if not self.paced:
            return -1.0
        now_s = time.monotonic()
        buckets = (self._up, self._wan_up if self.outside(address) else self._lan_up)
        wait_s = max((bucket.take(count, now_s) for bucket in buckets if bucket is not None), default=0.0)
        if self.limits.peer_up is not None:
            if address not in self._peers and len(self._peers) >= _BUCKETS_MAX:
                self._peers.clear()
            own = self._peers.setdefault(address, _bucket(self.limits.peer_up) or TokenBucket(1, 1, now_s))
            wait_s = max(wait_s, own.take(count, now_s))
        return wait_s

    @property
    def lan_rate(self) -> float:
        """What this node's LAN port gives, in bytes/s; 0 while nobody has tried it."""
        return max(self._windows) if len(self._windows) >= _WINDOWS_MIN else 0.0

    def sample(self, now_s: float) -> None:
        """Look at what readers on the LAN have acknowledged; call it a few times a second while a pull runs.

        One reader says nothing: it may be the slow end. What several take together is what the port gives.
        """
        span_s = now_s - self._seen_s
        if span_s < _WINDOW_S:
            return
        flows = {number: flow for number, flow in self.flows().items() if not self.outside(flow[0])}
        lasting = {n: flow for n, flow in flows.items() if self._seen.get(n, ("", 0))[0] == flow[0]}
        if len({address for address, _ in lasting.values()}) >= _READERS_MIN:
            self._windows.append(sum(acked - self._seen[n][1] for n, (_, acked) in lasting.items()) / span_s)
        self._seen, self._seen_s = flows, now_s
