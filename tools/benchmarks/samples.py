"""The bytes that codecs are measured on: the tensors of one type of a model, or of a pair, in chunks as they travel."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import weights
from p2psync.limits import MIB

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Chunk:
    """At most 1 MiB of a tensor, and what stands there in the base; ``base`` is empty where there is none."""

    tensor: str
    first_byte: int
    raw: Bytes
    base: Bytes

    @property
    def changed(self) -> bool:
        """Whether it has to move at all."""
        return self.raw.size != self.base.size or not np.array_equal(self.raw, self.base)


@dataclass(frozen=True)
class Sample:
    """Chunks of one type. ``tensors`` and ``base`` hold them as a model file would."""

    name: str
    dtype: str
    tensors: Mapping[str, weights.Weights]
    base: Mapping[str, weights.Weights]
    chunks: Sequence[Chunk]

    @cached_property
    def payload(self) -> bytes:
        """All chunks, one after another."""
        return b"".join(chunk.raw.tobytes() for chunk in self.chunks)

    @cached_property
    def base_payload(self) -> bytes:
        """What stands in their places in the base."""
        return b"".join(chunk.base.tobytes() for chunk in self.chunks)

    def part(self, count: int) -> Sample:
        """``count`` whole chunks, evenly spread, as tensors of their own; the sample itself where it has no more."""
        whole = [chunk for chunk in self.chunks if chunk.raw.size == MIB]
        if len(whole) <= count:
            return self
        # The middle of each of `count` equal stretches.
        picked = [whole[(2 * number + 1) * len(whole) // (2 * count)] for number in range(count)]
        return self._of(picked, f"{self.name}, {count} MiB of it")

    def changed(self) -> Sample:
        """The chunks that have to move."""
        return self._of([chunk for chunk in self.chunks if chunk.changed], self.name)

    def only(self, names: Container[str]) -> Sample:
        """The chunks of those tensors, whose names they keep."""
        return replace(self, chunks=[chunk for chunk in self.chunks if chunk.tensor in names])

    def thinned(self, step: int) -> Sample:
        """Every ``step``-th chunk, for a quick look."""
        return self if step == 1 else self._of(self.chunks[::step], self.name)

    def _of(self, chunks: Sequence[Chunk], name: str) -> Sample:
        tensors, base = {}, {}
        for chunk in chunks:
            place = f"{chunk.tensor}.{chunk.first_byte}"
            tensors[place] = self._tensor(chunk.raw)
            base[place] = self._tensor(chunk.base)
        return Sample(name, self.dtype, tensors, base, chunks)

    def _tensor(self, data: Bytes) -> weights.Weights:
        return weights.Weights(self.dtype, (data.size // ELEMENT_BYTES[self.dtype],), data)


# Of the types that pairs are made in.
ELEMENT_BYTES: Mapping[str, int] = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "I8": 1}
_FILES: Mapping[str, str] = {"BF16": "bf16", "F16": "f16", "F32": "f32", "F8_E4M3": "fp8", "I8": "int8"}


def load(name: str, dtype: str, version: Path, base: Path | None = None) -> Sample:
    """The tensors of ``dtype`` of a version that tools/make_pairs.py made, beside those of its base."""
    tensors = _of_type(version, dtype)
    old = _of_type(base, dtype) if base is not None else {}
    chunks: list[Chunk] = []
    for tensor, found in tensors.items():
        before = old[tensor].data if tensor in old else found.data[:0]
        chunks += [
            Chunk(tensor, begin, found.data[begin : begin + MIB], before[begin : begin + MIB])
            for begin in range(0, found.data.size, MIB)
        ]
    return Sample(name, dtype, tensors, old, chunks)


def everything(version: Path, dtype: str) -> dict[str, weights.Weights]:
    """All tensors of the file for ``dtype``: beside those of the type, scales in F32 and vectors in BF16."""
    return weights.read(version / f"{_FILES[dtype]}.safetensors")


def _of_type(version: Path, dtype: str) -> dict[str, weights.Weights]:
    return {name: tensor for name, tensor in everything(version, dtype).items() if tensor.dtype == dtype}
