"""How much memory publishing, serving and pulling a big model take, and how long indexing it in place takes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import command
from benchmarks import measure, models
from benchmarks.report import Bench, Group, Row

_MODEL_BYTES = 4 << 30
_REFERENCE = "bench/big"
_PLAIN_READ = Path(__file__).with_name("plain_read.py")
_MIB = 1 << 20
_TIMES_READ_MAX = 1.3
_MEMORY_MIB_MAX = {"publish": 150, "publish in place": 150, "serve": 150, "pull": 250}


def footprint(bench: Bench) -> Group:
    """Publish, index in place, serve and pull one model, round after round, each time in new homes."""
    work = bench.folder("footprint")
    file = work / "source" / "model.safetensors"
    models.write(file, models.transformer(bench.scaled(_MODEL_BYTES)), bench.seed)
    runs = []
    for number in range(bench.rounds):
        measure.settle()
        measure.warm(file)
        steps = {
            "plain read": lambda: [measure.run([sys.executable, str(_PLAIN_READ), str(file)])],
            "publish in place": lambda: [_publish(work / "in-place", file.parent, "--in-place")],
            "publish": lambda: [_publish(work / "snapshot", file.parent)],
        }
        # The pull needs the snapshot; the order of the others turns.
        names = list(steps)[number % 2 :] + list(steps)[: number % 2]
        for name in names:
            runs += [_run(number, name, cost) for cost in steps[name]()]
            measure.settle()
        pulled, serve_bytes = _pull(work)
        runs.append(_run(number, "pull", pulled))
        runs.append({"round": number, "step": "serve", "anonymous_bytes": serve_bytes})
        for home in ("in-place", "snapshot", "node"):
            shutil.rmtree(work / home)
    shutil.rmtree(work)
    return _group(runs, bench.scaled(_MODEL_BYTES))


def _publish(home: Path, folder: Path, *flags: str) -> measure.Cost:
    publisher = command.Home(home)
    publisher.json("key", "new", "bench")
    return measure.run(publisher.command("publish", str(folder), _REFERENCE, "--key", "bench", *flags))


def _pull(work: Path) -> tuple[measure.Cost, int]:
    publisher, node = command.Home(work / "snapshot"), command.Home(work / "node")
    node.json("trust", "add", "bench/*", publisher.text("key", "export", "bench").strip())
    with publisher.serve() as seed, measure.MemoryWatch(seed.pid) as watch:
        cost = measure.run(node.command("pull", _REFERENCE, "--peer", seed.url))
    return cost, watch.highest_bytes


def _run(number: int, step: str, cost: measure.Cost) -> dict[str, Any]:
    return {
        "round": number,
        "step": step,
        "seconds": round(cost.seconds, 4),
        "cpu_s": round(cost.cpu_s, 3),
        "anonymous_bytes": cost.anonymous_bytes,
    }


def _group(runs: list[dict[str, Any]], model_bytes: int) -> Group:
    summary: dict[str, Any] = {}
    for step in dict.fromkeys(run["step"] for run in runs):
        own = [run for run in runs if run["step"] == step]
        summary[step] = {"anonymous_mib": measure.summary([run["anonymous_bytes"] / _MIB for run in own])}
        if "seconds" in own[0]:
            summary[step]["seconds"] = measure.summary([run["seconds"] for run in own])
            summary[step]["cpu_s"] = measure.summary([run["cpu_s"] for run in own])
    size = f"{model_bytes / (1 << 30):.2g} GiB"
    table = []
    for step, bound in _MEMORY_MIB_MAX.items():
        highest = summary[step]["anonymous_mib"]["max"]
        table.append(
            Row(
                f"anonymous memory, {step}, {size} model", "", f"{highest:.0f} MiB", f"<= {bound} MiB", highest <= bound
            )
        )
    read, index = (summary[step]["seconds"]["median"] for step in ("plain read", "publish in place"))
    summary["times_plain_read"] = round(index / read, 3)
    table.append(
        Row(
            f"`publish --in-place` of {size}",
            f"one plain read that feeds BLAKE3 and SHA-256: {read:.2f} s",
            f"{index:.2f} s, {index / read:.2f}x",
            f"<= {_TIMES_READ_MAX:g}x",
            index / read <= _TIMES_READ_MAX,
        )
    )
    return Group(runs, summary, table)
