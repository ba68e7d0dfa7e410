"""Spans of a GGUF file."""

from __future__ import annotations

from typing import Any

from tests.reference.cursor import Cursor, RefusedError, require
from tests.reference.span import Span, Tensor, bytes_of, check_tensors

# By number: name, elements and bytes of a block.
TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}
_HEADER_MAX = 64 << 20
_COUNT_MAX = 65_536
_ARRAYS_MAX = 131_072
_DEPTH_MAX = 4
_ALIGNMENT_MAX = 1 << 20
_UNSIGNED, _STRING, _ARRAY = 4, 8, 9
# Bytes of the values of each type that has a size.
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def is_begun(data: bytes) -> bool:
    """Whether a file of any name starts like one."""
    version = data[4:8]
    orders = (int.from_bytes(version, "little"), int.from_bytes(version, "big"))
    return len(data) >= 24 and data[:4] == b"GGUF" and any(1 <= number <= 255 for number in orders)


def spans(data: bytes) -> list[Span]:
    """The header, the tensors and what pads them.

    Raises:
        RefusedError: It does not hold what GGUF must.
    """
    reader = _Reader(data)
    tensors = sorted(reader.tensors())
    check_tensors([tensor.name for tensor in tensors])
    header = reader.read
    start = _aligned(header, reader.alignment)
    found, end = [Span("HEADER", header)], header
    for tensor in tensors:
        at = start + tensor.offset
        require(at == _aligned(end, reader.alignment), "a tensor that stands elsewhere")
        found += [Span("GAP", at - end)] * (at > end) + [tensor.span]
        end = at + tensor.length
    require(len(data) in (end, _aligned(end, reader.alignment)), "a file that ends elsewhere")
    return found + [Span("GAP", len(data) - end)] * (len(data) > end)


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


class _Reader:
    """The header of a file, to the end of the last tensor description."""

    def __init__(self, data: bytes) -> None:
        self._size = len(data)
        self._cursor = Cursor(data[:_HEADER_MAX])
        self._window = len(self._cursor.left)
        self._arrays = 0
        self.alignment = 32

    @property
    def read(self) -> int:
        """How many bytes were read."""
        return self._window - len(self._cursor.left)

    def tensors(self) -> list[Tensor]:
        """All of them, where they say that they stand in the tensor data."""
        require(self._cursor.take(4) == b"GGUF", "no GGUF")
        require(self._cursor.number(4) in (2, 3), "another version")
        count, pairs = self._cursor.number(8), self._cursor.number(8)
        require(count <= _COUNT_MAX and pairs <= _COUNT_MAX, "too many tensors or keys")
        keys = [self._pair() for _ in range(pairs)]
        require(len(set(keys)) == len(keys), "a key that comes twice")
        return [self._tensor() for _ in range(count)]

    def _pair(self) -> bytes:
        key = self._cursor.take(self._cursor.number(8))
        require(1 <= len(key) <= 65_535, "the length of a key")
        kind = self._cursor.number(4)
        if key == b"general.alignment":
            require(kind == _UNSIGNED, "an alignment of another type")
            self.alignment = self._cursor.number(4)
            power = self.alignment and self.alignment & (self.alignment - 1) == 0
            require(power and self.alignment <= _ALIGNMENT_MAX, "an alignment that is no power of two")
        else:
            self._pass_over(kind, 0)
        return key

    def _pass_over(self, kind: int, depth: int) -> None:
        if kind == _STRING:
            self._cursor.take(self._cursor.number(8))
        elif kind == _ARRAY:
            self._arrays += 1
            require(self._arrays <= _ARRAYS_MAX and depth < _DEPTH_MAX, "arrays inside arrays")
            inner, count = self._cursor.number(4), self._cursor.number(8)
            if inner in _WIDTHS:
                self._cursor.take(count * _WIDTHS[inner])
                return
            require(inner in (_STRING, _ARRAY), "values of another type")
            require(count <= len(self._cursor.left), "more values than bytes")
            for _ in range(count):
                self._pass_over(inner, depth + 1)
        else:
            require(kind in _WIDTHS, "a value of another type")
            self._cursor.take(_WIDTHS[kind])

    def _tensor(self) -> Tensor:
        name = _text(self._cursor.take(self._cursor.number(8)))
        sides = self._cursor.number(4)
        require(sides <= 64, "over 64 dimensions")
        shape = [self._cursor.number(8) for _ in range(sides)]
        kind, offset = self._cursor.number(4), self._cursor.number(8)
        require(kind in TYPES, "a type that the table lacks")
        dtype, block, block_bytes = TYPES[kind]
        require((shape[0] if shape else 1) % block == 0, "a row that is no whole blocks")
        length = bytes_of(shape, block, 8 * block_bytes)
        return Tensor(offset, length, name, dtype, tuple(reversed(shape)))


def _text(data: bytes) -> Any:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError("a name that is not UTF-8") from error
