"""Full forms: what a model of each type takes on the wire and on the CPU, beside compressors on the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import make_pairs
from benchmarks import full_peers, own_forms, race, samples
from benchmarks.report import Bench, Group, Row
from benchmarks.shown import Beside, memory_row, rate, rates, shown, sizes, threads_row

_SIZE_PERCENT_MAX = {"BF16": 66.7, "F16": 85.0, "F32": 83.0, "I8": 91.5}
_DECODE_MBS_MIN = 1000
_ENCODE_MBS_MIN = 600
# As `tools/bench.py codec --only` names them.
_GROUPS = {"bf16": "BF16", "f16": "F16", "f32": "F32", "fp8": "F8_E4M3", "int8": "I8"}


def questions(pairs: Path) -> dict[str, Callable[[Bench], Group]]:
    """The groups of this benchmark; ``pairs`` is what tools/make_pairs.py made."""
    base = pairs / "minilm" / make_pairs.BASE

    def asking(dtype: str) -> Callable[[Bench], Group]:
        return lambda bench: _full(bench, samples.load(f"MiniLM, {dtype}", dtype, base).thinned(bench.shrink))

    return {name: asking(dtype) for name, dtype in _GROUPS.items()}


def _full(bench: Bench, sample: samples.Sample) -> Group:
    part, ours = sample.part(full_peers.SLICE_CHUNKS), own_forms.full_way(sample.dtype)
    slow = full_peers.sliced(part)
    entries = {
        **race.entries({own_forms.KEPT: ours.over(sample)}, sample),
        **race.entries(full_peers.whole(sample, bench.folder(sample.dtype)), sample),
        **race.entries(slow, part),
    }
    results = race.run(entries, bench.rounds)
    there = 100 * own_forms.total(ours.over(part).encode()) / len(part.payload)
    found = Beside(sample.name, results, dict.fromkeys(slow, there))
    sent = results[own_forms.KEPT].encoded
    threads = own_forms.with_threads(ours, sample, sent, bench.rounds)
    peak = own_forms.memory(ours, sample, sent, bench.folder(f"{sample.dtype}-memory"))
    summary = {**shown(found), "forms": own_forms.forms(sent, sample), "threads": threads, "decode_peak_bytes": peak}
    runs = [{"codec": name, **result.as_json()} for name, result in results.items()]
    rows = [*_bounded(found, sample.dtype), threads_row(sample.name, threads), memory_row(sample.name, [peak])]
    return Group(runs, summary, rows)


def _bounded(found: Beside, dtype: str) -> list[Row]:
    ours, size_max = found.results[own_forms.KEPT], _SIZE_PERCENT_MAX.get(dtype)
    bounded = size_max is not None
    return [
        Row(
            f"{found.name}: size of the full form",
            sizes(found, 1),
            f"{ours.percent:.2f} %",
            f"<= {size_max:g} %" if bounded else "",
            met=size_max is None or ours.percent <= size_max,
        ),
        Row(
            f"{found.name}: decoding, one core",
            rates(found, lambda result: result.decode_mbs),
            rate(ours.decode_mbs),
            f">= {rate(_DECODE_MBS_MIN)}" if bounded else "",
            met=not bounded or ours.decode_mbs >= _DECODE_MBS_MIN,
        ),
        Row(
            f"{found.name}: encoding, one core",
            rates(found, lambda result: result.encode_mbs),
            rate(ours.encode_mbs),
            f">= {rate(_ENCODE_MBS_MIN)}" if bounded else "",
            met=not bounded or ours.encode_mbs >= _ENCODE_MBS_MIN,
        ),
    ]
