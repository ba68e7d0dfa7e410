"""What every way to bring a file to a site is given, and what is written down about each: a case, a shop, a run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import measure, models
from benchmarks.report import Bench
from tests.integration.lab import Publisher
from tests.integration.site_lab import SiteLab, Wan

# What everybody counts as model bytes, and the name under which p2psync knows it.
REFERENCE = "acme/model:v1"
MIB = 1 << 20
_MODEL = "model.safetensors"
# Nothing here takes longer; a run that hangs ends with an error instead.
RUN_S_MAX = 1800.0

Run = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A site and its outside link. ``ports`` are LAN rates in Mbit/s of single nodes, ``lan_mbit`` that of all."""

    name: str
    nodes: int
    file_bytes: int
    wan: Wan
    lan_mbit: float | None = None
    ports: Mapping[str, float] = field(default_factory=dict)

    def lab(self) -> SiteLab:
        """A lab for one run, with the same losses in every one."""
        return SiteLab(self.nodes, self.wan, lan_mbit=self.lan_mbit, port_mbit=self.ports)


@dataclass(frozen=True, slots=True)
class Shop:
    """What the seed has: one safetensors file of noise, as a file and as a version that p2psync signed."""

    work: Path
    file: Path
    publisher: Publisher

    @classmethod
    def open(cls, bench: Bench, name: str, file_bytes: int) -> Shop:
        """Write the file, and publish it."""
        work = bench.folder(name)
        file = work / "source" / _MODEL
        models.write(file, models.transformer(file_bytes), bench.seed)
        publisher = Publisher.at(work / "publisher")
        publisher.publish(file.parent, REFERENCE, "--in-place")
        return cls(work, file, publisher)

    @property
    def bytes(self) -> int:
        """Of the file: the unique bytes that a site must bring once."""
        return self.file.stat().st_size

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """A folder of one run, gone afterwards."""
        path = self.work / name
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path)

    def check(self, found: Path) -> None:
        """Refuse a copy that is not the file, byte for byte."""
        if found.stat().st_size != self.bytes or found.read_bytes() != self.file.read_bytes():
            raise RuntimeError(f"{found} is not the file that was sent")


Way = Callable[[SiteLab, Case, Shop], Run]


def measured(case: Case, shop: Shop, name: str, way: Way) -> Run:
    """One way in a lab of its own: what it tells, and what the outside link and the processors saw meanwhile.

    A way tells ``seconds`` from the first start to the last end, and ``outside_bytes``: payload from the seed.
    """
    measure.settle()
    with case.lab() as lab:
        sent, busy = lab.wan_bytes(), _processors()
        told = way(lab, case, shop)
        told.setdefault("ip_bytes", lab.wan_bytes().down - sent.down)
        spent = [after - before for after, before in zip(_processors(), busy, strict=True)]
    run = {"way": name, "seed": case.wan.seed, "case": case.name, "nodes": case.nodes, "mbit": case.wan.mbit}
    run |= {"bytes": shop.bytes, **told}
    run |= {"outside_ratio": round(told["outside_bytes"] / shop.bytes, 5), "ip_ratio": told["ip_bytes"] / shop.bytes}
    # A machine that was busy with something else makes a figure worth less.
    return run | {"processors_busy": round(spent[0] / max(spent[1], 1), 3), "ended_unix_s": int(time.time())}


def _processors() -> tuple[int, int]:
    """Ticks that all cores spent working, and all ticks."""
    ticks = [int(count) for count in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)
