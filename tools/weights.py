"""Whole safetensors files as arrays of bytes, whatever numpy knows of their types."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Weights:
    """One tensor: its safetensors type, its shape in elements, and its little-endian bytes in C order."""

    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    @property
    def row_elements(self) -> int:
        """Elements of one row, which is everything but the first axis; a vector is one row."""
        return math.prod(self.shape[1:]) if len(self.shape) > 1 else math.prod(self.shape)


def read(path: Path) -> dict[str, Weights]:
    """Every tensor of a file, in file order, each a view of one buffer."""
    raw = np.fromfile(path, np.uint8)
    (length,) = struct.unpack("<Q", raw[:8].tobytes())
    entries = json.loads(raw[8 : 8 + length].tobytes())
    entries.pop("__metadata__", None)
    ordered = sorted(entries.items(), key=lambda item: item[1]["data_offsets"])
    body = raw[8 + length :]
    return {
        name: Weights(entry["dtype"], tuple(entry["shape"]), body[slice(*entry["data_offsets"])])
        for name, entry in ordered
    }


def write(path: Path, tensors: Mapping[str, Weights]) -> None:
    """Write a safetensors file whose tensors stand in the order given; it has its name only once it is whole."""
    entries, offset = {}, 0
    for name, tensor in tensors.items():
        end = offset + tensor.data.nbytes
        entries[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as out:
        out.write(struct.pack("<Q", len(header)) + header)
        for tensor in tensors.values():
            out.write(tensor.data.tobytes())
    unfinished.rename(path)
