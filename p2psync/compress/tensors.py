"""Safetensors as an engine maps them: a padded header, whole pages first, one tensor in memory at a time.

The layout is legal safetensors (https://github.com/huggingface/safetensors#format): 8 bytes of header length, a JSON
header padded by spaces, then the tensors without a gap. What is ours is the order. The header ends on a page, tensors
of whole pages come first, so each of them starts on a page and can be shared between files by reflink; the rest
follows by falling width of its elements, so every tensor is aligned to its own type.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from p2psync import disk
from p2psync.content import name_fault
from p2psync.errors import MalformedError
from p2psync.limits import PAGE_BYTES, TENSOR_HEADER_BYTES_MAX

# Width of one element in bytes, for the types that an engine directory uses.
WIDTHS: Final[Mapping[str, int]] = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "I32": 4, "I64": 8, "BOOL": 1}
_TYPES: Final = {"float32": "F32", "float16": "F16", "int8": "I8", "uint8": "U8", "int32": "I32", "int64": "I64"}


@dataclass(frozen=True, slots=True)
class Source:
    """One tensor to write. ``read`` returns it in C order; it is called once, when its bytes are due."""

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], NDArray[np.generic]]

    @classmethod
    def of(cls, array: NDArray[np.generic]) -> Source:
        """Take an array that is in memory already.

        Raises:
            MalformedError: safetensors has no name for its type.
        """
        name = array.dtype.name
        dtype = "BOOL" if name == "bool" else _TYPES.get(name)
        if dtype is None:
            raise MalformedError(f"safetensors has no type for arrays of {name}")
        return cls(dtype, array.shape, lambda: array)

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor's elements."""
        return WIDTHS[self.dtype] * math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a tensor stands in its file: type, shape, first byte and length in bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


def write_tensors(path: str, tensors: Mapping[str, Source]) -> dict[str, Spot]:
    """Write a safetensors file in deploy order and say where each tensor stands in it.

    Returns:
        For each name the place, with offsets from the start of the file.

    Raises:
        MalformedError: a name could leave its directory, a header would exceed its limit, or a source does not
            return what it declares. The file is incomplete then.
    """
    order = sorted(tensors, key=lambda name: _rank(name, tensors[name]))
    table: dict[str, dict[str, object]] = {}
    at = 0
    for name in order:
        fault = name_fault(name)
        if fault:
            raise MalformedError(f"tensor {name!r}: {fault}")
        source = tensors[name]
        end = at + source.size_bytes
        table[name] = {"dtype": source.dtype, "shape": list(source.shape), "data_offsets": [at, end]}
        at = end
    header = _padded(json.dumps(table, separators=(",", ":")).encode())
    places: dict[str, Spot] = {}
    with disk.create(Path(path)) as file:
        file.write(header)
        for name in order:
            source = tensors[name]
            places[name] = Spot(source.dtype, source.shape, file.tell(), source.size_bytes)
            _write_one(file, name, source)
        file.flush()
        disk.sync(file.fileno())
    return places


def _rank(name: str, source: Source) -> tuple[bool, int, str]:
    whole_pages = source.size_bytes > 0 and source.size_bytes % PAGE_BYTES == 0
    return not whole_pages, 0 if whole_pages else -WIDTHS[source.dtype], name


def _padded(text: bytes) -> bytes:
    if len(text) > TENSOR_HEADER_BYTES_MAX - PAGE_BYTES:
        raise MalformedError(f"a header of {len(text)} bytes; at most {TENSOR_HEADER_BYTES_MAX} are possible")
    length = -(-(8 + len(text)) // PAGE_BYTES) * PAGE_BYTES - 8
    return struct.pack("<Q", length) + text.ljust(length)


def _write_one(file: BinaryIO, name: str, source: Source) -> None:
    array = np.ascontiguousarray(source.read())
    if array.nbytes != source.size_bytes:
        raise MalformedError(f"tensor {name!r} has {array.nbytes} bytes where {source.size_bytes} were declared")
    if array.nbytes:
        file.write(array.reshape(-1).view(np.uint8).data)
