"""What a node tells those who watch it: ``/healthz`` and ``/metrics``.

Every number is read where it is counted when somebody asks; nothing here is written while bytes move.
"""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import Coroutine, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from p2psync.errors import P2PSyncError
from p2psync.node.health import CHECK_S, Health
from p2psync.node.metrics import CONTENT_TYPE, Kind, Series, expose, single
from p2psync.node.vitals import LoopLag, process
from p2psync.transport import Page, Server, Told
from p2psync.transport.heads import PROTOCOL
from p2psync.transport.server import SOFTWARE

if TYPE_CHECKING:
    from p2psync.node.operations import Owner
    from p2psync.store import Usage

# Counting what a home takes walks its files: however often somebody scrapes, that happens once in this time.
USAGE_S: Final = 15.0
# And no text is made again within this one.
FRESH_S: Final = 1.0

_LINKS: Final = ("lan", "wan")
_BUILD: Final = (SOFTWARE.rpartition("/")[2], PROTOCOL, platform.python_version())

log: Final = logging.getLogger(__name__)


class Exposure(StrEnum):
    """Who may read ``/metrics``."""

    LOOPBACK = "loopback"
    OPEN = "open"
    OFF = "off"


class Watching:
    """The pages of one node. For one event loop."""

    def __init__(self, home: Path, owner: Owner, server: Server, sent: Mapping[str, int]) -> None:
        """Prepare.

        Args:
            home: Whose disk is tried.
            owner: What is here, and what was fetched.
            server: What was sent, and by whose hand the pages are told.
            sent: Bytes sent by link, as they are counted.
        """
        self._owner, self._server, self._sent = owner, server, sent
        self.health = Health(home)
        self.lag = LoopLag()
        self._metrics = Exposure.OFF
        self._one_at_a_time = asyncio.Lock()
        self._text, self._text_s = b"", -FRESH_S
        self._usage: Usage | None = None
        self._usage_s = 0.0

    def open(self, metrics: Exposure) -> None:
        """Answer from now on. Health is told to everybody: a balancer has to ask, and it says nothing else."""
        self._metrics = metrics
        self._server.open_page("/healthz", Page(self._tell_health))
        if metrics is not Exposure.OFF:
            self._server.open_page("/metrics", Page(self._tell_metrics, near=metrics is Exposure.LOOPBACK))

    def chores(self) -> list[Coroutine[Any, Any, None]]:
        """What has to run while the node does."""
        return [self._check()] + ([self.lag.watch()] if self._metrics is not Exposure.OFF else [])

    async def _check(self) -> None:
        was: str | None = None
        while True:
            await asyncio.to_thread(self.health.check)
            reason = self.health.reason
            if reason is not None and reason != was:
                log.warning("health: %s", reason)
            elif reason is None and was is not None:
                log.info("health: the disk takes writes again")
            was = reason
            await asyncio.sleep(CHECK_S)

    async def _tell_health(self) -> Told:
        status, body = self.health.told()
        return Told(body, "application/json", status)

    async def _tell_metrics(self) -> Told:
        loop = asyncio.get_running_loop()
        async with self._one_at_a_time:
            if loop.time() - self._text_s >= FRESH_S:
                await self._count_disk(loop.time())
                series = [*self._traffic(), *self._serving(), *self._fetching(), *_disk(self._usage), *self._being()]
                self._text = await asyncio.to_thread(expose, series)
                self._text_s = loop.time()
            return Told(self._text, CONTENT_TYPE)

    async def _count_disk(self, now_s: float) -> None:
        if self._usage is not None and now_s - self._usage_s < USAGE_S:
            return
        self._usage_s = now_s
        try:
            self._usage = await asyncio.to_thread(self._owner.store.usage)
        except (OSError, P2PSyncError) as error:
            # A number that is missing says more than one of yesterday.
            log.warning("what the home takes cannot be counted: %s", error)
            self._usage = None

    def _traffic(self) -> list[Series]:
        received, site = self._owner.received(), self._owner.site
        rows: dict[tuple[str, ...], float] = {("sent", link): self._sent[link] for link in _LINKS}
        rows |= {("received", link): received[link] for link in _LINKS}
        return [
            Series(
                "p2psync_bytes",
                "Bytes of bodies sent to readers, and bytes that came from sources, by link.",
                Kind.COUNTER,
                rows,
                ("direction", "link"),
            ),
            single(
                "p2psync_control_bytes",
                "Bytes on site channels, both ways.",
                Kind.COUNTER,
                site.control_bytes() if site is not None else 0,
            ),
            single("p2psync_peers", "Neighbours with a channel.", Kind.GAUGE, len(site.live()) if site else 0),
            single("p2psync_peers_banned", "Neighbours that are banned.", Kind.GAUGE, len(site.bans()) if site else 0),
        ]

    def _serving(self) -> list[Series]:
        meters = self._server.meters
        return [
            Series(
                "p2psync_requests",
                "Requests that were answered, by resource and class of status.",
                Kind.COUNTER,
                {row: float(count) for row, count in meters.requests.items()},
                ("resource", "status"),
            ),
            single("p2psync_chunks_served", "Chunks that were sent to the end.", Kind.COUNTER, meters.chunks),
            _labelled("p2psync_answers_broken", "Answers that ended early.", Kind.COUNTER, "reason", meters.broken),
            _labelled("p2psync_connections", "Open connections.", Kind.GAUGE, "kind", self._server.connections),
            _labelled("p2psync_connections_refused", "Connections over a cap.", Kind.COUNTER, "reason", meters.refused),
        ]

    def _fetching(self) -> list[Series]:
        owner, tally = self._owner, self._owner.rates.tally
        return [
            single("p2psync_pulls_running", "Pulls at work.", Kind.GAUGE, owner.pulls_running),
            _labelled("p2psync_pulls", "Pulls that ended, by outcome.", Kind.COUNTER, "outcome", tally.pulls),
            _labelled(
                "p2psync_asks",
                "Requests of sources that ended; corrupt are those whose bytes did not prove.",
                Kind.COUNTER,
                "outcome",
                tally.requests,
            ),
            single("p2psync_chunks_proved", "Chunks that arrived and proved.", Kind.COUNTER, tally.chunks_proved),
            single("p2psync_forms_refused", "Encoded chunks not decodable.", Kind.COUNTER, tally.forms_refused),
        ]

    def _being(self) -> list[Series]:
        rows = [
            Series("p2psync_build", "What runs.", Kind.INFO, {_BUILD: 1.0}, ("version", "protocol", "python")),
            single("p2psync_healthy", "1 while /healthz says ok.", Kind.GAUGE, float(self.health.reason is None)),
            single("p2psync_loop_lag_max_seconds", "Latest in the last minute.", Kind.GAUGE, self.lag.max_s),
            single("p2psync_loop_lag_mean_seconds", "Mean of the last minute.", Kind.GAUGE, self.lag.mean_s),
        ]
        taken = process()
        if taken is not None:
            rows += [
                single("process_resident_memory_bytes", "Resident memory.", Kind.GAUGE, taken.resident_bytes),
                single("p2psync_anonymous_memory_bytes", "Resident, of no file.", Kind.GAUGE, taken.anonymous_bytes),
                single("process_open_fds", "Open file descriptors.", Kind.GAUGE, taken.open_fds),
            ]
        return rows


def _labelled(name: str, text: str, kind: Kind, label: str, values: Mapping[str, float]) -> Series:
    return Series(name, text, kind, {(value,): number for value, number in values.items()}, (label,))


def _disk(usage: Usage | None) -> list[Series]:
    if usage is None:
        return []
    parts = {"models": usage.models_bytes, "partial": usage.partial_bytes, "forms": usage.forms_bytes}
    return [
        _labelled("p2psync_store_bytes", "What the home takes on its disk.", Kind.GAUGE, "part", parts),
        single("p2psync_store_free_bytes", "What the disk has left.", Kind.GAUGE, usage.free_bytes),
        single("p2psync_store_versions", "Versions that are here.", Kind.GAUGE, usage.versions),
        single("p2psync_store_withdrawn_files", "Files that do not prove.", Kind.GAUGE, usage.withdrawn),
    ]
