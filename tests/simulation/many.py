"""A great many chaotic sites, and what came of them: what tools/chaos.py runs."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tests.simulation.chaos import LARGE, Size, chaos, size_of

_FOLDED: Final = 20


@dataclass(frozen=True, slots=True)
class Told:
    """What came of one seed. ``broken`` says what never may happen and did; empty if nothing did."""

    seed: int
    broken: str
    nodes: int
    chunks: int
    steps: int
    bad: int
    conflicts: int
    trace: str


def told(seed: int, size: Size | None = None) -> Told:
    """Run one seed to its end."""
    site = chaos(seed, size or size_of(seed))
    chunks = len(site.world.table)
    try:
        outcome = site.run()
        left = sorted(site.nodes.keys() - outcome.done_s.keys())
        broken = f"not done: {', '.join(left)}" if left else ""
    except AssertionError as error:
        return Told(seed, f"{type(error).__name__}: {error}", len(site.nodes), chunks, 0, 0, 0, site.world.trace)
    bad = max(outcome.bad.values(), default=0)
    if bad > 2 * len(site.world.members):
        broken = broken or f"a node took {bad} bad chunks"
    return Told(seed, broken, len(site.nodes), chunks, outcome.steps, bad, outcome.conflicts, outcome.trace)


def every(seeds: Iterable[int], processes: int, within_s: float) -> Iterator[Told]:
    """Run seeds, in order; none is begun after ``within_s``."""
    began_s = time.monotonic()

    def begun() -> Iterator[int]:
        for seed in seeds:
            if time.monotonic() - began_s > within_s:
                return
            yield seed

    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        # Tasks are handed out as they are taken, so the deadline holds.
        waiting: list[Any] = []
        for seed in begun():
            waiting.append(pool.apply_async(told, (seed,)))
            while len(waiting) >= 4 * processes:
                yield waiting.pop(0).get()
        for one in waiting:
            yield one.get()


def code() -> str:
    """Stands for everything that the outcome of a seed depends on: our modules that are loaded here."""
    digest = hashlib.blake2b(digest_size=16)
    for name, module in sorted(sys.modules.items()):
        if name.startswith(("p2psync", "tests.simulation")) and module.__file__:
            digest.update(name.encode() + b"\0" + Path(module.__file__).read_bytes())
    return digest.hexdigest()


class Kept:
    """The outcomes of runs before, in a file, if they are of the code of today; none where no file is named."""

    def __init__(self, path: Path | None) -> None:
        """Read what is there.

        Raises:
            ValueError: it came of other code.
        """
        self._path = path
        self.known: list[Told] = []
        if path is not None and path.exists():
            there = json.loads(path.read_text())
            if there["code"] != code():
                raise ValueError(f"{path} holds outcomes of other code; name another file")
            self.known = [Told(**one) for one in there["outcomes"]]

    def write(self, found: Sequence[Told]) -> None:
        """Keep these."""
        if self._path is not None:
            self._path.write_text(json.dumps({"code": code(), "outcomes": [asdict(one) for one in found]}))


def summary(found: list[Told]) -> dict[str, Any]:
    """What docs/simulation.json keeps. ``traces`` stands for every step of every run."""
    folded = hashlib.blake2b("".join(one.trace for one in found).encode(), digest_size=16)
    first = hashlib.blake2b("".join(one.trace for one in found[:_FOLDED]).encode(), digest_size=16)
    return {
        "sites_of_at_most": asdict(LARGE),
        "first": found[0].seed if found else None,
        "seeds": len(found),
        "broken": [{"seed": one.seed, "what": one.broken} for one in found if one.broken],
        "nodes": sum(one.nodes for one in found),
        "chunks": sum(one.chunks for one in found),
        "steps": sum(one.steps for one in found),
        "most_bad_chunks_taken_by_a_node": max((one.bad for one in found), default=0),
        "asked_twice_at_the_end_of_a_lease": sum(one.conflicts for one in found),
        "traces": folded.hexdigest(),
        f"traces_of_the_first_{_FOLDED}": first.hexdigest(),
    }
