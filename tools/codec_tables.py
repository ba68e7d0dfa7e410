"""The README's tables of full forms and of deltas, made from what tools/bench.py measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

OURS = "p2psync"
# The types whose every peer is shown; of the others only the best one is.
_SHOWN_WHOLE = ("bf16", "int8")
_BRACKETS = "In brackets: p2psync on the same part, where a slow peer was given only a part."
_CELLS = "Size in per cent of raw, then encoding / decoding in MB/s of one core."

Json = Mapping[str, Any]


def full_forms(benchmark: Json) -> str:
    """One table with a column per type and a row per codec, and one with the bounds."""
    groups: Mapping[str, Json] = benchmark["groups"]
    samples = [group["summary"] for group in groups.values() if "codecs" in group["summary"]]
    parts = [_peers(samples), f"{_CELLS} {_BRACKETS}", _bounds(groups.values())]
    return "\n\n".join(parts)


def deltas(benchmark: Json) -> str:
    """For the types shown whole a table with a column per pair, for the others the best peer alone, and the bounds."""
    groups: Mapping[str, Json] = benchmark["groups"]
    sampled = {name: group["summary"]["samples"] for name, group in groups.items() if "samples" in group["summary"]}
    parts = [_peers(samples) for name, samples in sampled.items() if name in _SHOWN_WHOLE]
    parts.append(f"{_CELLS} {_BRACKETS}")
    others = [sample for name, samples in sampled.items() if name not in _SHOWN_WHOLE for sample in samples]
    if others:
        parts.append(_best(others))
    parts.append(_bounds(groups.values()))
    return "\n\n".join(parts)


def _peers(samples: Sequence[Json]) -> str:
    codecs = list(dict.fromkeys(name for sample in samples for name in sample["codecs"]))
    lines = [f"| | {' | '.join(sample['sample'] for sample in samples)} |", "|---" * (len(samples) + 1) + "|"]
    for codec in codecs:
        cells = [_cell(sample["codecs"].get(codec)) for sample in samples]
        name = f"**{codec}**" if codec == OURS else codec
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(result: Json | None) -> str:
    if result is None:
        return ""
    there = f" ({_size(result['ours_there'])})" if "ours_there" in result else ""
    decoding = f" / {_rate(result['decode_mbs'])}" if result["decode_mbs"] else ""
    return f"{_size(result['percent'])} %{there}, {_rate(result['encode_mbs'])}{decoding}"


def _best(samples: Sequence[Json]) -> str:
    lines = ["| | p2psync | smallest beside it |", "|---|---|---|"]
    for sample in samples:
        peers = {name: result for name, result in sample["codecs"].items() if not name.startswith(OURS)}
        best = min(peers, key=lambda name: peers[name]["percent"])
        lines.append(f"| {sample['sample']} | {_cell(sample['codecs'][OURS])} | {best}: {_cell(peers[best])} |")
    return "\n".join(lines)


def _bounds(groups: Iterable[Json]) -> str:
    lines = ["| | p2psync | must be | |", "|---|---|---|---|"]
    for row in (row for group in groups for row in group["table"] if row["bound"]):
        verdict = "met" if row["met"] else "missed"
        lines.append(f"| {row['what']} | **{row['ours']}** | {row['bound']} | {verdict} |")
    return "\n".join(lines)


def _size(percent: float) -> str:
    return f"{percent:.1f}" if percent >= 10 else f"{percent:.2f}" if percent >= 1 else f"{percent:.3f}"


def _rate(mbs: float) -> str:
    return f"{mbs:.0f}" if mbs >= 10 else f"{mbs:.1f}"
