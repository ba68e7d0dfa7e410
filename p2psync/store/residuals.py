"""Which chunks of a version can be told by a quantised variant of it: by INT8 codes of the tensor and their scales.

The tensor is found by its name: codes have the dtype I8, the name and the shape of the weights, and stand in another
file, beside an F32 tensor that has the name with ``.scale`` or ``_scale`` behind it, and one scale for each row or
column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from p2psync import codec
from p2psync.content import BlobKind, Digest
from p2psync.limits import CHUNK_BYTES
from p2psync.manifest import Blob, Chunk, Manifest, Piece, likeness

_DTYPES = frozenset({"BF16", "F16"})
_ELEMENT_BYTES = 2
_SUFFIXES = (".scale", "_scale")

Read = Callable[[Chunk], bytes | None]


@dataclass(frozen=True, slots=True)
class Residual:
    """One chunk, where its codes and scales stand, and how scales lie over elements: which of them are to be tried."""

    chunk: Chunk
    dtype: str
    codes: Piece
    scales: Piece
    first_element: int
    row_elements: tuple[int, ...]

    def encode(self, raw: bytes, table: Mapping[Digest, Chunk], read: Read) -> bytes | None:
        """The smallest residual; None where codes or scales cannot be read, or nothing is gained."""
        codes, scales = read(table[self.codes.digest]), read(table[self.scales.digest])
        if codes is None or scales is None:
            return None
        part = codes[self.codes.offset : self.codes.offset + self.codes.length]
        tries = [
            codec.encode_residual(raw, part, scales, row, self.first_element, self.dtype) for row in self.row_elements
        ]
        return min((made for made in tries if made is not None), key=len, default=None)


def residuals(manifest: Manifest, table: Mapping[Digest, Chunk]) -> Iterator[Residual]:
    """Every chunk that has codes in another file of the version."""
    twins = {
        (number, blob.name): blob
        for number, file in enumerate(manifest.files)
        for blob in file.blobs
        if blob.kind is BlobKind.TENSOR
    }
    codes: dict[str, list[int]] = {}
    for (number, name), blob in twins.items():
        if blob.dtype == "I8":
            codes.setdefault(name, []).append(number)
    paths = [file.path for file in manifest.files]
    for (number, name), blob in twins.items():
        others = [other for other in codes.get(name, ()) if other != number]
        if blob.dtype not in _DTYPES or not others:
            continue
        # Two experts name their tensors alike: the codes are those of the file that is called most like this one.
        beside = max(others, key=lambda other: likeness(paths[number], paths[other]))
        own = twins[beside, name]
        scales = next((twins[beside, name + end] for end in _SUFFIXES if (beside, name + end) in twins), None)
        if own.shape == blob.shape and scales is not None and scales.dtype == "F32" and len(scales.chunks) == 1:
            yield from _of_tensor(blob, own, scales, table)


def _of_tensor(blob: Blob, codes: Blob, scales: Blob, table: Mapping[Digest, Chunk]) -> Iterator[Residual]:
    rows = _rows(blob, scales.length // 4)
    where = [digest for digest, _ in codes.chunks.walk(codes.length)]
    ((scale, _),) = scales.chunks.walk(scales.length)
    for place, (digest, length) in enumerate(blob.chunks.walk(blob.length)):
        first = place * (CHUNK_BYTES // _ELEMENT_BYTES)
        chunk, offset = divmod(first, CHUNK_BYTES)
        if rows and length % _ELEMENT_BYTES == 0:
            piece = Piece(where[chunk], offset, length // _ELEMENT_BYTES)
            yield Residual(table[digest], blob.dtype, piece, Piece(scale), first, rows)


def _rows(blob: Blob, scales: int) -> tuple[int, ...]:
    """How many elements that follow each other may share a scale: those of a row, or one where columns have scales."""
    elements = math.prod(blob.shape)
    if not scales or elements % scales or len(blob.shape) < 2:
        return ()
    by_row, by_column = scales == blob.shape[0], scales == blob.shape[-1]
    return ((elements // scales,) if by_row else ()) + ((1,) if by_column else ())
