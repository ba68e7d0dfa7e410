"""The wire format of protobuf, as far as an ONNX file needs it: messages as fields, fields as numbers and views.

Nothing is copied. Bounds were proved by ``content.external_tensors``; a message that lies raises IndexError or
ValueError. Source: Protocol Buffers, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

VARINT: Final = 0
BYTES: Final = 2
NOTHING: Final = memoryview(b"")
_WIDTHS: Final[Mapping[int, int]] = {1: 8, 5: 4}


def plain(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and value of each field, for messages whose fields come once."""
    return ((number, value) for number, _, value in fields(data))


def fields(data: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
    """Number, wire type and value of each field of a message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == VARINT:
            number, at = _varint(data, at)
            yield tag >> 3, wire, number
            continue
        length, at = _varint(data, at) if wire == BYTES else (_WIDTHS[wire], at)
        yield tag >> 3, wire, data[at : at + length]
        at += length


def varints(data: memoryview) -> list[int]:
    """The numbers of a packed field."""
    row, at = [], 0
    while at < len(data):
        number, at = _varint(data, at)
        row.append(number)
    return row


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


def signed(number: int) -> int:
    """An int64 that was written as unsigned."""
    return number - (1 << 64) if number >> 63 else number


def integer(value: memoryview | int) -> int:
    """The value of a field that must be a number."""
    if not isinstance(value, int):
        raise ValueError("a number is no number")  # noqa: TRY004 - what a file says, not what a caller does
    return value


def block(value: memoryview | int) -> memoryview:
    """The value of a field that must be bytes."""
    if not isinstance(value, memoryview):
        raise ValueError("a message is no message")  # noqa: TRY004 - as above
    return value


def text(value: memoryview | int) -> str:
    """The value of a field that must be text."""
    return str(block(value), "utf-8")
