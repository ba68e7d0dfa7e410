"""The parts that a file is cut into, before its bytes are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

# (offset, length) -> that many bytes; fewer only at the end of the file.
ReadAt = Callable[[int, int], bytes]


class BlobKind(IntEnum):
    """What the bytes of a blob are. The numbers are frozen in docs/format.md."""

    BYTES = 0
    HEADER = 1
    TENSOR = 2
    GAP = 3


class FileFormat(IntEnum):
    """How a file was cut. The numbers are frozen in docs/format.md."""

    BYTES = 0
    SAFETENSORS = 1
    GGUF = 2
    ONNX_DATA = 3


@dataclass(frozen=True, slots=True)
class Span:
    """One blob's place in a file. Spans touch and cover the file, in file order.

    ``name``, ``dtype`` and ``shape`` (in elements) are empty unless ``kind`` is TENSOR.
    """

    kind: BlobKind
    length: int
    name: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """How one file is cut."""

    format: FileFormat
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class ExternalTensor:
    """One initialiser that an ONNX skeleton keeps in another file, at ``offset`` with ``length`` bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int
