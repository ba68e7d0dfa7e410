"""Deltas: what an update of a fine-tuned model takes on the wire and on the CPU, beside patchers on the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import make_pairs
from benchmarks import delta_peers, own_forms, race, residual, samples, strangers
from benchmarks.delta_peers import RANGE_CODER
from benchmarks.full_peers import SLICE_CHUNKS
from benchmarks.report import Bench, Group, Row
from benchmarks.samples import Sample
from benchmarks.shown import Beside, memory_row, rate, rates, shown, sizes, threads_row

_RANGE_CODER_TIMES_MAX = {"tuned": 0.92}
_RANGE_CODER_TIMES_MAX_ELSE = 1.01
_DECODE_MBS_MIN = 400
_RANGE_CODER_DECODE_TIMES_MIN = 3.0
_FAST_MBS_MIN = 1000
_FAST_SIZE_TIMES_MAX = 1.5
_ENCODE_MBS_MIN = 40
_ZSTD_TIMES_MAX = 0.90
_INT8_MBS_MIN = 1000
# What has no bound is told from fewer rounds.
_TOLD_ROUNDS = 2
_OTHERS = {"f16": "F16", "f32": "F32", "fp8": "F8_E4M3"}
# A form that cannot take more of a pair than this is not shown alone: what it leaves would say nothing of it.
_TAKEN_MIN = 0.9
# What the README calls each fine-tune.
_WORDS = {
    "one-step": "one step at 3e-6",
    "tuned": "60 steps at 2e-5",
    "hard-tuned": "60 steps at 1e-4",
    "last-two-layers": "last two of six layers, 60 steps at 2e-5",
}


@dataclass(frozen=True, slots=True)
class _Pair:
    """One fine-tune of one type, and what came out of the race on it."""

    name: str
    found: Beside
    forms: Mapping[str, int]
    threads: Mapping[str, float]
    peak: Mapping[str, int]

    @property
    def ours(self) -> race.Result:
        """What is kept."""
        return self.found.results[own_forms.KEPT]


def questions(pairs: Path) -> dict[str, Callable[[Bench], Group]]:
    """The groups of this benchmark; ``pairs`` is what tools/make_pairs.py made."""
    minilm = pairs / "minilm"
    others = {name: _asking(minilm, dtype, _others, _bare) for name, dtype in _OTHERS.items()}
    return {
        "bf16": _asking(minilm, "BF16", _everybody, _bf16_rows),
        "int8": _asking(minilm, "I8", _of_integers, _int8_rows),
        **others,
        "residual": lambda bench: residual.group(bench, minilm / make_pairs.BASE),
        "strangers": lambda _: strangers.group(pairs),
    }


def _asking(
    folder: Path, dtype: str, peers: Callable[[Sample, Path], _Peers], rows: Callable[[_Pair], list[Row]]
) -> Callable[[Bench], Group]:
    def ask(bench: Bench) -> Group:
        found = []
        for name in make_pairs.TUNINGS:
            label = f"{_WORDS[name]}, {dtype}"
            sample = samples.load(label, dtype, folder / name, folder / make_pairs.BASE).thinned(bench.shrink)
            found.append(_race(name, sample, peers(sample, bench.folder(f"{dtype}-{name}")), bench))
        runs = [
            {"pair": pair.name, "dtype": dtype, "codec": name, **result.as_json()}
            for pair in found
            for name, result in pair.found.results.items()
        ]
        table = [row for pair in found for row in rows(pair)]
        table.append(memory_row(f"deltas of {dtype}", [pair.peak for pair in found]))
        return Group(runs, {"samples": [_shown(pair) for pair in found]}, table)

    return ask


@dataclass(frozen=True, slots=True)
class _Peers:
    """The entries beside ours, for those on a part what that part is, and how often all of it is run."""

    entries: Mapping[str, race.Entry]
    parts: Mapping[str, Sample]
    rounds_max: int = 99


def _everybody(sample: Sample, work: Path) -> _Peers:
    part, least = sample.part(SLICE_CHUNKS), sample.part(delta_peers.SLOWEST_CHUNKS)
    slow, slowest = delta_peers.sliced(part, work), delta_peers.slowest(least)
    return _Peers(
        {
            **_by_chunks(sample),
            **race.entries(delta_peers.for_weights(sample, work), sample),
            **race.entries(delta_peers.for_bytes(sample, work), sample),
            **race.entries(slow, part),
            **race.entries(slowest, least),
        },
        {**dict.fromkeys(slow, part), **dict.fromkeys(slowest, least)},
    )


def _of_integers(sample: Sample, work: Path) -> _Peers:
    found = {
        **delta_peers.zstd_forms(sample),
        **delta_peers.for_weights(sample, work),
        **delta_peers.for_bytes(sample, work),
    }
    return _Peers(race.entries(found, sample), {})


def _others(sample: Sample, work: Path) -> _Peers:
    found = {**delta_peers.for_weights(sample, work), **delta_peers.patched(sample, work)}
    return _Peers({**_by_chunks(sample), **race.entries(found, sample)}, {}, _TOLD_ROUNDS)


def _by_chunks(sample: Sample) -> dict[str, race.Entry]:
    # Like ours it takes chunk by chunk, and like ours it is spared those that did not change.
    changed = sample.changed()
    return race.entries(delta_peers.range_coder_of(changed), changed, sample)


def _race(name: str, sample: Sample, peers: _Peers, bench: Bench) -> _Pair:
    changed, way = sample.changed(), own_forms.delta_way(sample.dtype)
    alone = own_forms.alone_ways(sample.dtype)
    ours = {own_forms.KEPT: way, **alone}
    entries = race.entries({name: way.over(changed) for name, way in ours.items()}, changed, sample)
    rounds = min(bench.rounds, peers.rounds_max)
    results = race.run({**entries, **peers.entries}, rounds)
    shares = {}
    for peer, part in peers.parts.items():
        shares[peer] = 100 * own_forms.total(way.over(part.changed()).encode()) / len(part.payload)
    sent = results[own_forms.KEPT].encoded
    unfit = {name for name in alone if own_forms.taken(name, results[name].encoded, changed) < _TAKEN_MIN}
    return _Pair(
        name,
        Beside(sample.name, {name: result for name, result in results.items() if name not in unfit}, shares),
        own_forms.forms(sent, changed),
        own_forms.with_threads(way, changed, sent, rounds),
        own_forms.memory(way, changed, sent, bench.folder(f"{sample.dtype}-{name}-memory")),
    )


def _shown(pair: _Pair) -> dict[str, object]:
    more = {"forms": pair.forms, "threads": pair.threads, "decode_peak_bytes": pair.peak}
    return {"pair": pair.name, **shown(pair.found), **more}


def _bf16_rows(pair: _Pair) -> list[Row]:
    found, ours, fast = pair.found, pair.ours, pair.found.results[own_forms.FAST]
    coder = found.results[RANGE_CODER]
    times_max = _RANGE_CODER_TIMES_MAX.get(pair.name, _RANGE_CODER_TIMES_MAX_ELSE)
    smaller = all(found.ratio(peer) < 1 for peer in found.peers if peer != RANGE_CODER)
    times = found.ratio(RANGE_CODER)
    faster = ours.decode_mbs / coder.decode_mbs
    quick = fast.percent / ours.percent
    name = found.name
    return [
        Row(
            f"{name}: size of the delta",
            sizes(found, 2),
            f"{ours.percent:.2f} %, {times:.3f}x the range coder",
            f"<= {times_max:g}x the range coder, below all others",
            met=times <= times_max and smaller,
        ),
        Row(
            f"{name}: decoding the delta, one core",
            rates(found, lambda result: result.decode_mbs),
            f"{rate(ours.decode_mbs)}, {faster:.1f}x the range coder",
            f">= {rate(_DECODE_MBS_MIN)}, >= {_RANGE_CODER_DECODE_TIMES_MIN:g}x the range coder",
            met=ours.decode_mbs >= _DECODE_MBS_MIN and faster >= _RANGE_CODER_DECODE_TIMES_MIN,
        ),
        Row(
            f"{name}: the fast forms, whichever of both is smaller",
            f"the form that is kept: {ours.percent:.2f} %, {rate(ours.decode_mbs)}",
            f"{fast.percent:.2f} %, {quick:.2f}x; decoding {rate(fast.decode_mbs)}",
            f">= {rate(_FAST_MBS_MIN)} at <= {_FAST_SIZE_TIMES_MAX:g}x the size",
            met=fast.decode_mbs >= _FAST_MBS_MIN and quick <= _FAST_SIZE_TIMES_MAX,
        ),
        Row(
            f"{name}: encoding the delta, one core",
            rates(found, lambda result: result.encode_mbs),
            rate(ours.encode_mbs),
            f">= {rate(_ENCODE_MBS_MIN)}",
            met=ours.encode_mbs >= _ENCODE_MBS_MIN,
        ),
        threads_row(name, pair.threads),
    ]


def _int8_rows(pair: _Pair) -> list[Row]:
    found, ours = pair.found, pair.ours
    best = min((peer for peer in found.peers if peer.startswith("zstd")), key=lambda peer: found.results[peer].percent)
    return [
        Row(
            f"{found.name}: size of the delta",
            sizes(found, 3),
            f"{ours.percent:.3f} %, {found.ratio(best):.3f}x {best}",
            f"<= {_ZSTD_TIMES_MAX:.2f}x the best of zstd",
            met=found.ratio(best) <= _ZSTD_TIMES_MAX,
        ),
        Row(
            f"{found.name}: decoding the delta, one core",
            rates(found, lambda result: result.decode_mbs),
            rate(ours.decode_mbs),
            f">= {rate(_INT8_MBS_MIN)}",
            met=ours.decode_mbs >= _INT8_MBS_MIN,
        ),
        threads_row(found.name, pair.threads),
    ]


def _bare(pair: _Pair) -> list[Row]:
    found, ours = pair.found, pair.ours
    ours_text = f"{ours.percent:.2f} %; decoding {rate(ours.decode_mbs)}, encoding {rate(ours.encode_mbs)}"
    return [Row(f"{found.name}: the delta", sizes(found, 2), ours_text, "", met=True)]
