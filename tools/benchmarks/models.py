"""Make the model files that are measured: seeded noise in safetensors, and the same tensors in another arrangement."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_PIECE_BYTES = 1 << 24
_ROW = 4096


@dataclass(frozen=True, slots=True)
class Tensor:
    """A BF16 matrix of ``rows`` x 4096, or a vector when ``rows`` is 0."""

    name: str
    rows: int

    @property
    def shape(self) -> list[int]:
        """In elements."""
        return [self.rows, _ROW] if self.rows else [_ROW]

    @property
    def length(self) -> int:
        """Bytes."""
        return 2 * _ROW * max(self.rows, 1)


def transformer(total_bytes: int) -> list[Tensor]:
    """Tensors of about ``total_bytes``, as a transformer has them: in each layer big matrices and a small vector."""
    tensors, layer, left = [], 0, total_bytes
    while left > 0:
        for part, most in (("attn.qkv", 3072), ("attn.out", 1024), ("ffn.up", 3584), ("ffn.down", 3584)):
            rows = min(most, left // (2 * _ROW))
            if rows:
                tensors.append(Tensor(f"layers.{layer}.{part}.weight", rows))
                left -= tensors[-1].length
        tensors.append(Tensor(f"layers.{layer}.norm.weight", 0))
        left -= tensors[-1].length
        layer += 1
    return tensors


def header(tensors: list[Tensor], metadata: Mapping[str, str]) -> bytes:
    """The length and the JSON that open a safetensors file of these tensors in this order."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": "BF16",
            "shape": tensor.shape,
            "data_offsets": [offset, offset + tensor.length],
        }
        offset += tensor.length
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write(path: Path, tensors: list[Tensor], seed: int, *, metadata: Mapping[str, str] | None = None) -> int:
    """Write a safetensors file. A tensor's bytes depend on its name and the seed alone, never on its place.

    Returns:
        Bytes of the header.
    """
    head = header(tensors, metadata or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        out.write(head)
        for tensor in tensors:
            for piece in _noise(tensor, seed):
                out.write(piece)
    return len(head)


def _noise(tensor: Tensor, seed: int) -> Iterator[bytes]:
    import numpy as np

    random = np.random.default_rng([seed, *tensor.name.encode()])
    for begin in range(0, tensor.length, _PIECE_BYTES):
        yield random.bytes(min(_PIECE_BYTES, tensor.length - begin))
