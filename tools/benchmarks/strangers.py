"""Pairs that training did not lead from one to the other: a delta must never cost more than the full form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import make_pairs
from benchmarks import own_forms, samples
from benchmarks.report import Group, Row
from p2psync import codec

_DTYPES = ("BF16", "F16", "F32", "F8_E4M3", "I8")


def group(pairs: Path) -> Group:
    """For each pair and type: all chunks in full, all as deltas, and the shorter of the two chunk by chunk."""
    runs: list[dict[str, Any]] = []
    table = []
    for pair, (old, new) in make_pairs.STRANGERS.items():
        for dtype in _DTYPES:
            sample = samples.load(f"{pair} {old} to {new}, {dtype}", dtype, pairs / pair / new, pairs / pair / old)
            sizes = _sizes(sample)
            runs.append({"pair": pair, "dtype": dtype, **sizes})
            table.append(_row(sample.name, sizes))
    return Group(runs, {}, table)


def _sizes(sample: samples.Sample) -> dict[str, int]:
    full_way = own_forms.full_way(sample.dtype)
    found = {"raw_bytes": len(sample.payload), "full_bytes": 0, "delta_bytes": 0, "kept_bytes": 0, "deltas_kept": 0}
    for chunk in sample.changed().chunks:
        size, full = chunk.raw.size, len(full_way.send(chunk))
        same_place = chunk.base.size == size
        made = codec.encode_delta(chunk.raw.data, chunk.base.data, sample.dtype) if same_place else None
        delta = size if made is None else len(made)
        found["full_bytes"] += full
        found["delta_bytes"] += delta
        found["kept_bytes"] += min(full, delta)
        found["deltas_kept"] += delta < full
    return found


def _row(name: str, sizes: dict[str, int]) -> Row:
    full, delta, kept = (100 * sizes[f"{what}_bytes"] / sizes["raw_bytes"] for what in ("full", "delta", "kept"))
    return Row(
        f"{name}: strangers",
        f"all in full {full:.2f} %, all as deltas {delta:.2f} %",
        f"{kept:.2f} %",
        "never above the full form",
        met=sizes["kept_bytes"] <= sizes["full_bytes"],
    )
