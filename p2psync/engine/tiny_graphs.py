"""Graphs of a few hundred bytes, to find out what a backend really runs. Written as protobuf by hand.

The node needs no ``onnx`` package for this: a model of one operator is a dozen fields (onnx.proto3, ModelProto). Every
graph takes ``x`` (and ``y``) and gives ``z``; all dimensions are fixed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
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
    node = _node(name, names, "z")
    node += b"".join(_bytes(5, _text(1, key) + _number(3, value) + _number(20, 2)) for key, value in integers.items())
    node += _text(7, domain) if domain else b""
    return _model([node], dict(zip(names, inputs, strict=True)), output, domain=domain)


def quantized_product(square: Shape) -> bytes:
    """A model that quantises ``x`` and ``y`` to INT8 at a scale of one, as graphs of INT8 do, and multiplies them."""
    nodes = []
    for name in ("x", "y"):
        nodes.append(_node("QuantizeLinear", [name, "scale", "zero"], f"{name}_codes"))
        nodes.append(_node("DequantizeLinear", [f"{name}_codes", "scale", "zero"], f"{name}_again"))
    nodes.append(_node("MatMul", ["x_again", "y_again"], "z"))
    constants = [_constant("scale", FLOAT, struct.pack("<f", 1.0)), _constant("zero", INT8, bytes(1))]
    kind = (FLOAT, square)
    return _model(nodes, {"x": kind, "y": kind}, kind, constants)


def _model(
    nodes: Iterable[bytes],
    inputs: Mapping[str, tuple[int, Shape]],
    output: tuple[int, Shape],
    constants: Iterable[bytes] = (),
    domain: str = "",
) -> bytes:
    body = b"".join(_bytes(1, node) for node in nodes) + _text(2, "probe")
    body += b"".join(_bytes(5, constant) for constant in constants)
    body += b"".join(_bytes(11, _value(name, *kind)) for name, kind in inputs.items())
    body += _bytes(12, _value("z", *output))
    return _number(1, _IR_VERSION) + _bytes(7, body) + b"".join(_opsets(domain))


def _node(operator: str, inputs: Iterable[str], output: str) -> bytes:
    return b"".join(_text(1, name) for name in inputs) + _text(2, output) + _text(4, operator)


def _constant(name: str, kind: int, data: bytes) -> bytes:
    """A TensorProto of no dimensions."""
    return _number(2, kind) + _text(8, name) + _bytes(9, data)


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
