"""How long a site takes to get a fine-tuned model: as a delta, in planes, and as it is, over one thin line."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import measure
from benchmarks.report import Bench, Group, Row
from tests.integration.lab import Publisher
from tests.integration.site_lab import SiteLab, Wan
from tests.integration.site_nodes import Site, Together

_NODES: Final = 6
_RUN_S_MAX: Final = 900.0
_BASE, _TUNED, _RAW = "acme/model:base", "acme/model:tuned", "acme/model:raw"
_DELTA_WAY, _PLANES_WAY, _RAW_WAY = "update by deltas", "full pull in planes", "full pull as it is"
# Fast and clean, for what is not measured: the base has to be there first.
_PREPARING: Final = {"mbit": 1000.0, "up_mbit": 1000.0, "rtt_ms": 1.0, "loss": 0.0}

Run = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Shop:
    """A publisher with a base, a fine-tuned version with deltas from it, and the same version without any form."""

    publisher: Publisher
    tuned: Path
    delta_bytes: int

    @classmethod
    @contextmanager
    def open(cls, bench: Bench, pairs: Path) -> Iterator[_Shop]:
        """Publish three versions of the BF16 weights that tools/make_pairs.py made."""
        with tempfile.TemporaryDirectory(dir=bench.work) as folder:
            publisher = Publisher.at(Path(folder) / "publisher")
            for name in ("base", "tuned"):
                source = Path(folder) / name
                source.mkdir()
                shutil.copy(pairs / "minilm" / name / "bf16.safetensors", source / "model.safetensors")
            publisher.publish(Path(folder) / "base", _BASE)
            told = publisher.publish(Path(folder) / "tuned", _TUNED, "--base", _BASE)
            publisher.publish(Path(folder) / "tuned", _RAW, "--no-forms")
            (delta,) = (one for one in told["forms"] if one["kind"] == "delta")
            yield cls(publisher, Path(folder) / "tuned" / "model.safetensors", delta["encoded"])


def questions(pairs: Path, seeds: tuple[int, ...]) -> dict[str, Callable[[Bench], Group]]:
    """The groups: a LAN as fast as the machine, and one whose ports give 20 Mbit/s."""

    def asked(lan_mbit: float | None) -> Callable[[Bench], Group]:
        return lambda bench: _group(bench, pairs, seeds, lan_mbit)

    return {"update": asked(None), "update_on_wifi": asked(20.0)}


def _group(bench: Bench, pairs: Path, seeds: tuple[int, ...], lan_mbit: float | None) -> Group:
    runs = []
    with _Shop.open(bench, pairs) as shop:
        for seed in seeds:
            for way in (_DELTA_WAY, _PLANES_WAY, _RAW_WAY):
                runs.append(_measured(shop, way, seed, lan_mbit))
                line = f"{runs[-1]['seconds']:.1f} s, {runs[-1]['outside_bytes']:,} B of chunks from outside"
                print(f"  seed {seed}: {way}: {line}", flush=True)
        delta_bytes = shop.delta_bytes
    summary = {
        way: measure.summary([run["seconds"] for run in runs if run["way"] == way])
        for way in (_DELTA_WAY, _PLANES_WAY, _RAW_WAY)
    }
    return Group(runs, summary, _rows(runs, delta_bytes, lan_mbit))


def _measured(shop: _Shop, way: str, seed: int, lan_mbit: float | None) -> Run:
    wan = Wan(seed=seed)
    measure.settle()
    with (
        SiteLab(_NODES, wan, lan_mbit=lan_mbit) as lab,
        tempfile.TemporaryDirectory() as homes,
        Site.open(lab, shop.publisher, Path(homes)) as site,
    ):
        site.start(*lab.names)
        if way == _DELTA_WAY:
            lab.set_wan(**_PREPARING)
            with Together(site.pulling(_BASE, lab.names), _RUN_S_MAX) as pulls:
                pulls.told(lab.names)
            lab.set_wan(mbit=wan.mbit, up_mbit=wan.up_mbit, rtt_ms=wan.rtt_ms, loss=wan.loss)
        sent = lab.wan_bytes().down
        with Together(site.pulling(_RAW if way == _RAW_WAY else _TUNED, lab.names), _RUN_S_MAX) as pulls:
            ends, told = pulls.seconds(lab.names), pulls.told(lab.names)
        ip_bytes = lab.wan_bytes().down - sent
        for one in told.values():
            if (Path(one["path"]) / "model.safetensors").read_bytes() != shop.tuned.read_bytes():
                raise RuntimeError("a node has other bytes than were published")
        return {
            "way": way,
            "seed": seed,
            "seconds": max(ends.values()),
            "ends_s": ends,
            "outside_bytes": sum(one["wire"]["wan"] for one in told.values()),
            "lan_bytes": sum(one["wire"]["lan"] for one in told.values()),
            "patched_bytes": sum(one["bytes"]["patched"] for one in told.values()),
            "ip_bytes": ip_bytes,
        }


def _rows(runs: list[Run], delta_bytes: int, lan_mbit: float | None) -> list[Row]:
    lan = "as fast as the machine" if lan_mbit is None else f"{lan_mbit:g} Mbit/s a port"

    def ratios(beside: str) -> list[float]:
        pairs = {run["seed"]: run["seconds"] for run in runs if run["way"] == beside}
        return [run["seconds"] / pairs[run["seed"]] for run in runs if run["way"] == _DELTA_WAY]

    def seconds(way: str) -> float:
        return float(measure.summary([run["seconds"] for run in runs if run["way"] == way])["median"])

    what = f"{_NODES} nodes, MiniLM in BF16 after 60 steps at 2e-5, 20 Mbit/s, 50 ms, 1 % loss, LAN {lan}"
    raw, planes = ratios(_RAW_WAY), ratios(_PLANES_WAY)
    outside = [run["outside_bytes"] / delta_bytes for run in runs if run["way"] == _DELTA_WAY]
    return [
        Row(
            f"{what}: all have the update, beside a full pull as it is",
            f"{seconds(_RAW_WAY):.1f} s",
            f"{seconds(_DELTA_WAY):.1f} s, {measure.summary(raw)['median']:.3f}x, at worst {max(raw):.3f}x",
            "<= 0.15x",
            max(raw) <= 0.15,
        ),
        Row(
            "the same, beside a full pull in planes",
            f"{seconds(_PLANES_WAY):.1f} s",
            f"{measure.summary(planes)['median']:.3f}x, at worst {max(planes):.3f}x",
            "<= 0.25x",
            max(planes) <= 0.25,
        ),
        Row(
            f"the same: bytes over the outside link, heads, nodes and HTTP with them / the delta's {delta_bytes:,} B",
            "",
            f"{measure.summary(outside)['median']:.3f}x, at worst {max(outside):.3f}x",
            "<= 1.05x",
            max(outside) <= 1.05,
        ),
    ]
