"""Which tensors an ONNX skeleton keeps in other files, read without a protobuf library and without its weights.

The file is one protobuf ``ModelProto``. Only the messages that can lead to a ``TensorProto`` are entered (graphs,
nodes, attributes, functions, training graphs, sparse tensors); everything else, above all embedded weights, is
passed over by its length. The walk keeps its own stack, so depth costs no recursion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from p2psync.content.spans import ExternalTensor, ReadAt
from p2psync.content.tensors import name_fault, tensor_bits
from p2psync.content.window import Window
from p2psync.errors import UnsafePathError
from p2psync.limits import (
    ONNX_DEPTH_MAX,
    ONNX_ENTRIES_MAX,
    ONNX_FIELDS_MAX,
    PATH_BYTES_MAX,
    TENSOR_NAME_BYTES_MAX,
    TENSOR_RANK_MAX,
    TENSORS_PER_FILE_MAX,
)

_VARINT: Final = 0
_BYTES: Final = 2
# Bytes that fields of fixed size have.
_FIXED: Final[Mapping[int, int]] = {1: 8, 5: 4}
_VARINT_BYTES_MAX: Final = 10
_KEY_BYTES_MAX: Final = 64
_NUMBER: Final = re.compile(r"[0-9]{1,18}")

# TensorProto.DataType: our name and the bits of an element. Elements under a byte are packed, the last byte filled up.
_TYPES: Final[Mapping[int, tuple[str, int]]] = {
    1: ("F32", 32),
    2: ("U8", 8),
    3: ("I8", 8),
    4: ("U16", 16),
    5: ("I16", 16),
    6: ("I32", 32),
    7: ("I64", 64),
    9: ("BOOL", 8),
    10: ("F16", 16),
    11: ("F64", 64),
    12: ("U32", 32),
    13: ("U64", 64),
    14: ("C64", 64),
    15: ("C128", 128),
    16: ("BF16", 16),
    17: ("F8_E4M3", 8),
    18: ("F8_E4M3FNUZ", 8),
    19: ("F8_E5M2", 8),
    20: ("F8_E5M2FNUZ", 8),
    21: ("U4", 4),
    22: ("I4", 4),
    23: ("F4", 4),
    24: ("F8_E8M0", 8),
    25: ("U2", 2),
    26: ("I2", 2),
    27: ("F6_E2M3", 6),
    28: ("F6_E3M2", 6),
}


class _Message(Enum):
    MODEL = 0
    TRAINING = 1
    GRAPH = 2
    FUNCTION = 3
    NODE = 4
    ATTRIBUTE = 5
    SPARSE = 6
    TENSOR = 7


# The fields of each message that hold messages on the way to a tensor.
_INNER: Final[Mapping[_Message, Mapping[int, _Message]]] = {
    _Message.MODEL: {7: _Message.GRAPH, 20: _Message.TRAINING, 25: _Message.FUNCTION},
    _Message.TRAINING: {1: _Message.GRAPH, 2: _Message.GRAPH},
    _Message.GRAPH: {1: _Message.NODE, 5: _Message.TENSOR, 15: _Message.SPARSE},
    _Message.FUNCTION: {7: _Message.NODE, 11: _Message.ATTRIBUTE},
    _Message.NODE: {5: _Message.ATTRIBUTE},
    _Message.ATTRIBUTE: {
        5: _Message.TENSOR,
        6: _Message.GRAPH,
        10: _Message.TENSOR,
        11: _Message.GRAPH,
        22: _Message.SPARSE,
        23: _Message.SPARSE,
    },
    _Message.SPARSE: {1: _Message.TENSOR, 2: _Message.TENSOR},
}
_DIMS: Final = 1
_DATA_TYPE: Final = 2
_NAME: Final = 8
_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14
_EXTERNAL: Final = 1


def external_tensors(name: str, size: int, read_at: ReadAt) -> dict[str, list[ExternalTensor]]:
    """The tensors that an ONNX file keeps outside itself.

    Args:
        name: The file's path, for messages.
        size: The file's size in bytes.
        read_at: Reads the file.

    Returns:
        By location (a relative path without ``.`` parts, seen from the file's own directory), the tensors in the
        order of the file. Their names have no leading ``/``, and ``unnamed`` stands for an empty one; a name may come
        twice. Offsets and lengths are not checked against the other
        file, which has not been seen. Empty when all weights are inside.

    Raises:
        MalformedError: the file is no protobuf ``ModelProto`` with a graph, or exceeds a bound of ``limits``.
        UnsafePathError: a location could leave the file's directory.
    """
    window = Window(name, size, read_at)
    window.refuse_pointer()
    reader = _Reader(window)
    found: dict[str, list[ExternalTensor]] = {}
    count = 0
    for start, end in reader.tensors():
        declared = reader.tensor(start, end)
        if declared.location != _EXTERNAL:
            continue
        count += 1
        if count > TENSORS_PER_FILE_MAX:
            raise window.fault(f"has more than {TENSORS_PER_FILE_MAX} external tensors", start)
        location, tensor = reader.resolve(declared)
        found.setdefault(location, []).append(tensor)
    return found


@dataclass(slots=True)
class _Tensor:
    """What a TensorProto says, as numbers and as (offset, length) of texts that are read only when wanted."""

    at: int
    dims: list[int] = field(default_factory=list)
    data_type: int = 0
    location: int = 0
    name: tuple[int, int] = (0, 0)
    entries: list[tuple[int, int]] = field(default_factory=list)


class _Reader:
    """Walks protobuf fields through a window."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._fields_left = ONNX_FIELDS_MAX

    def tensors(self) -> Iterator[tuple[int, int]]:
        """Begin and end of every TensorProto in the model."""
        stack = [(_Message.MODEL, self._fields(0, self._window.size))]
        has_graph = False
        while stack:
            message, fields = stack[-1]
            entered = _INNER[message]
            for number, wire, at, length in fields:
                inner = entered.get(number)
                if inner is None:
                    continue
                self._expect(wire, _BYTES, at)
                if inner is _Message.TENSOR:
                    yield at, at + length
                    continue
                has_graph = has_graph or (message is _Message.MODEL and inner is _Message.GRAPH)
                if len(stack) == ONNX_DEPTH_MAX:
                    raise self._window.fault(f"nests messages deeper than {ONNX_DEPTH_MAX}", at)
                stack.append((inner, self._fields(at, at + length)))
                break
            else:
                stack.pop()
        if not has_graph:
            raise self._window.fault("is no ONNX model: it has no graph")

    def tensor(self, start: int, end: int) -> _Tensor:
        """Read one TensorProto but for its texts and its weights."""
        found = _Tensor(start)
        for number, wire, at, value in self._fields(start, end):
            if number == _DIMS:
                if wire == _VARINT:
                    found.dims.append(value)
                else:
                    self._expect(wire, _BYTES, at)
                    found.dims += self._varints(at, value)
                if len(found.dims) > TENSOR_RANK_MAX:
                    raise self._window.fault(f"has a tensor of more than {TENSOR_RANK_MAX} dimensions", at)
            elif number == _DATA_TYPE:
                self._expect(wire, _VARINT, at)
                found.data_type = value
            elif number == _DATA_LOCATION:
                self._expect(wire, _VARINT, at)
                found.location = value
            elif number == _NAME:
                self._expect(wire, _BYTES, at)
                found.name = (at, value)
            elif number == _EXTERNAL_DATA:
                self._expect(wire, _BYTES, at)
                found.entries.append((at, value))
                if len(found.entries) > ONNX_ENTRIES_MAX:
                    raise self._window.fault(f"gives a tensor more than {ONNX_ENTRIES_MAX} external data keys", at)
        return found

    def resolve(self, declared: _Tensor) -> tuple[str, ExternalTensor]:
        """The location and the place of a tensor that is outside."""
        fault = self._window.fault
        # Exporters name constants like paths from a root, or not at all. Both are legal, and neither is a sound name.
        name = self._text(declared.name, TENSOR_NAME_BYTES_MAX, "tensor name").lstrip("/") or "unnamed"
        if reason := name_fault(name):
            raise fault(f"has a tensor name {name[:80]!r} that {reason}", declared.name[0] or declared.at)
        if declared.data_type not in _TYPES:
            text = f"keeps tensor {name[:80]!r} outside with the unknown data type {declared.data_type}"
            raise fault(text, declared.at)
        dtype, element_bits = _TYPES[declared.data_type]
        bits = None if any(d >> 63 for d in declared.dims) else tensor_bits(declared.dims, element_bits)
        if bits is None:
            raise fault(f"gives tensor {name[:80]!r} a shape that is negative or overflows", declared.at)
        length = (bits + 7) // 8
        entries = self._entries(declared, name)
        # A length of 0 means what a missing one means to every runtime.
        if self._integer(entries.get("length", "0"), declared) not in {0, length}:
            text = f"gives tensor {name[:80]!r} {length} bytes of {dtype} and {entries['length']} bytes of room"
            raise fault(text, declared.at)
        offset = self._integer(entries.get("offset", "0"), declared)
        location = _safe_location(self._window.name, entries.get("location", ""))
        return location, ExternalTensor(name, dtype, tuple(declared.dims), offset, length)

    def _entries(self, declared: _Tensor, name: str) -> dict[str, str]:
        """The external data keys that say where a tensor is. Others are passed over."""
        found: dict[str, str] = {}
        for start, length in declared.entries:
            texts = {1: (start, 0), 2: (start, 0)}
            for number, wire, at, value in self._fields(start, start + length):
                if number in texts:
                    self._expect(wire, _BYTES, at)
                    texts[number] = (at, value)
            if texts[1][1] > _KEY_BYTES_MAX:
                continue
            key = self._text(texts[1], _KEY_BYTES_MAX, "external data key")
            if key not in {"location", "offset", "length"}:
                continue
            if key in found:
                raise self._window.fault(f"gives tensor {name[:80]!r} two values of {key}", start)
            found[key] = self._text(texts[2], PATH_BYTES_MAX, key)
        return found

    def _integer(self, text: str, declared: _Tensor) -> int:
        if not _NUMBER.fullmatch(text):
            raise self._window.fault(f"has an external data number {text[:40]!r}", declared.at)
        return int(text)

    def _text(self, place: tuple[int, int], bytes_max: int, what: str) -> str:
        at, length = place
        if length > bytes_max:
            raise self._window.fault(f"has a {what} of {length} bytes; at most {bytes_max} are read", at)
        try:
            return self._window.take(at, length).decode()
        except UnicodeDecodeError as error:
            raise self._window.fault(f"has a {what} that is not Unicode", at) from error

    def _fields(self, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (number, wire type, place of the content, value) of each field; the value of bytes is their length."""
        ahead = self._window.ahead
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise self._window.fault(f"has more than {ONNX_FIELDS_MAX} fields", at)
            buffer, index = ahead(at, 2 * _VARINT_BYTES_MAX)
            tag, head = buffer[index], 1
            if tag >= 0x80:
                tag, head = self._varint(buffer, index, at, end)
            number, wire = tag >> 3, tag & 7
            if number == 0 or tag >> 32:
                raise self._window.fault("has a protobuf field whose number is impossible", at)
            place = at + head
            value = 0
            if wire == _VARINT:
                value, taken = self._varint(buffer, index + head, place, end)
                at = place + taken
            elif wire == _BYTES:
                value, taken = self._varint(buffer, index + head, place, end)
                place += taken
                at = place + value
            elif wire in _FIXED:
                at = place + _FIXED[wire]
            else:
                raise self._window.fault(f"has a protobuf field of wire type {wire}", at)
            if at > end:
                raise self._window.fault("has a protobuf field that is longer than what it stands in", place)
            yield number, wire, place, value

    def _varints(self, at: int, length: int) -> list[int]:
        """The numbers of a packed field."""
        if length > TENSOR_RANK_MAX * _VARINT_BYTES_MAX:
            raise self._window.fault(f"has a tensor of more than {TENSOR_RANK_MAX} dimensions", at)
        end = at + length
        values: list[int] = []
        while at < end:
            buffer, index = self._window.ahead(at, _VARINT_BYTES_MAX)
            value, taken = self._varint(buffer, index, at, end)
            values.append(value)
            at += taken
        return values

    def _varint(self, buffer: bytes, index: int, at: int, end: int) -> tuple[int, int]:
        """A number at ``index`` of a buffer, which is byte ``at`` of the file, and how many bytes it has."""
        value = 0
        for i in range(min(_VARINT_BYTES_MAX, end - at)):
            byte = buffer[index + i]
            value |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                if value >> 64:
                    break
                return value, i + 1
        raise self._window.fault("has a protobuf number that does not end or overflows", at)

    def _expect(self, wire: int, wanted: int, at: int) -> None:
        if wire != wanted:
            raise self._window.fault(f"has a protobuf field of wire type {wire} where {wanted} is due", at)


def _safe_location(name: str, location: str) -> str:
    """A location as a path inside the file's directory, without ``.`` parts.

    Raises:
        UnsafePathError: it is empty, absolute, or leaves the directory; or two systems read it differently.
    """
    parts = [part for part in location.split("/") if part not in {"", "."}]
    sound = (
        parts
        and not location.startswith("/")
        and ".." not in parts
        and "\\" not in location
        and not re.match("[A-Za-z]:", location)
        and not re.search("[\x00-\x1f\x7f]", location)
    )
    if not sound:
        raise UnsafePathError(f"{name} keeps tensors at {location[:80]!r}, which is no path inside its directory")
    return "/".join(parts)
