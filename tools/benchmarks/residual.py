"""From INT8 to BF16: what a node that holds the INT8 variant of a model has to fetch for the BF16 one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import own_forms, race, samples
from benchmarks.report import Bench, Group, Row
from benchmarks.samples import Bytes, Chunk
from benchmarks.shown import rate
from p2psync import codec

_PERCENT_MAX = 25.0
# Of INT8 and residual together over BF16 alone, in bits per weight.
_EXTRA_BITS_MAX = 0.4
_WIDTH = 2


@dataclass(frozen=True, slots=True)
class _Scaled:
    """The INT8 codes of a tensor, its scales, and the elements that share one."""

    codes: Bytes
    scales: Bytes
    row_elements: int

    def bases(self, chunk: Chunk) -> Sequence[memoryview]:
        """What a BF16 chunk of the same tensor is decoded against."""
        first = chunk.first_byte // _WIDTH
        return [self.codes[first : first + chunk.raw.size // _WIDTH].data, self.scales.data]

    def encode(self, chunk: Chunk) -> bytes | None:
        """The residual of a BF16 chunk, or its full form where that is shorter or there is no residual."""
        codes, scales = self.bases(chunk)
        first = chunk.first_byte // _WIDTH
        made = codec.encode_residual(chunk.raw.data, codes, scales, self.row_elements, first, "BF16")
        full = codec.encode_full(chunk.raw.data, "BF16")
        return min((one for one in (made, full) if one is not None), key=len, default=None)


def group(bench: Bench, base: Path) -> Group:
    """Every tensor that has an INT8 twin."""
    bf16, int8 = (samples.load("MiniLM", dtype, base).thinned(bench.shrink) for dtype in ("BF16", "I8"))
    scaled = _scaled(base)
    twins = bf16.only(scaled)
    upgrade = own_forms.Way(
        lambda chunk: scaled[chunk.tensor].encode(chunk), lambda chunk: scaled[chunk.tensor].bases(chunk)
    )
    ways = {"residual": (upgrade, twins), "BF16": (own_forms.full_way("BF16"), twins)}
    ways["INT8"] = (own_forms.full_way("I8"), int8.only(scaled))
    entries: dict[str, race.Entry] = {}
    for name, (way, sample) in ways.items():
        entries |= race.entries({name: way.over(sample)}, sample)
    results = race.run(entries, bench.rounds)
    sent = results["residual"].encoded
    forms = own_forms.forms(sent, twins)
    peak = own_forms.memory(upgrade, twins, sent, bench.folder("residual-memory"))
    runs = [{"codec": name, **result.as_json()} for name, result in results.items()]
    bits = {name: _WIDTH_BITS[name] * result.percent / 100 for name, result in results.items()}
    summary = {"bits_per_weight": bits, "forms": forms, "decode_peak_bytes": peak}
    return Group(runs, summary, _rows(results, bits))


_WIDTH_BITS = {"residual": 16, "BF16": 16, "INT8": 8}


def _scaled(base: Path) -> dict[str, _Scaled]:
    found = samples.everything(base, "I8")
    return {
        name: _Scaled(tensor.data, found[f"{name}.scale"].data, tensor.row_elements)
        for name, tensor in found.items()
        if tensor.dtype == "I8"
    }


def _rows(results: dict[str, race.Result], bits: dict[str, float]) -> list[Row]:
    residual, full = results["residual"], results["BF16"]
    both = bits["INT8"] + bits["residual"]
    return [
        Row(
            "MiniLM, INT8 to BF16: size of the residual",
            f"BF16 in full {full.percent:.2f} %",
            f"{residual.percent:.2f} % of raw BF16",
            f"<= {_PERCENT_MAX:g} %",
            met=residual.percent <= _PERCENT_MAX,
        ),
        Row(
            "MiniLM, INT8 and residual together",
            f"BF16 alone {bits['BF16']:.2f} bit a weight",
            f"{both:.2f} bit a weight",
            f"<= BF16 alone + {_EXTRA_BITS_MAX:g} bit",
            met=both <= bits["BF16"] + _EXTRA_BITS_MAX,
        ),
        Row(
            "MiniLM, INT8 to BF16: speed, one core",
            f"BF16 in full: decoding {rate(full.decode_mbs)}, encoding {rate(full.encode_mbs)}",
            f"decoding {rate(residual.decode_mbs)}, encoding {rate(residual.encode_mbs)}",
            "",
            met=True,
        ),
    ]
