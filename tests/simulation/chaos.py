"""A site where anything may go wrong, made from a number: so a failure is a number."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from p2psync.limits import KIB, MIB
from tests.simulation.runs import Answer
from tests.simulation.site import Site
from tests.simulation.strangers import Claimant, Stranger
from tests.simulation.world import table_of

_LENGTHS = ((MIB,), (MIB, 700 * KIB, 64 * KIB), (8 * KIB, MIB), (200 * KIB,))
_LINES = (5e6 / 8, 20e6 / 8, 100e6 / 8, 2e9 / 8)
_PORTS = (100e6 / 8, 1e9 / 8)
# Whatever is cut or stopped is back before this, so that everybody can come to an end.
_CALM_S = 60.0


@dataclass(frozen=True, slots=True)
class Size:
    """The most of each that a site has."""

    nodes: int
    chunks: int
    strangers: int
    mishaps: int


SMALL: Final = Size(nodes=7, chunks=40, strangers=2, mishaps=3)
LARGE: Final = Size(nodes=12, chunks=200, strangers=3, mishaps=5)
# A large site takes ten times as long as a small one and finds other faults; both are to be found soon.
_LARGE_EVERY: Final = 5


def size_of(seed: int) -> Size:
    """How large the site of a seed is where a great many are run."""
    return SMALL if seed % _LARGE_EVERY else LARGE


def chaos(seed: int, size: Size = SMALL) -> Site:
    """A site of up to so many nodes, and up to so many things that go wrong."""
    rng = random.Random(seed)
    lengths = rng.choice(_LENGTHS)
    table = table_of([rng.choice(lengths) for _ in range(rng.randint(4, size.chunks))])
    site = Site(table, seed, line=rng.choice(_LINES), delay_s=rng.choice([0.001, 0.01, 0.1]))
    names = [f"n{number}" for number in range(rng.randint(2, size.nodes))]
    for name in names:
        _add(site, rng, name)
    for _ in range(rng.randint(0, size.strangers)):
        _stranger(site, rng, f"x{len(site.world.members)}{rng.random()}")
    for _ in range(rng.randint(0, size.mishaps)):
        rng.choice([_death, _cable, _division, _cut, _restart, _full_disk])(site, rng, names)
    return site


def _add(site: Site, rng: random.Random, name: str) -> None:
    count = len(site.world.table)
    held = [i for i in range(count) if rng.random() < 0.3] if rng.random() < 0.2 else []
    wanted, selection = range(count), bytes(8)
    if rng.random() < 0.2:
        wanted, selection = range(count // 2), b"half    "
    port = rng.choice(_PORTS) if rng.random() < 0.9 else 2e6 / 8
    at_s = rng.uniform(0, 20) if rng.random() < 0.3 else rng.uniform(0, 0.5)
    site.add(name, at_s=at_s, holds=held, wanted=wanted, selection=selection, port=port)


def _stranger(site: Site, rng: random.Random, name: str) -> None:
    kind = rng.choice([*Answer, None])
    if kind is None:
        stranger: Stranger = Claimant(site.world, name, growing=rng.random() < 0.5)
    else:
        mostly = rng.random() < 0.5
        rule = (lambda _: rng.choice([kind, Answer.GOOD])) if mostly else (lambda _: kind)
        port = rng.choice([10e3, 100e3, 1e6, 1e8])
        stranger = Stranger(site.world, name, rule, port=port, honest=kind is not Answer.BAD)
    site.at(rng.uniform(0, 10), stranger.begin)


def _some(site: Site, rng: random.Random, names: list[str], least: int) -> str | None:
    left = [name for name in names if name in site.nodes]
    return rng.choice(left) if len(left) > least else None


def _once(site: Site, rng: random.Random, names: list[str], what: Callable[[str], None]) -> None:
    def act() -> None:
        name = _some(site, rng, names, 1)
        if name is not None:
            what(name)

    site.at(rng.uniform(0.5, 30), act)


def _death(site: Site, rng: random.Random, names: list[str]) -> None:
    _once(site, rng, names, site.kill)


def _full_disk(site: Site, rng: random.Random, names: list[str]) -> None:
    _once(site, rng, names, site.fill)


def _cable(site: Site, rng: random.Random, names: list[str]) -> None:
    _once(site, rng, names, site.pull_cable)


def _division(site: Site, rng: random.Random, names: list[str]) -> None:
    side = [name for name in names if rng.random() < 0.5]
    since_s = rng.uniform(0.5, 20)
    site.at(since_s, lambda: site.divide(*side))
    site.at(min(_CALM_S, since_s + rng.uniform(1, 45)), site.divide)


def _cut(site: Site, rng: random.Random, names: list[str]) -> None:
    since_s = rng.uniform(0.5, 20)
    site.at(since_s, site.cut)
    site.at(min(_CALM_S, since_s + rng.uniform(1, 30)), site.mend)


def _restart(site: Site, rng: random.Random, names: list[str]) -> None:
    since_s = rng.uniform(0.5, 20)
    site.at(since_s, site.stop_seed)
    site.at(min(_CALM_S, since_s + rng.uniform(1, 15)), site.start_seed)
