"""How results of a race of codecs are put into words and into the tables of the README."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks import own_forms
from benchmarks.race import Result
from benchmarks.report import Row
from p2psync.limits import MIB

_MEMORY_MIB_MAX = 16


@dataclass(frozen=True, slots=True)
class Beside:
    """All results on one sample. ``ours_there`` is our size, in per cent, on the part that a slow peer was given."""

    name: str
    results: Mapping[str, Result]
    ours_there: Mapping[str, float]

    def ratio(self, peer: str) -> float:
        """Our size over that peer's, on the same bytes."""
        ours = self.ours_there.get(peer, self.results[own_forms.KEPT].percent)
        return ours / self.results[peer].percent if self.results[peer].encoded_bytes else float("inf")

    @property
    def peers(self) -> list[str]:
        """Everything that is not ours."""
        return [name for name in self.results if not own_forms.is_ours(name)]


def sizes(found: Beside, digits: int) -> str:
    """What every peer made of it, in one line, and of which part where it was not given all."""
    return ", ".join(
        f"{name} {found.results[name].percent:.{digits}f} %{_part(found, name, digits)}" for name in found.peers
    )


def rates(found: Beside, of: Callable[[Result], float]) -> str:
    """How fast every peer is, in one line; some have nothing to be timed."""
    return ", ".join(f"{name} {rate(of(found.results[name]))}" for name in found.peers if of(found.results[name]))


def shown(found: Beside) -> dict[str, Any]:
    """What the README's table of this sample is made from."""
    return {
        "sample": found.name,
        "codecs": {
            name: {
                "percent": round(result.percent, 3),
                "encode_mbs": round(result.encode_mbs, 1),
                "decode_mbs": round(result.decode_mbs, 1),
                **({"ours_there": round(found.ours_there[name], 3)} if name in found.ours_there else {}),
            }
            for name, result in found.results.items()
        },
    }


def threads_row(name: str, threads: Mapping[str, float]) -> Row:
    """What a second thread brings."""
    return Row(
        f"{name}: two threads",
        f"one: decoding {rate(threads['decode_one_mbs'])}, encoding {rate(threads['encode_one_mbs'])} on the clock",
        f"decoding {_times(threads, 'decode')}, encoding {_times(threads, 'encode')}",
        "",
        met=True,
    )


def memory_row(name: str, peaks: Iterable[Mapping[str, int]]) -> Row:
    """The memory of decoding one chunk, the most of every form."""
    most: dict[str, int] = {}
    for form, size in (item for peak in peaks for item in peak.items()):
        most[form] = max(most.get(form, 0), size)
    highest = max(most.values(), default=0) / MIB
    return Row(
        f"{name}: memory of decoding a chunk",
        ", ".join(f"{form} {size / MIB:.1f} MiB" for form, size in most.items()),
        f"{highest:.1f} MiB",
        f"<= {_MEMORY_MIB_MAX} MiB",
        met=highest <= _MEMORY_MIB_MAX,
    )


def _times(threads: Mapping[str, float], what: str) -> str:
    two = threads[f"{what}_two_mbs"]
    return f"{rate(two)} ({two / threads[f'{what}_one_mbs']:.2f}x)"


def rate(mbs: float) -> str:
    """A rate in 10^6 bytes a second."""
    return f"{mbs:,.0f} MB/s" if mbs >= 10 else f"{mbs:.1f} MB/s"


def _part(found: Beside, name: str, digits: int) -> str:
    there = found.ours_there.get(name)
    mib = found.results[name].raw_bytes / MIB
    return f" (of {mib:.0f} MiB; p2psync {there:.{digits}f} % there)" if there is not None else ""
