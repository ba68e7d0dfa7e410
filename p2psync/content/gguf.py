"""Where the tensors of a GGUF file stand, read from its metadata and from nothing else.

The file is a header (counts, key-value pairs, tensor descriptions), padding, and the tensors, each padded to
``general.alignment`` (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Versions 2 and 3, little-endian.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Final, NamedTuple

from p2psync.content.spans import BlobKind, Span
from p2psync.content.tensors import name_fault, tensor_bits
from p2psync.content.window import Window
from p2psync.limits import (
    GGUF_ALIGNMENT_MAX,
    GGUF_ARRAY_DEPTH_MAX,
    GGUF_ARRAYS_MAX,
    GGUF_HEADER_BYTES_MAX,
    GGUF_KEY_BYTES_MAX,
    GGUF_KEYS_MAX,
    TENSOR_NAME_BYTES_MAX,
    TENSOR_RANK_MAX,
    TENSORS_PER_FILE_MAX,
)

_MAGIC: Final = b"GGUF"
_HEADER_BYTES: Final = 24
_VERSIONS: Final = (2, 3)
# Far above any version that will come, far below what four letters make.
_VERSION_MAX: Final = 255
_ALIGNMENT_DEFAULT: Final = 32
_ALIGNMENT_KEY: Final = b"general.alignment"
_U32: Final = 4
_STRING: Final = 8
_ARRAY: Final = 9
# Bytes of a metadata value, by the number of its type.
_VALUE_BYTES: Final[Mapping[int, int]] = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_LENGTH: Final = Struct("<Q")

# A tensor type's number: its name, the elements of a block and the bytes of a block. Numbers that are missing here
# were withdrawn from the format.
TENSOR_TYPES: Final[Mapping[int, tuple[str, int, int]]] = {
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


class _Entry(NamedTuple):
    """One tensor as the header declares it. ``offset`` counts from the start of the tensor data."""

    offset: int
    length: int
    name: str
    dtype: str
    shape: tuple[int, ...]


def looks_like(window: Window) -> bool:
    """Whether a file of any name starts as GGUF does: four letters and a small version number of either byte order."""
    if window.size < _HEADER_BYTES or window.take(0, 4) != _MAGIC:
        return False
    version = window.take(4, 4)
    return any(1 <= int.from_bytes(version, order) <= _VERSION_MAX for order in ("little", "big"))


def read_spans(window: Window) -> tuple[Span, ...]:
    """Cut a GGUF file: its header, then tensors in file order, with a gap for each padding.

    Raises:
        MalformedError: the file does not follow its format, or exceeds a bound of ``limits``.
    """
    window.refuse_pointer()
    header = _Header(window)
    entries = header.entries()
    spans = [Span(BlobKind.HEADER, header.at)]
    position = header.at
    start = _align(position, header.alignment)
    for entry in entries:
        begin = _align(position, header.alignment)
        if start + entry.offset != begin:
            what = "overlaps" if start + entry.offset < position else "does not stand right after"
            text = f"has a tensor {entry.name[:80]!r} that {what} what comes before it"
            raise window.fault(text, start + entry.offset)
        if begin > position:
            spans.append(Span(BlobKind.GAP, begin - position))
        spans.append(Span(BlobKind.TENSOR, entry.length, entry.name, entry.dtype, entry.shape))
        position = begin + entry.length
    if position > window.size:
        raise window.fault(f"ends after {window.size} bytes; its tensors end at {position}", window.size)
    if window.size not in {position, _align(position, header.alignment)}:
        raise window.fault(f"has {window.size - position} bytes after its last tensor", position)
    if window.size > position:
        spans.append(Span(BlobKind.GAP, window.size - position))
    return tuple(spans)


def _align(position: int, alignment: int) -> int:
    return (position + alignment - 1) // alignment * alignment


class _Header:
    """A cursor over the header. After ``entries``, ``at`` is the header's end and ``alignment`` is known."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self.at = _HEADER_BYTES
        self.alignment = _ALIGNMENT_DEFAULT
        self._arrays = 0

    def entries(self) -> list[_Entry]:
        """All tensors in file order: by offset, then length, then name."""
        tensors, keys = self._counts()
        seen: set[bytes] = set()
        for _ in range(keys):
            self._pair(seen)
        found: dict[str, _Entry] = {}
        for _ in range(tensors):
            at = self.at
            entry = self._entry()
            if entry.name in found:
                raise self._window.fault(f"has two tensors called {entry.name[:80]!r}", at)
            found[entry.name] = entry
        return sorted(found.values())

    def _counts(self) -> tuple[int, int]:
        if self._window.take(0, 4) != _MAGIC:
            raise self._window.fault("does not start with GGUF", 0)
        version = self._window.u32(4)
        if version not in _VERSIONS:
            if version and version % 65_536 == 0:
                raise self._window.fault("is a big-endian GGUF file; only little-endian ones are read", 4)
            raise self._window.fault(f"is GGUF version {version}; versions 2 and 3 are read", 4)
        tensors, keys = self._window.u64s(8, 2)
        if tensors > TENSORS_PER_FILE_MAX:
            raise self._window.fault(f"has {tensors} tensors; at most {TENSORS_PER_FILE_MAX} are read", 8)
        if keys > GGUF_KEYS_MAX:
            raise self._window.fault(f"has {keys} metadata keys; at most {GGUF_KEYS_MAX} are read", 16)
        return tensors, keys

    def _pair(self, seen: set[bytes]) -> None:
        """Pass over one key and its value; note the alignment."""
        at = self.at
        key = self._string(GGUF_KEY_BYTES_MAX)
        if not key or key in seen:
            raise self._window.fault(f"has a metadata key {key[:80]!r} that is empty or there twice", at)
        seen.add(key)
        kind = self._number()
        if key == _ALIGNMENT_KEY:
            if kind != _U32:
                raise self._window.fault("has an alignment that is not an unsigned 32-bit number", at)
            self.alignment = self._number()
            if self.alignment.bit_count() != 1 or self.alignment > GGUF_ALIGNMENT_MAX:
                text = f"has an alignment of {self.alignment}, not a power of two up to {GGUF_ALIGNMENT_MAX}"
                raise self._window.fault(text, at)
        else:
            self._skip(kind, 1, 0)

    def _skip(self, kind: int, count: int, depth: int) -> None:
        """Pass over ``count`` values of one type."""
        at = self.at
        if kind in _VALUE_BYTES:
            self._move(self.at + count * _VALUE_BYTES[kind])
        elif kind == _STRING:
            self._skip_strings(count)
        elif kind == _ARRAY and depth < GGUF_ARRAY_DEPTH_MAX:
            self._arrays += count
            if self._arrays > GGUF_ARRAYS_MAX:
                raise self._window.fault(f"has more than {GGUF_ARRAYS_MAX} metadata arrays", at)
            for _ in range(count):
                inner = self._number()
                (length,) = self._window.u64s(self.at, 1)
                self._move(self.at + 8)
                self._skip(inner, length, depth + 1)
        elif kind == _ARRAY:
            raise self._window.fault(f"nests metadata arrays deeper than {GGUF_ARRAY_DEPTH_MAX}", at)
        else:
            raise self._window.fault(f"has a metadata value of unknown type {kind}", at)

    def _skip_strings(self, count: int) -> None:
        # A tokeniser has hundreds of thousands of these, so they are passed over inside the window's buffer.
        while count:
            buffer, index = self._window.ahead(self.at, _LENGTH.size)
            base = self.at - index
            last = len(buffer) - _LENGTH.size
            if index > last:
                raise self._window.fault("ends in the middle of a string", self.at)
            while count and index <= last:
                index += _LENGTH.size + _LENGTH.unpack_from(buffer, index)[0]
                count -= 1
            self._move(base + index)

    def _entry(self) -> _Entry:
        at = self.at
        raw = self._string(TENSOR_NAME_BYTES_MAX)
        try:
            name = raw.decode()
        except UnicodeDecodeError as error:
            raise self._window.fault("has a tensor name that is not Unicode", at) from error
        if reason := name_fault(name):
            raise self._window.fault(f"has a tensor name {name[:80]!r} that {reason}", at)
        rank = self._number()
        if rank > TENSOR_RANK_MAX:
            raise self._window.fault(f"gives tensor {name[:80]!r} {rank} dimensions", at)
        # Innermost first; ours are outermost first, as in every other format.
        rows = self._window.u64s(self.at, rank)
        self._move(self.at + 8 * rank)
        kind = self._number()
        (offset,) = self._window.u64s(self.at, 1)
        self._move(self.at + 8)
        if kind not in TENSOR_TYPES:
            raise self._window.fault(f"gives tensor {name[:80]!r} an unknown type {kind}", at)
        dtype, block_elements, block_bytes = TENSOR_TYPES[kind]
        row = rows[0] if rows else 1
        if row % block_elements:
            text = f"gives tensor {name[:80]!r} rows of {row}, no multiple of {block_elements} ({dtype})"
            raise self._window.fault(text, at)
        bits = tensor_bits((row // block_elements, *rows[1:]), 8 * block_bytes)
        if bits is None:
            raise self._window.fault(f"gives tensor {name[:80]!r} a shape that overflows", at)
        return _Entry(offset, bits // 8, name, dtype, rows[::-1])

    def _number(self) -> int:
        value = self._window.u32(self.at)
        self._move(self.at + 4)
        return value

    def _string(self, bytes_max: int) -> bytes:
        (length,) = self._window.u64s(self.at, 1)
        if length > bytes_max:
            raise self._window.fault(f"has a name of {length} bytes; at most {bytes_max} are read", self.at)
        text = self._window.take(self.at + 8, length)
        self._move(self.at + 8 + length)
        return text

    def _move(self, at: int) -> None:
        """Go on at ``at``, which must be inside the file and the bound."""
        if at > self._window.size:
            raise self._window.fault(f"ends after {self._window.size} bytes, inside its header", self.at)
        if at > GGUF_HEADER_BYTES_MAX:
            raise self._window.fault(f"has a header of more than {GGUF_HEADER_BYTES_MAX} bytes", self.at)
        self.at = at
