"""External tensors of ONNX skeletons: a walk over protobuf that knows where tensors may stand and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.reference import values
from tests.reference.cursor import Cursor, RefusedError, require
from tests.reference.span import BITS, Tensor, bytes_of

_FIELDS_MAX = 4_194_304
_DEPTH_MAX = 100
_TENSORS_MAX = 65_536
_ENTRIES_MAX = 64
_DIMENSIONS_MAX = 64
_KEY_MAX = 64
# By message, the fields that hold another message.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_NAMES = [
    "F32",
    "U8",
    "I8",
    "U16",
    "I16",
    "I32",
    "I64",
    ".",
    "BOOL",
    "F16",
    "F64",
    "U32",
    "U64",
    "C64",
    "C128",
    "BF16",
    "F8_E4M3",
    "F8_E4M3FNUZ",
    "F8_E5M2",
    "F8_E5M2FNUZ",
    "U4",
    "I4",
    "F4",
    "F8_E8M0",
    "U2",
    "I2",
    "F6_E2M3",
    "F6_E3M2",
]
_DTYPES = {number: name for number, name in enumerate(_NAMES, 1) if name != "."}
_BITS = BITS | {"C128": 128, "U4": 4, "I4": 4, "U2": 2, "I2": 2}
_DIMS, _TYPE, _NAME, _EXTERNAL, _LOCATION = 1, 2, 8, 13, 14
_VARINT, _LENGTH = 0, 2
_FIXED = {1: 8, 5: 4}


def external_tensors(skeleton: str, data: bytes) -> dict[str, list[Tensor]]:
    """By the path of the file that they stand in, the external tensors of a skeleton.

    Raises:
        RefusedError: It is no model, or keeps a tensor where none may be.
    """
    walk = _Walk()
    walk.message("model", data, 1)
    require(walk.graphs, "a model without a graph")
    require(len(walk.found) <= _TENSORS_MAX, "too many external tensors")
    folder = skeleton.rpartition("/")[0]
    files: dict[str, list[Tensor]] = {}
    for fields in walk.found:
        location, tensor = _tensor(fields, [walk.entry(entry) for entry in fields[_EXTERNAL]])
        files.setdefault(f"{folder}/{location}" if folder else location, []).append(tensor)
    return files


class _Walk:
    def __init__(self) -> None:
        self._fields = 0
        self.graphs = False
        self.found: list[dict[int, Any]] = []

    def message(self, kind: str, data: bytes, depth: int) -> None:
        """Everything in one message."""
        require(depth <= _DEPTH_MAX or kind == "tensor", "messages that nest too deep")
        own: dict[int, Any] = {_DIMS: [], _EXTERNAL: []}
        for number, wire, value in self.fields(data):
            if number in _INSIDE[kind]:
                require(wire == _LENGTH, "a message of another wire type")
                self.graphs |= kind == "model" and number == 7
                self.message(_INSIDE[kind][number], value, depth + 1)
            elif kind == "tensor":
                self._tensor_field(own, number, wire, value)
        # Of tensors that stand inside the skeleton, too.
        require(len(own[_DIMS]) <= _DIMENSIONS_MAX, "over 64 dimensions")
        require(len(own[_EXTERNAL]) <= _ENTRIES_MAX, "too many entries")
        if own.get(_LOCATION) == 1:
            self.found.append(own)

    def fields(self, data: bytes) -> Iterator[tuple[int, int, Any]]:
        """(number, wire type, value) of each field of a message."""
        cursor = Cursor(data)
        while cursor.left:
            self._fields += 1
            require(self._fields <= _FIELDS_MAX, "too many fields")
            key = _varint(cursor)
            number, wire = key >> 3, key & 7
            require(1 <= number < 2**29, "the number of a field")
            if wire == _VARINT:
                yield number, wire, _varint(cursor)
            elif wire == _LENGTH:
                yield number, wire, cursor.take(_varint(cursor))
            else:
                require(wire in _FIXED, "a group")
                yield number, wire, cursor.take(_FIXED[wire])

    def _tensor_field(self, own: dict[int, Any], number: int, wire: int, value: Any) -> None:
        if number == _DIMS and wire == _LENGTH:
            cursor = Cursor(value)
            while cursor.left:
                own[_DIMS].append(_varint(cursor))
        elif number == _DIMS:
            require(wire == _VARINT, "dims of another wire type")
            own[_DIMS].append(value)
        elif number in (_TYPE, _LOCATION):
            require(wire == _VARINT, "a number of another wire type")
            own[number] = value
        elif number == _NAME:
            require(wire == _LENGTH, "a name of another wire type")
            own[_NAME] = value
        elif number == _EXTERNAL:
            require(wire == _LENGTH, "an entry of another wire type")
            own[_EXTERNAL].append(value)

    def entry(self, data: bytes) -> tuple[bytes, bytes]:
        found = {1: b"", 2: b""}
        for number, wire, value in self.fields(data):
            if number in found:
                require(wire == _LENGTH, "an entry of another wire type")
                found[number] = value
        return found[1], found[2]


def _varint(cursor: Cursor) -> int:
    found = 0
    for place in range(10):
        byte = cursor.number(1)
        found |= (byte & 127) << 7 * place
        if byte < 128:
            require(found < 2**64, "a number over 64 bits")
            return found
    raise RefusedError("a number over 64 bits")


def _tensor(fields: dict[int, Any], entries: list[tuple[bytes, bytes]]) -> tuple[str, Tensor]:
    named = [(_text(key), value) for key, value in entries if len(key) <= _KEY_MAX]
    told = [entry for entry in named if entry[0] in ("location", "offset", "length")]
    where = dict(told)
    require(len(where) == len(told) and "location" in where, "an entry twice, or no location")
    dtype = _DTYPES.get(fields.get(_TYPE, 0))
    require(dtype is not None, "a data type that the table lacks")
    shape = tuple(fields[_DIMS])
    due = bytes_of(shape, 1, _BITS[str(dtype)])
    length = _digits(where.get("length", b"0")) or due
    require(length == due, "a length that type and shape do not give")
    require(len(fields.get(_NAME, b"")) <= 1024, "the length of a name")
    name = _text(fields.get(_NAME, b"")).lstrip("/") or "unnamed"
    values.tensor_name(name)
    return _location(where["location"]), Tensor(_digits(where.get("offset", b"0")), due, name, str(dtype), shape)


def _digits(text: bytes) -> int:
    require(re.fullmatch(b"[0-9]{1,18}", text), "not 1 to 18 digits")
    return int(text)


def _location(data: bytes) -> str:
    require(1 <= len(data) <= 1024, "the length of a location")
    text = _text(data)
    require(not re.search("[\x00-\x1f\x7f\\\\]", text), "a character in a location")
    require(not text.startswith("/") and not re.match("[A-Za-z]:", text), "a location that leads out")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    require(parts and ".." not in parts, "a location that leads out")
    return "/".join(parts)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError("text that is not UTF-8") from error
