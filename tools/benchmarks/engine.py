"""The engine's figures: which groups there are, ``decode``, and ``gpu``, what ``engine_gpu`` measured elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks import engine_process, measure
from benchmarks.engine_int8 import int8_group
from benchmarks.engine_load import load_group
from benchmarks.engine_start import start_group
from benchmarks.engine_swap import swap_group
from benchmarks.report import Bench, Group, Row

_VARIANT: Final = "int8-pruned"
_FRAMES_SHORT, _FRAMES_LONG = 17, 81
_GROWTH_MAX: Final = 1.3
_FUSED_MS_MAX: Final = 3.2
_INT8_GAIN_MIN: Final = 1.2


def questions(engines: Path | None, gpu: Path | None, torch: str | None) -> dict[str, Callable[[Bench], Group]]:
    """The groups that can be asked here.

    Args:
        engines: A variant's directory that ``p2psync compress`` made, where there is one.
        gpu: A report that ``engine_gpu`` wrote, where there is one.
        torch: A Python in which the extra ``compress`` is installed, where there is one.
    """
    found: dict[str, Callable[[Bench], Group]] = {
        "load": load_group,
        "swap": lambda bench: swap_group(bench, [_kept(bench, name) for name in ("v1", "v2")]),
    }
    if torch is not None:
        found["int8"] = lambda bench: int8_group(bench, torch)
        found["start"] = lambda bench: start_group(bench, _kept(bench, "v1"), torch)
    if engines is not None:
        found["decode"] = lambda bench: decode_group(bench, engines)
    if gpu is not None:
        found["gpu"] = lambda _: gpu_group(json.loads(gpu.read_text()))
    return found


def decode_group(bench: Bench, engine: Path) -> Group:
    """The most memory of a process that decodes a clip, of a short one and of a long one."""
    runs = [
        {"frames": frames, "round": number, **engine_process.ask("decode", str(engine), str(frames))}
        for number in range(bench.rounds)
        for frames in (_FRAMES_SHORT, _FRAMES_LONG)
    ]
    peaks = {
        frames: measure.summary([run["peak_bytes"] for run in runs if run["frames"] == frames])
        for frames in (_FRAMES_SHORT, _FRAMES_LONG)
    }
    short, long = (peaks[frames]["median"] for frames in (_FRAMES_SHORT, _FRAMES_LONG))
    table = [
        Row(
            f"peak memory of decoding {_FRAMES_LONG} frames, wan-tiny",
            f"{_FRAMES_SHORT} frames {short / 1e6:.0f} MB",
            f"{long / 1e6:.0f} MB, {long / short:.2f}x",
            f"<= {_GROWTH_MAX:g}x",
            long / short <= _GROWTH_MAX,
        )
    ]
    return Group(runs, {"peak_bytes": {str(frames): peak for frames, peak in peaks.items()}}, table)


def _kept(bench: Bench, version: str) -> Path:
    """The variant that a node of wan-tiny's example runs, built from what is committed."""
    folder = bench.work / f"engine-{version}"
    if not folder.exists():
        sys.path.append(str(engine_process.ROOT / "examples"))
        from wan_tiny import engines

        engines.build(version, folder)
    return folder / _VARIANT


def gpu_group(measured: dict[str, Any]) -> Group:
    """Rows of a report of ``engine_gpu``: attention as one node beside torch and the naive graph, INT8 beside BF16."""
    runs = measured["rows"]
    ms = {run["way"]: run["median_ms"] for run in runs if "median_ms" in run}
    fused, naive = ms["ort-cuda FP16, attention as one node"], ms["ort-cuda FP16, attention written out"]
    gain = ms["torch BF16, compiled"] / ms["torch INT8, compiled"]
    card = measured["card"]
    table = [
        Row(
            f"4 blocks of d = 1536, 4,096 tokens, ort-cuda FP16 ({card})",
            f"torch {ms['torch FP16']:.2f} ms, attention written out {naive:.2f} ms",
            f"{fused:.2f} ms",
            f"<= {_FUSED_MS_MAX:g} ms",
            fused <= _FUSED_MS_MAX,
        ),
        Row(
            f"2 blocks of d = 5120, 4,096 tokens, INT8 through torch ({card})",
            f"BF16 {ms['torch BF16, compiled']:.2f} ms",
            f"{ms['torch INT8, compiled']:.2f} ms, {gain:.2f}x",
            f">= {_INT8_GAIN_MIN:g}x",
            gain >= _INT8_GAIN_MIN,
        ),
    ]
    return Group(runs, {"card": card, "torch": measured["torch"], "int8_gain": round(gain, 3)}, table)
