"""Run codecs in alternation on the same bytes: CPU seconds of every round, size, and whether it all came back."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.samples import Sample


@dataclass(frozen=True, slots=True)
class Codec:
    """One way to shrink a sample.

    Attributes:
        encode: makes whatever ``decode`` takes.
        decode: the raw bytes again, or None for a method whose decoding is no work of its own, such as dropping pieces
            that the base has.
        size: bytes of what ``encode`` made.
        rounds_max: fewer rounds than asked for, where one takes long.
    """

    encode: Callable[[], Any]
    decode: Callable[[Any], Any] | None
    size: Callable[[Any], int] = len
    rounds_max: int = 99


@dataclass(frozen=True, slots=True)
class Entry:
    """A codec in a race. What it encodes must come back as ``raw``; sizes are told in per cent of ``of_bytes``.

    The two differ where parts that did not change are not touched at all: then rates tell of the work alone.
    """

    codec: Codec
    raw: bytes
    of_bytes: int


@dataclass
class Result:
    """What one codec came to on ``raw_bytes``; CPU seconds of one core, one entry per round; and what it last made."""

    raw_bytes: int
    of_bytes: int
    encoded_bytes: int = 0
    encoded: Any = None
    encode_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)

    @property
    def percent(self) -> float:
        """Encoded size in per cent of raw."""
        return 100 * self.encoded_bytes / self.of_bytes

    @property
    def encode_mbs(self) -> float:
        """Median rate of encoding in 10^6 raw bytes per CPU second."""
        return self._rate(self.encode_s)

    @property
    def decode_mbs(self) -> float:
        """Median rate of decoding, likewise; 0 for a method that has none."""
        return self._rate(self.decode_s)

    def as_json(self) -> dict[str, Any]:
        """As it stands among the runs of a report."""
        return {
            "raw_bytes": self.raw_bytes,
            "of_bytes": self.of_bytes,
            "encoded_bytes": self.encoded_bytes,
            "percent": round(self.percent, 3),
            "encode_mbs": round(self.encode_mbs, 1),
            "decode_mbs": round(self.decode_mbs, 1),
            "encode_cpu_s": [round(s, 4) for s in self.encode_s],
            "decode_cpu_s": [round(s, 4) for s in self.decode_s],
        }

    def _rate(self, seconds: Sequence[float]) -> float:
        middle = statistics.median(seconds) if seconds else 0.0
        return self.raw_bytes / 1e6 / middle if middle else 0.0


def entries(codecs: Mapping[str, Codec], sample: Sample, whole: Sample | None = None) -> dict[str, Entry]:
    """Codecs of one sample as they enter a race; ``whole`` is what their sizes are told in per cent of."""
    of_bytes = len((whole or sample).payload)
    return {name: Entry(codec, sample.payload, of_bytes) for name, codec in codecs.items()}


def run(entries: Mapping[str, Entry], rounds: int) -> dict[str, Result]:
    """Every codec once per round, in an order that turns with the rounds.

    Raises:
        RuntimeError: one did not give back the bytes that went in.
    """
    results = {name: Result(len(entry.raw), entry.of_bytes) for name, entry in entries.items()}
    for number in range(rounds):
        turn = list(entries.items())
        for name, entry in turn if number % 2 == 0 else turn[::-1]:
            if number < entry.codec.rounds_max:
                _once(name, entry, results[name])
    return results


def _once(name: str, entry: Entry, result: Result) -> None:
    began = cpu_s()
    encoded = entry.codec.encode()
    result.encode_s.append(cpu_s() - began)
    result.encoded, result.encoded_bytes = encoded, entry.codec.size(encoded)
    if entry.codec.decode is None:
        return
    began = cpu_s()
    decoded = entry.codec.decode(encoded)
    result.decode_s.append(cpu_s() - began)
    if (b"".join(decoded) if isinstance(decoded, list) else decoded) != entry.raw:
        raise RuntimeError(f"{name} gave back other bytes")


def cpu_s() -> float:
    """CPU seconds that this process and all its ended children have used."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def wall_s(work: Callable[[], Any], rounds: int) -> float:
    """Median seconds on the clock."""
    taken = []
    for _ in range(rounds):
        began = time.monotonic()
        work()
        taken.append(time.monotonic() - began)
    return statistics.median(taken)
