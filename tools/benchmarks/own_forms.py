"""Our own forms as entries of a race: what is kept, each delta form alone, with threads, and the memory of decoding."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import race
from benchmarks.samples import Chunk, Sample
from p2psync import codec
from p2psync.codec import Form, difference, sparse, tight
from p2psync.codec.layout import LAYOUTS

KEPT = "p2psync"
FAST = f"{KEPT}, difference or sparse"
_SPARSE, _DIFFERENCE, _TIGHT = (Form.SPARSE, sparse), (Form.DIFFERENCE, difference), (Form.TIGHT, tight)
# Forms that make up a way of their own: the smallest of them is taken.
_ALONE: Mapping[str, tuple[tuple[Form, Any], ...]] = {
    f"{KEPT}, tight": (_TIGHT,),
    FAST: (_DIFFERENCE, _SPARSE),
    f"{KEPT}, difference": (_DIFFERENCE,),
    f"{KEPT}, sparse": (_SPARSE,),
}
_DECODE_ONE = Path(__file__).with_name("decode_one.py")


# Chunks as they travel, one for each of a sample.
Sent = Sequence[bytes | memoryview]
_FULL_FORMS = frozenset({Form.PLANES, Form.PACKED, Form.NARROW})


@dataclass(frozen=True, slots=True)
class Way:
    """How a chunk travels. ``encode`` gives None where the way makes nothing shorter than the chunk.

    ``bases`` are what a delta is decoded against; a full form needs none.
    """

    encode: Callable[[Chunk], bytes | None]
    bases: Callable[[Chunk], Sequence[memoryview]]

    def send(self, chunk: Chunk) -> bytes | memoryview:
        """What travels: the encoded chunk, or the chunk."""
        made = self.encode(chunk)
        return chunk.raw.data if made is None else made

    def receive(self, sent: bytes | memoryview, chunk: Chunk) -> bytes | bytearray | memoryview:
        """The chunk again. What is encoded is always shorter than the chunk."""
        size = chunk.raw.size
        return sent if len(sent) == size else codec.decode(sent, self.needed(sent, chunk), size)

    def needed(self, sent: bytes | memoryview, chunk: Chunk) -> Sequence[memoryview]:
        """What an encoded chunk is decoded against."""
        return [] if sent[0] in _FULL_FORMS else self.bases(chunk)

    def over(self, sample: Sample) -> race.Codec:
        """All chunks of a sample, one after another."""
        return race.Codec(
            lambda: [self.send(chunk) for chunk in sample.chunks],
            lambda sent: [self.receive(one, chunk) for one, chunk in zip(sent, sample.chunks, strict=True)],
            total,
        )


def is_ours(name: str) -> bool:
    """Whether a result of a race is one of these."""
    return name.startswith(KEPT)


def total(sent: Sent) -> int:
    """Bytes that travel."""
    return sum(map(len, sent))


def full_way(dtype: str) -> Way:
    """The full form."""
    return Way(lambda chunk: codec.encode_full(chunk.raw.data, dtype), lambda _: [])


def delta_way(dtype: str) -> Way:
    """The delta that is kept, or the full form where no delta is shorter than the chunk."""

    def encode(chunk: Chunk) -> bytes | None:
        made = codec.encode_delta(chunk.raw.data, chunk.base.data, dtype)
        return codec.encode_full(chunk.raw.data, dtype) if made is None else made

    return Way(encode, _base)


def alone_ways(dtype: str) -> dict[str, Way]:
    """Each form of delta alone, and the two fast ones; a chunk that none of a way's forms can take travels in full."""
    return {name: _alone(dtype, parts) for name, parts in _ALONE.items()}


def _alone(dtype: str, parts: Sequence[tuple[Form, Any]]) -> Way:
    layout = LAYOUTS[dtype]

    def encode(chunk: Chunk) -> bytes | None:
        bodies = [(form, module.encode(chunk.raw.data, chunk.base.data, layout)) for form, module in parts]
        made = [bytes([form, layout.code]) + body for form, body in bodies if body is not None]
        best = min(made, key=len, default=None)
        return best if best and len(best) < chunk.raw.size else codec.encode_full(chunk.raw.data, dtype)

    return Way(encode, _base)


def _base(chunk: Chunk) -> Sequence[memoryview]:
    return [chunk.base.data]


def forms(sent: Sent, sample: Sample) -> dict[str, int]:
    """How many chunks travel in each form."""
    found = [_form(one, chunk) for one, chunk in zip(sent, sample.chunks, strict=True)]
    return {("RAW" if form is None else form.name): found.count(form) for form in dict.fromkeys(found)}


def _form(sent: bytes | memoryview, chunk: Chunk) -> Form | None:
    return None if len(sent) == chunk.raw.size else Form(sent[0])


def taken(name: str, sent: Sent, sample: Sample) -> float:
    """The share of the raw bytes that travels in the forms of a way, of what one of ``alone_ways`` made."""
    own = [form for form, _module in _ALONE[name]]
    in_form = (chunk.raw.size for one, chunk in zip(sent, sample.chunks, strict=True) if _form(one, chunk) in own)
    return sum(in_form) / len(sample.payload)


def with_threads(way: Way, sample: Sample, sent: Sent, rounds: int) -> dict[str, float]:
    """Median rates on the clock, in 10^6 raw bytes a second, with one thread and with two, of coding whole samples."""
    raw_mb = len(sample.payload) / 1e6
    found: dict[str, float] = {}
    for count, name in ((1, "one"), (2, "two")):
        with ThreadPoolExecutor(count) as pool:
            decoding_s = race.wall_s(functools.partial(_mapped, pool, way.receive, sent, sample.chunks), rounds)
            encoding_s = race.wall_s(functools.partial(_mapped, pool, way.send, sample.chunks), min(rounds, 2))
            found |= {f"decode_{name}_mbs": raw_mb / decoding_s, f"encode_{name}_mbs": raw_mb / encoding_s}
    return {name: round(value, 1) for name, value in found.items()}


def _mapped(pool: ThreadPoolExecutor, work: Callable[..., Any], *of: Sequence[Any]) -> None:
    list(pool.map(work, *of))


def memory(way: Way, sample: Sample, sent: Sent, work: Path) -> dict[str, int]:
    """By how much the resident memory of a process grows at the most while it decodes one chunk, in bytes by form.

    Of each form the chunk of the most raw bytes is taken, and among those the largest as it travels.
    """
    coded = [pair for pair in zip(sent, sample.chunks, strict=True) if len(pair[0]) < pair[1].raw.size]
    found = {}
    for form in sorted({one[0] for one, _chunk in coded}):
        of_form = [pair for pair in coded if pair[0][0] == form]
        largest, chunk = max(of_form, key=lambda pair: (pair[1].raw.size, len(pair[0])))
        written = (largest, chunk.raw.data, *way.needed(largest, chunk))
        files = [work / f"{form}-{number}" for number in range(len(written))]
        for file, data in zip(files, written, strict=True):
            file.write_bytes(data)
        argv = [sys.executable, str(_DECODE_ONE), *map(str, files)]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
        found[Form(form).name] = int(done.stdout)
    return found
