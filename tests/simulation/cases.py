"""The cases that a site must survive, each made ready to run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from p2psync.limits import KIB, MIB
from p2psync.manifest import Chunk
from tests.simulation.runs import Answer
from tests.simulation.site import Site
from tests.simulation.strangers import Claimant, Stranger
from tests.simulation.world import LINE, even_table, table_of

CHUNKS = 96
TABLE = even_table(CHUNKS)
SLOW_PORT = 2e6 / 8
FAST_ETHERNET = 100e6 / 8
HELD = 64


def together(seed: int, count: int = 6, *, table: Sequence[Chunk] = TABLE, line: float = LINE) -> Site:
    """Nodes that start at the same moment, with nothing."""
    site = Site(table, seed, line=line)
    for number in range(count):
        site.add(f"n{number}")
    return site


def fetcher_killed(seed: int) -> Site:
    """The busiest fetcher is killed at 30 %."""
    site = together(seed)
    site.when(0.3, lambda: site.kill(site.busiest()))
    return site


def cable_pulled(seed: int) -> Site:
    """The busiest fetcher's cable is pulled at 60 %."""
    site = together(seed)
    site.when(0.6, lambda: site.pull_cable(site.busiest()))
    return site


def narrow_port(seed: int) -> Site:
    """Twelve nodes, one of which has a port of 2 Mbit/s: to the others, and on its way out."""
    site = Site(TABLE, seed)
    for number in range(12):
        site.add(f"n{number}", port=SLOW_PORT if number == 3 else FAST_ETHERNET)
    site.world.outside.narrow("n3", SLOW_PORT)
    return site


def one_holder(seed: int) -> Site:
    """Sixteen nodes on ports of 100 Mbit/s, one of which has the 64 MiB that all want."""
    site = Site(even_table(HELD), seed, delay_s=0.002)
    for number in range(16):
        site.add(f"n{number}", port=FAST_ETHERNET, holds=range(HELD) if number == 0 else ())
    return site


def late_joiner(seed: int) -> Site:
    """One node comes when the rest have everything."""
    site = together(seed)
    site.add("late", at_s=120.0)
    return site


def two_late(seed: int) -> Site:
    """Two nodes come while the others are at work."""
    site = together(seed, 4)
    site.add("n4", at_s=10.0)
    site.add("n5", at_s=20.0)
    return site


def with_stranger(rule: Callable[[Chunk], Answer], **options: float) -> Callable[[int], Site]:
    """Six nodes, and one that says it holds everything and answers by ``rule``."""

    def ready(seed: int) -> Site:
        site = together(seed)
        honest = rule(TABLE[0]) in (Answer.GOOD, Answer.SILENT, Answer.RESET)
        stranger = Stranger(site.world, "stranger", rule, honest=honest, **options)
        site.at(0.0, stranger.begin)
        return site

    return ready


def with_claimant(*, growing: bool) -> Callable[[int], Site]:
    """Six nodes, and one that claims every chunk and brings none."""

    def ready(seed: int) -> Site:
        site = together(seed)
        site.at(0.0, Claimant(site.world, "claimant", growing=growing).begin)
        return site

    return ready


def link_cut(seed: int) -> Site:
    """The outside link is cut at 50 %, for 20 s."""
    site = together(seed)

    def cut() -> None:
        site.cut()
        site.at(site.world.clock.now_s + 20, site.mend)

    site.when(0.5, cut)
    return site


def seed_restarts(seed: int) -> Site:
    """The seed is down for 5 s from 40 % on."""
    site = together(seed)

    def stop() -> None:
        site.stop_seed()
        site.at(site.world.clock.now_s + 5, site.start_seed)

    site.when(0.4, stop)
    return site


def divided(seed: int, *, for_s: float = 15.0) -> Site:
    """Half of the site hears nothing of the other half for a while."""
    site = together(seed)

    def divide() -> None:
        site.divide("n0", "n1", "n2")
        site.at(site.world.clock.now_s + for_s, site.divide)

    site.when(0.4, divide)
    return site


def two_selections(seed: int) -> Site:
    """Half of the nodes want the first 64 chunks, the others the last 64 of 96."""
    site = Site(TABLE, seed)
    for number in range(6):
        part = range(64) if number % 2 else range(32, 96)
        site.add(f"n{number}", wanted=part, selection=(b"first   ", b"last    ")[number % 2])
    return site


def small_chunks(seed: int) -> Site:
    """Four nodes, and 4,000 chunks of 4 KiB among 24 large ones."""
    lengths = [4 * KIB] * 2000 + [MIB] * 24 + [4 * KIB] * 2000
    return together(seed, 4, table=table_of(lengths))


CASES: dict[str, Callable[[int], Site]] = {
    "six": together,
    "twelve": lambda seed: together(seed, 12),
    "fetcher killed at 30 %": fetcher_killed,
    "cable pulled at 60 %": cable_pulled,
    "one port of 2 Mbit/s": narrow_port,
    "late joiner": late_joiner,
    "two join at 10 s, 20 s": two_late,
    "liar, flipped bits": with_stranger(lambda _: Answer.BAD),
    "liar, answers 404": with_stranger(lambda _: Answer.ABSENT),
    "liar, claims all": with_claimant(growing=False),
    "liar, claims all and beats": with_claimant(growing=True),
    "peer at 10 KB/s": with_stranger(lambda _: Answer.GOOD, port=10e3),
    "peer at 50 KB/s": with_stranger(lambda _: Answer.GOOD, port=50e3),
    "silent peer": with_stranger(lambda _: Answer.SILENT),
    "peer that resets at 99 %": with_stranger(lambda _: Answer.RESET),
    "link cut for 20 s": link_cut,
    "seed restarts": seed_restarts,
    "divided for 15 s": divided,
    "divided for 40 s": lambda seed: divided(seed, for_s=40.0),
    "two selections": two_selections,
    "small chunks": small_chunks,
}
