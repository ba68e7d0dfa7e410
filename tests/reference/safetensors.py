"""Spans of a safetensors file."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.reference import values
from tests.reference.cursor import Cursor, RefusedError, require
from tests.reference.span import BITS, Span, Tensor, bytes_of, check_tensors

_HEADER_MAX = 16 << 20
_COUNT_MAX = 65_536


def is_framed(data: bytes) -> bool:
    """Whether a file of any name is framed like one."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= length <= _HEADER_MAX or length + 8 > len(data):
        return False
    text = data[8 : 8 + length]
    return text[:1] == b"{" and text.rstrip(b" \t\r\n")[-1:] == b"}" and b'"data_offsets"' in text


def spans(data: bytes) -> list[Span]:
    """The header and the tensors of a file.

    Raises:
        RefusedError: It does not hold what safetensors must.
    """
    cursor = Cursor(data)
    length = cursor.number(8)
    require(length <= _HEADER_MAX, "a header over 16 MiB")
    header = _object(cursor.take(length))
    metadata = header.pop("__metadata__", {})
    require(isinstance(metadata, dict) and len(metadata) <= _COUNT_MAX, "metadata that is no object")
    require(all(isinstance(value, str) for value in metadata.values()), "metadata that is no text")
    check_tensors(list(header))
    tensors = sorted(_tensor(name, value) for name, value in header.items())
    end = 0
    for tensor in tensors:
        require(tensor.offset == end, "tensors that do not touch")
        end = tensor.end
    require(end == len(cursor.left), "tensors that do not end with the file")
    return [Span("HEADER", 8 + length), *(tensor.span for tensor in tensors)]


def _object(text: bytes) -> dict[str, Any]:
    require(text[:1] == b"{", "a header that does not start with an object")
    try:
        found = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_pairs,
            parse_int=_integer,
            parse_float=_refuse,
            parse_constant=_refuse,
        )
        _check_text(found)
    except (ValueError, RecursionError) as error:
        raise RefusedError(str(error)) from error
    return dict(found)


def _check_text(value: Any) -> None:
    """Strings decode to Unicode scalar values."""
    if isinstance(value, str):
        values.utf8(value)
    elif isinstance(value, list | dict):
        for item in [*value, *(value.values() if isinstance(value, dict) else ())]:
            _check_text(item)


def _tensor(name: str, value: Any) -> Tensor:
    require(isinstance(value, dict) and set(value) == {"dtype", "shape", "data_offsets"}, "the fields of a tensor")
    dtype, shape, place = value["dtype"], value["shape"], value["data_offsets"]
    require(isinstance(dtype, str) and dtype in BITS, "a dtype")
    for numbers in (shape, place):
        require(isinstance(numbers, list) and len(numbers) <= 64, "not at most 64 numbers")
        require(all(type(number) is int and number < 2**63 for number in numbers), "not numbers below 2^63")
    require(len(place) == 2, "not begin and end")
    length = bytes_of(shape, 1, BITS[dtype])
    bits = BITS[dtype]
    for side in shape:
        bits *= side
    require(bits % 8 == 0 and place[1] - place[0] == length, "an extent that shape and dtype do not give")
    return Tensor(place[0], length, name, dtype, tuple(shape))


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    require(len(dict(pairs)) == len(pairs), "a key that comes twice")
    return dict(pairs)


def _integer(text: str) -> int:
    require(re.fullmatch("0|[1-9][0-9]*", text), "a number with a sign or a leading zero")
    return int(text)


def _refuse(text: str) -> None:
    raise RefusedError(f"the number {text}")
