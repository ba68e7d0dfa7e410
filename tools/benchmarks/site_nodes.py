"""p2psync at a site: a lone pull, a site that starts together, one that loses a fetcher, a holder, a latecomer."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.site_case import REFERENCE, RUN_S_MAX, Case, Run, Shop
from p2psync.transport import call
from tests.integration.site_lab import PAYLOAD_OF_PACKET, SiteLab
from tests.integration.site_nodes import Site, Together

_SOCKET = "serve.sock"
_MEMORY = "/dev/shm"  # noqa: S108 - the file system of memory, so that no disk is measured
_IDLE_S = 20.0


def lone(lab: SiteLab, _case: Case, shop: Shop) -> Run:
    """One node pulls alone, with 16 connections, and serves nobody."""
    with _site(lab, shop) as site, _pulling(site, ["n1"]) as pull:
        ends, told = pull.seconds(["n1"]), pull.told(["n1"])
        _check(shop, told)
        return {"seconds": ends["n1"], **_counted(told), **_at_the_seed(site)}


def together(lab: SiteLab, case: Case, shop: Shop) -> Run:
    """All nodes ask at the same time. One behind a slow port of its own is waited for and told apart."""
    return _pull_together(lab, case, shop, lambda _site: set())


def fetcher_killed(lab: SiteLab, case: Case, shop: Shop) -> Run:
    """The node that fetched most is killed when 30 % have crossed the outside link."""

    def kill(site: Site) -> set[str]:
        busiest = site.crossed(0.3 * shop.bytes, RUN_S_MAX)
        site.nodes[busiest].kill()
        return {busiest}

    return _pull_together(lab, case, shop, kill)


def fetcher_unplugged(lab: SiteLab, case: Case, shop: Shop) -> Run:
    """The cable of the node that fetched most is pulled when 60 % have crossed the outside link."""

    def unplug(site: Site) -> set[str]:
        busiest = site.crossed(0.6 * shop.bytes, RUN_S_MAX)
        lab.link(busiest, on=False)
        return {busiest}

    return _pull_together(lab, case, shop, unplug)


def holder(lab: SiteLab, _case: Case, shop: Shop) -> Run:
    """One node has the version, and all others ask at the same moment. Homes are in memory, so disks do not count."""
    first, *others = lab.names
    with tempfile.TemporaryDirectory(dir=_MEMORY) as memory, _site(lab, shop, Path(memory)) as site:
        with _pulling(site, [first]) as alone:
            alone.end(first)
        site.start(*lab.names)
        return _ask(site, shop, others)


def latecomer(lab: SiteLab, _case: Case, shop: Shop) -> Run:
    """The last node joins when all others have everything."""
    *early, late = lab.names
    with _site(lab, shop) as site:
        site.start(*early)
        with _pulling(site, early) as pulls:
            pulls.seconds(early)
        site.start(late)
        return _ask(site, shop, [late])


def many(lab: SiteLab, _case: Case, shop: Shop) -> Run:
    """Many nodes: what they spend idle, and what they say to each other while a version spreads."""
    with _site(lab, shop) as site:
        site.start(*lab.names)
        idle = _idle(site)
        return {**_ask(site, shop, lab.names), **idle, **_at_the_seed(site)}


@contextmanager
def _site(lab: SiteLab, shop: Shop, homes: Path | None = None) -> Iterator[Site]:
    """The seed, serving, and a folder for homes: ``homes``, or one on the disk that is measured."""
    with shop.folder("site") as folder, Site.open(lab, shop.publisher, homes or folder) as site:
        yield site


def _pulling(site: Site, names: Sequence[str]) -> Together:
    return Together(site.pulling(REFERENCE, names), RUN_S_MAX)


def _pull_together(lab: SiteLab, case: Case, shop: Shop, harm: Callable[[Site], set[str]]) -> Run:
    """``harm`` is done to the site while it pulls, and names the nodes that need not finish."""
    with _site(lab, shop) as site:
        site.start(*lab.names)
        sent = lab.wan_bytes()
        with _pulling(site, lab.names) as pulls:
            harmed = harm(site)
            well = [name for name in lab.names if name not in harmed and name not in case.ports]
            ends = pulls.seconds(well)
            seconds = max(ends.values())
            # What the slow node takes of the outside link counts as well, and it may take minutes.
            ends |= pulls.seconds(list(case.ports))
            told = pulls.told(list(ends))
        ip_bytes = lab.wan_bytes().down - sent.down
        _check(shop, told)
        run = {"seconds": seconds, "ends_s": ends, "ip_bytes": ip_bytes, **_counted(told), **_at_the_seed(site)}
        if not harmed:
            return run
        # A node that was harmed cannot tell what it took. The link can; the seed also counts what it still had to send.
        crossed = round(sum(lab.carried().values()) * PAYLOAD_OF_PACKET)
        return run | {"outside_bytes": crossed, "harmed": sorted(harmed)}


def _ask(site: Site, shop: Shop, names: Sequence[str]) -> Run:
    """Hand the pull to running nodes at one moment: seconds count from when the last of them has taken it."""
    sent = site.lab.wan_bytes()
    told, ends = asyncio.run(_ask_all(site, names))
    ip_bytes = site.lab.wan_bytes().down - sent.down
    _check(shop, told)
    return {"seconds": max(ends.values()), "ends_s": ends, "ip_bytes": ip_bytes, **_counted(told)}


async def _ask_all(site: Site, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, float]]:
    """What each node answered, and after how many seconds."""
    args = {"reference": REFERENCE, "sources": [{"url": site.seed.url, "kind": "wan"}]}
    began_s = time.monotonic()

    async def ask(name: str) -> tuple[Any, float]:
        answer = await call(site.folder / name / _SOCKET, "pull", args, lambda _event: None)
        return answer, round(time.monotonic() - began_s, 3)

    answers = dict(zip(names, await asyncio.gather(*map(ask, names)), strict=True))
    return {name: told for name, (told, _) in answers.items()}, {name: end for name, (_, end) in answers.items()}


def _check(shop: Shop, told: dict[str, Any]) -> None:
    """Refuse a node whose file is not the one that was published."""
    for one in told.values():
        shop.check(Path(one["path"]) / shop.file.name)


def _counted(told: dict[str, Any]) -> Run:
    """What the nodes say: model bytes from outside and from each other, and everything else that crossed the LAN."""
    wan = {name: one["bytes"]["wan"] for name, one in told.items()}
    lan = sum(one["bytes"]["lan"] for one in told.values())
    wire = sum(one["wire"]["lan"] for one in told.values())
    surplus = sum(one["surplus"]["lan"] for one in told.values())
    return {
        "outside_bytes": sum(wan.values()),
        "wan_bytes": wan,
        "lan_bytes": lan,
        "lan_wire_bytes": wire,
        "lan_surplus_bytes": surplus,
    }


def _at_the_seed(site: Site) -> Run:
    """What the seed counted in its whole life. Ends it."""
    site.seed.stop()
    return {"seed_sent_bytes": site.seed.sent_bytes}


def _idle(site: Site) -> Run:
    """Share of a core, and LAN bytes per second, of each node while nothing is asked of it."""

    def look() -> list[tuple[float, int]]:
        return [(measure.cpu_of([node.pid]), site.lab.port_bytes(name).up) for name, node in site.nodes.items()]

    before = look()
    time.sleep(_IDLE_S)
    spent = [((b[0] - a[0]) / _IDLE_S, (b[1] - a[1]) / _IDLE_S) for a, b in zip(before, look(), strict=True)]
    return {
        "idle_core_share": measure.summary([cpu for cpu, _ in spent]),
        "idle_lan_bytes_per_s": measure.summary([lan for _, lan in spent]),
    }
