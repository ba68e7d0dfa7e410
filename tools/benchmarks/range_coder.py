"""A peer: differences of bit patterns through a range coder, one static model per class of base exponent.

The step of an optimiser is about as large everywhere, while what the last bit of a weight is worth grows with its
exponent; so the exponent of the old weight, which the receiver has, tells how wide the differences spread. Each chunk
carries its own models, and the classes are runs of neighbouring exponents with enough elements to pay for one.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

# The types it knows: element, mantissa bits, and the exponent's mask once those are shifted out.
LAYOUTS = {"BF16": ("<u2", 7, 0xFF), "F16": ("<u2", 10, 0x1F), "F8_E4M3": ("<u1", 3, 0x0F)}
# A difference beyond this is an escape, and stands beside the code.
_LIMIT = 255
_ESCAPE = 2 * _LIMIT + 1
_CLASS_SHARE = 256
_CLASS_ELEMENTS_MIN = 512
# Elements that are sorted at a time: what the order takes then stays in the cache, which halves the time.
_SORTED = 1 << 17


class _Block(NamedTuple):
    """A stretch of a chunk: its first element, its elements in order of class, and how many each class has."""

    begin: int
    order: NDArray[np.int64]
    counts: list[int]


def encode(raw: bytes | memoryview, base: bytes | memoryview, dtype: str) -> bytes:
    """A chunk against the chunk in its place in the base; the bytes hold everything but the base."""
    import constriction

    new, old = (np.frombuffer(data, LAYOUTS[dtype][0]) for data in (raw, base))
    signed = (new - old).view(new.dtype.str.replace("u", "i")).astype(np.int32)
    symbols = np.where(np.abs(signed) > _LIMIT, _ESCAPE, signed + _LIMIT).astype(np.int32)
    classes, blocks = _classes(old, dtype)
    tables = np.zeros((classes, _ESCAPE + 1), np.uint32)
    sorted_blocks, wide = [], []
    for begin, order, counts in blocks:
        own = symbols[begin : begin + _SORTED][order]
        sorted_blocks.append(np.split(own, np.cumsum(counts)[:-1]))
        wide.append(signed[begin : begin + _SORTED][order][own == _ESCAPE])
        for number, part in enumerate(sorted_blocks[-1]):
            tables[number] += np.bincount(part, minlength=_ESCAPE + 1).astype(np.uint32)
    models = [_model(table) for table in tables]
    coder = constriction.stream.queue.RangeEncoder()
    for parts in sorted_blocks:
        for (low, model), part in zip(models, parts, strict=True):
            if model is not None and part.size:
                coder.encode(part - low, model)
    head, escapes = zstandard.compress(_thin(tables), 9), zstandard.compress(np.concatenate(wide).tobytes(), 9)
    body: bytes = coder.get_compressed().tobytes()
    return struct.pack("<II", len(head), len(escapes)) + head + escapes + body


def decode(encoded: bytes, base: bytes | memoryview, dtype: str) -> bytes:
    """The chunk that ``encode`` was given, from the same base."""
    import constriction

    head, wide = struct.unpack_from("<II", encoded)
    models = [_model(table) for table in _thick(zstandard.decompress(encoded[8 : 8 + head]))]
    escapes = np.frombuffer(zstandard.decompress(encoded[8 + head : 8 + head + wide]), np.int32)
    coder = constriction.stream.queue.RangeDecoder(np.frombuffer(encoded[8 + head + wide :], np.uint32))
    old = np.frombuffer(base, LAYOUTS[dtype][0])
    made, escaped = np.empty_like(old), 0
    for begin, order, counts in _classes(old, dtype)[1]:
        signed = np.concatenate([
            np.full(count, low, np.int32) if model is None or not count else coder.decode(model, count) + low
            for (low, model), count in zip(models, counts, strict=True)
        ]) - _LIMIT  # fmt: skip
        if escapes.size:
            places = np.flatnonzero(signed == _ESCAPE - _LIMIT)
            signed[places] = escapes[escaped : escaped + places.size]
            escaped += places.size
        made[begin : begin + _SORTED][order] = signed.astype(old.dtype)
    made += old
    return made.tobytes()


def _classes(old: NDArray[Any], dtype: str) -> tuple[int, list[_Block]]:
    """How many classes a chunk's old elements have, and each block's place, order by class, and elements per class."""
    _, mantissa_bits, mask = LAYOUTS[dtype]
    exponents = (old >> mantissa_bits & mask).astype(np.uint8)
    class_of, last, filled = np.zeros(mask + 1, np.uint8), 0, 0
    for exponent, count in enumerate(np.bincount(exponents, minlength=mask + 1).tolist()):
        if filled >= max(old.size // _CLASS_SHARE, _CLASS_ELEMENTS_MIN):
            last, filled = last + 1, 0
        class_of[exponent] = last
        filled += count
    found = class_of[exponents]
    blocks = []
    for begin in range(0, old.size, _SORTED):
        own = found[begin : begin + _SORTED]
        order = np.argsort(own, kind="stable")
        blocks.append(_Block(begin, order, np.bincount(own, minlength=last + 1).tolist()))
    return last + 1, blocks


def _reach(table: NDArray[np.uint32]) -> tuple[int, int]:
    """The lowest and the highest symbol that occurs; (0, 0) where none does."""
    found = np.flatnonzero(table)
    return (int(found[0]), int(found[-1])) if found.size else (0, 0)


def _model(table: NDArray[np.uint32]) -> tuple[int, Any]:
    """The lowest symbol of a class, and a model of the symbols from there on; None where there is but one."""
    import constriction

    low, high = _reach(table)
    if low == high:
        return low, None
    own = table[low : high + 1]
    # In F64, which holds these whole numbers and so gives both sides the same model.
    return low, constriction.stream.model.Categorical(own / own.sum(), perfect=False)


def _thin(tables: NDArray[np.uint32]) -> bytes:
    """Counts from the middle outwards, so that small differences stand together, in planes of bytes."""
    ordered = np.ascontiguousarray(tables[:, _OUTWARDS]).reshape(-1).view(np.uint8)
    return np.ascontiguousarray(ordered.reshape(-1, 4).T).tobytes()


def _thick(thin: bytes) -> NDArray[np.uint32]:
    planes = np.frombuffer(thin, np.uint8).reshape(4, -1)
    ordered = np.ascontiguousarray(planes.T).view(np.uint32).reshape(-1, _ESCAPE + 1)
    tables = np.empty_like(ordered)
    tables[:, _OUTWARDS] = ordered
    return tables


_OUTWARDS = np.argsort(np.abs(np.arange(_ESCAPE + 1) - _LIMIT), kind="stable")
