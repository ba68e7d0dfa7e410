"""How a file becomes spans, and a span becomes chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from tests.reference import gguf, onnx, safetensors
from tests.reference.cursor import require
from tests.reference.span import Span, Tensor

_MINIMUM, _AVERAGE, _MAXIMUM = 65_536, 262_144, 1_048_576
_STRICT, _LOOSE = 0x0000D91707537000, 0x0000D90703537000
_GEAR = [int.from_bytes(hashlib.md5(bytes([value]) * 64).digest()[:8], "big") for value in range(256)]
_MODULO = (1 << 64) - 1


def layout(name: str, data: bytes, skeletons: Mapping[str, bytes]) -> tuple[str, list[Span]]:
    """The format of a file and its spans; ``skeletons`` are the ONNX files of its version.

    Raises:
        RefusedError: The file does not hold what its format must, or a tensor of a skeleton ends behind it.
    """
    tensors = [
        tensor for path, skeleton in skeletons.items() for tensor in onnx.external_tensors(path, skeleton).get(name, [])
    ]
    require(all(tensor.end <= len(data) for tensor in tensors), "an external tensor that ends behind its file")
    if name.lower().endswith(".safetensors") or safetensors.is_framed(data):
        return "SAFETENSORS", safetensors.spans(data)
    if tensors:
        return "ONNX_DATA", _onnx_spans(tensors, len(data))
    if name.lower().endswith(".gguf") or gguf.is_begun(data):
        return "GGUF", gguf.spans(data)
    return "BYTES", [Span("BYTES", len(data))] if data else []


def _onnx_spans(tensors: list[Tensor], size: int) -> list[Span]:
    first: dict[tuple[int, int], Tensor] = {}
    for tensor in sorted(tensors):
        first.setdefault((tensor.offset, tensor.length), tensor)
    found, end = [], 0
    for tensor in first.values():
        require(tensor.offset >= end, "tensors that overlap in part")
        found += [Span("GAP", tensor.offset - end)] * (tensor.offset > end) + [tensor.span]
        end = tensor.end
    return found + [Span("GAP", size - end)] * (size > end)


def chunks(kind: str, data: bytes) -> list[bytes]:
    """The chunks of a span's bytes."""
    if kind != "BYTES":
        return [data[at : at + _MAXIMUM] for at in range(0, len(data), _MAXIMUM)]
    found = []
    while data:
        length = _next(data)
        found.append(data[:length])
        data = data[length:]
    return found


def _next(data: bytes) -> int:
    count = len(data)
    if count <= _MINIMUM:
        return count
    count = min(count, _MAXIMUM)
    turn, stop = min(count, _AVERAGE) // 2 * 2, count // 2 * 2
    fingerprint = 0
    for at in range(_MINIMUM, stop):
        fingerprint = (2 * fingerprint + _GEAR[data[at]]) & _MODULO
        if not fingerprint & (_STRICT if at < turn else _LOOSE):
            return at
    return count
