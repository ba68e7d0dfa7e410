"""``int8``: what INT8, and pruning before it, makes of a transformer of 43 M parameters on the processor.

The graphs are made by p2psync's own export (``engine_dit``, with torch) and timed by the node's loader, without torch.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks import engine_process, measure
from benchmarks.report import Bench, Group, Row

_MAKER: Final = Path(__file__).with_name("engine_dit.py")
_FORMS: Final = ("fp32", "int8", "int8-ends-precise", "int8-pruned")
# What each form must gain in time, and may take in bytes, of FP32.
_BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "int8": (2.2, 0.27),
    "int8-ends-precise": (2.2, 0.27),
    "int8-pruned": (2.8, 0.20),
}
_LABELS: Final = {
    "int8": "INT8 in all blocks",
    "int8-ends-precise": "INT8, first and last block FP16 (a recipe's default)",
    "int8-pruned": "INT8 in all blocks, pruned",
}


def int8_group(bench: Bench, python: str) -> Group:
    """Make the forms, and time a step of each in turn.

    Args:
        bench: Where, and how often.
        python: An interpreter with the extra ``compress``.
    """
    folder = bench.folder("int8")
    return timed(folder, engine_process.ask(str(folder), script=_MAKER, python=python), bench.rounds)


def timed(folder: Path, made: Mapping[str, Any], rounds: int) -> Group:
    """Time the forms in ``folder``, of which the export said ``made``."""
    files = {form: folder / form / "model.onnx" for form in _FORMS}
    answer = engine_process.ask("steps", str(rounds), *map(str, files.values()))
    runs = [
        {"form": form, "round": number, "ms": round(ms, 3), "load_average": answer["load_average"]}
        for form, file in files.items()
        for number, ms in enumerate(answer["ms"][str(file)])
    ]
    facts = {
        form: {
            "bytes": sum(part.stat().st_size for part in file.parent.iterdir()),
            "error": round(answer["errors"][str(file)], 5),
        }
        for form, file in files.items()
    }
    return group(runs, facts, {**made, "fast_int8": answer["fast_int8"]})


def group(runs: list[dict[str, Any]], facts: Mapping[str, Mapping[str, Any]], made: Mapping[str, Any]) -> Group:
    """The rows of what was timed.

    Args:
        runs: ``form`` and ``ms`` of each round.
        facts: Of each form its ``bytes``, and the ``error`` of its answer against FP32, relative.
        made: What the export said: parameters of the whole and of the pruned transformer; and whether the
            processor has kernels for INT8 (``fast_int8``), without which it only saves bytes.
    """
    ms = {form: measure.summary([run["ms"] for run in runs if run["form"] == form]) for form in _FORMS}
    whole = made["parameters"] / 1e6
    removed = 1 - made["pruned_parameters"] / made["parameters"]
    on = "ort-cpu" if made["fast_int8"] else "ort-cpu (a processor without VNNI)"
    table = []
    for form, (gain_min, share_max) in _BOUNDS.items():
        label = _LABELS[form] + (f" by {removed:.0%}" if form == "int8-pruned" else "")
        what = f"transformer of {whole:.0f} M parameters, 256 tokens, {on}, {label}"
        gain = statistics.median(_ratios(runs, form))
        beside = f"FP32 {ms['fp32']['median']:.1f} ms"
        table.append(
            Row(what, beside, f"{ms[form]['median']:.1f} ms, {gain:.2f}x", f">= {gain_min:g}x", gain >= gain_min)
        )
        share = facts[form]["bytes"] / facts["fp32"]["bytes"]
        table.append(
            Row(
                f"bytes of the same, {label}",
                f"FP32 {facts['fp32']['bytes'] / 1e6:.1f} MB",
                f"{facts[form]['bytes'] / 1e6:.1f} MB, {share:.3f}x",
                f"<= {share_max:g}x",
                share <= share_max,
            )
        )
    return Group(runs, {"ms": ms, "forms": dict(facts), **made}, table)


def _ratios(runs: list[dict[str, Any]], form: str) -> list[float]:
    """How many times faster than FP32 each round was: neighbours in time, so that a busy machine slows both."""
    plain, own = ({run["round"]: run["ms"] for run in runs if run["form"] == name} for name in ("fp32", form))
    return [plain[number] / own[number] for number in plain]
