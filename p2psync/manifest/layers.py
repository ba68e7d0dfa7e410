"""Hides which layer each tensor and each chunk of a version belongs to, and how what became of them adds up.

A layer is the tensors whose names share a beginning that ends with a number, in whichever files they stand. What is no
tensor (a header, gaps, a file without tensors) is counted under the path of its file. So every byte of a version
belongs to one layer, and sums over layers are those of the version.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from p2psync.content import BlobKind, Digest
from p2psync.manifest.model import Blob, File, Manifest

# "blocks.12.attn1.to_q.weight" belongs to the layer "blocks.12"; a name without a number is its first part.
_LAYER: Final = re.compile(r"(.*?\.\d+)(?:\.|$)")
CHANGES: Final = ("equal", "moved", "changed", "added", "removed")


class LayerKind(StrEnum):
    """What a layer's name names."""

    TENSORS = "tensors"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Layer:
    """Tensors whose names begin with ``name``, or what is no tensor of the file ``name``."""

    kind: LayerKind
    name: str


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of either version, or all that is no tensor of one file, with one of ``CHANGES``.

    ``length`` counts its bytes in the newer version: 0 for what was removed.
    """

    layer: Layer
    change: str
    length: int


@dataclass(frozen=True, slots=True)
class LayerChange:
    """What becomes of a layer: added, removed or equal where all of it is, moved where the rest is equal, or changed.

    ``tensors`` counts each change. ``missing_bytes`` of its ``total_bytes`` a holder of the older version has to fetch:
    chunks that it has not, each in the layer where it stands first.
    """

    layer: Layer
    change: str
    tensors: Mapping[str, int]
    total_bytes: int
    missing_bytes: int


def layer_of(tensor: str) -> str:
    """The layer that a tensor belongs to, by its name."""
    match = _LAYER.match(tensor)
    return match[1] if match else tensor.partition(".")[0]


def tensor_layer(tensor: str) -> Layer:
    """The layer of a tensor of that name."""
    return Layer(LayerKind.TENSORS, layer_of(tensor))


def file_layer(path: str) -> Layer:
    """The layer of what is no tensor in a file."""
    return Layer(LayerKind.FILE, path)


def chunk_layers(manifest: Manifest) -> list[Layer]:
    """The layer of each distinct chunk, in manifest order: that of its first place."""
    owners: dict[Digest, Layer] = {}
    for file, blob in _placed(manifest):
        layer = tensor_layer(blob.name) if blob.kind is BlobKind.TENSOR else file_layer(file.path)
        for digest, _ in blob.chunks.walk(blob.length):
            owners.setdefault(digest, layer)
    return list(owners.values())


def add_up(parts: Iterable[Part], missing: Mapping[Layer, int]) -> Iterator[LayerChange]:
    """One row per layer, in the order in which their first parts come."""
    seen: dict[Layer, Counter[str]] = {}
    lengths: Counter[Layer] = Counter()
    for part in parts:
        seen.setdefault(part.layer, Counter())[part.change] += 1
        lengths[part.layer] += part.length
    for layer, found in seen.items():
        counted = found if layer.kind is LayerKind.TENSORS else Counter()
        tensors = {change: counted[change] for change in CHANGES}
        yield LayerChange(layer, _change(set(found)), tensors, lengths[layer], missing.get(layer, 0))


def _change(found: set[str]) -> str:
    if len(found) == 1:
        return found.pop()
    return "moved" if found == {"equal", "moved"} else "changed"


def _placed(manifest: Manifest) -> Iterator[tuple[File, Blob]]:
    return ((file, blob) for file in manifest.files for blob in file.blobs)
