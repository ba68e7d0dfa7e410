"""Graphs of a few hundred bytes, to find out what a backend really runs. Written as protobuf by hand.

The node needs no ``onnx`` package for this: a model of one operator is a dozen fields (onnx.proto3, ModelProto). Every
graph takes ``x`` (and ``y``) and gives ``z``; all dimensions are fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

_IR_VERSION: Final = 8
_OPSET: Final = 17
FLOAT: Final = 1
INT32: Final = 6
UINT8: Final = 2
INT8: Final = 3
FLOAT16: Final = 10

Shape = tuple[int, ...]


def graph(operator: str, inputs: Sequence[tuple[int, Shape]], output: tuple[int, Shape], **integers: int) -> bytes:
    """A model of one operator.

    Args:
        operator: Its name; a domain stands before a colon, as in ``com.microsoft:MultiHeadAttention``.
        inputs: Type and shape of each input.
        output: Type and shape of the output.
        integers: Attributes of the operator.
    """
    domain, _, name = operator.rpartition(":")
    names = ["x", "y", "w"][: len(inputs)]
    node = b"".join(_text(1, n) for n in names) + _text(2, "z") + _text(4, name)
    node += b"".join(_bytes(5, _text(1, key) + _number(3, value) + _number(20, 2)) for key, value in integers.items())
    node += _text(7, domain) if domain else b""
    body = _bytes(1, node) + _text(2, "probe")
    body += b"".join(_bytes(11, _value(n, *kind)) for n, kind in zip(names, inputs, strict=True))
    body += _bytes(12, _value("z", *output))
    return _number(1, _IR_VERSION) + _bytes(7, body) + b"".join(_opsets(domain))


def _opsets(domain: str) -> Iterable[bytes]:
    yield _bytes(8, _number(2, _OPSET))
    if domain:
        yield _bytes(8, _text(1, domain) + _number(2, 1))


def _value(name: str, kind: int, shape: Shape) -> bytes:
    dims = b"".join(_bytes(1, _number(1, size)) for size in shape)
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, kind) + _bytes(2, dims)))


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
