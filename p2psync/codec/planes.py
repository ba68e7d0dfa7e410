"""Hides the full form of floats of two and four bytes: byte planes, each packed where that pays.

Trained weights have few exponents, and signs and mantissas that are noise: only the exponent shrinks. An element is
rotated left by one bit, so that the exponent fills its highest byte (of F16, with the first three bits of the mantissa)
and the sign stands among the noise in its lowest one.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from p2psync.codec import zstd
from p2psync.codec.difference import Data, elements
from p2psync.codec.layout import Layout
from p2psync.errors import MalformedError

_LENGTH_BYTES: Final = 3
# A packed plane takes as long to read as the rest of the chunk, so it must save this share of its bytes.
_GAIN_MIN: Final = 1 / 64
# Elements that are looked at first, in so many places.
_PROBE: Final = 1 << 13
_PROBES: Final = 8
# Elements that are taken apart, or put together, at once: what this takes stays in the second-level cache.
_SPAN: Final = 1 << 16


def encode(raw: Data, layout: Layout) -> bytes | None:
    """The body: which planes are packed, then the planes from the highest byte down. See ``docs/format.md``.

    None where there is no whole element, or where an element is no float of two or four bytes.
    """
    if not fits(len(raw), layout) or _is_noise(elements(raw, layout)):
        return None
    packed, parts = 0, []
    for number, plane in enumerate(_split(elements(raw, layout))):
        frame = zstd.pack(plane)
        if _pays(frame, plane):
            packed |= 1 << number
            parts += [len(frame).to_bytes(_LENGTH_BYTES, "little"), frame]
        else:
            parts.append(plane.tobytes())
    return b"".join((bytes((packed,)), *parts))


def _is_noise(found: NDArray[Any]) -> bool:
    """Whether a part of a large chunk shows that none of its planes would be packed: then it is not taken apart."""
    if found.size < _PROBES * _PROBE:
        return False
    step = found.size // _PROBES
    probe = np.concatenate([found[i * step : i * step + _PROBE // _PROBES] for i in range(_PROBES)])
    return not any(_pays(zstd.pack(plane), plane) for plane in _split(probe))


def _pays(frame: bytes, plane: NDArray[np.uint8]) -> bool:
    return len(frame) < plane.size * (1 - _GAIN_MIN) - _LENGTH_BYTES


def decode(body: Data, layout: Layout, raw_bytes: int) -> bytearray:
    """The chunk of ``raw_bytes`` bytes whose body this is.

    Raises:
        MalformedError: the body is none of so many bytes.
    """
    if not fits(raw_bytes, layout):
        raise MalformedError(f"planes of {raw_bytes} bytes in elements of {layout.element_bytes}")
    planes = _planes(memoryview(body), layout.element_bytes, raw_bytes // layout.element_bytes)
    raw = bytearray(raw_bytes)
    _join(planes, elements(raw, layout))
    return raw


def fits(raw_bytes: int, layout: Layout) -> bool:
    """Whether so many bytes are floats that this form is for."""
    size = layout.element_bytes
    return size in (2, 4) and layout.exponent_bits > 0 and raw_bytes > 0 and raw_bytes % size == 0


def _planes(body: memoryview, count: int, size: int) -> list[NDArray[np.uint8]]:
    """Read ``count`` planes of ``size`` bytes each, which the body holds and nothing else."""
    if not body or body[0] >> count:
        raise MalformedError("planes without their first byte, or more of them than an element has bytes")
    packed, at = body[0], 1
    planes = []
    for number in range(count):
        if packed >> number & 1:
            start = at + _LENGTH_BYTES
            at = start + int.from_bytes(body[at:start], "little")
            plane = np.frombuffer(zstd.unpack(body[start:at], size), np.uint8)
        else:
            plane = np.frombuffer(body[at : at + size], np.uint8)
            at += size
        planes.append(plane)
    if at != len(body) or any(plane.size != size for plane in planes):
        raise MalformedError(f"planes end at byte {at} of a body of {len(body)}")
    return planes


def _split(x: NDArray[Any]) -> list[NDArray[np.uint8]]:
    """The planes of elements, the highest first."""
    size = x.dtype.itemsize
    planes = [np.empty(x.size, np.uint8) for _ in range(size)]
    span = np.empty((2, min(x.size, _SPAN)), x.dtype)
    for start in range(0, x.size, _SPAN):
        part = x[start : start + _SPAN]
        turned, top = span[:, : part.size]
        np.left_shift(part, 1, out=turned)
        np.right_shift(part, 8 * size - 1, out=top)
        turned |= top
        for plane in reversed(planes):
            # The cast keeps the lowest byte.
            np.copyto(plane[start : start + _SPAN], turned, casting="unsafe")
            turned >>= 8
    return planes


def _join(planes: list[NDArray[np.uint8]], out: NDArray[Any]) -> None:
    """Undo ``_split`` into ``out``."""
    span = np.empty((2, min(out.size, _SPAN)), out.dtype)
    for start in range(0, out.size, _SPAN):
        part = out[start : start + _SPAN]
        turned, low = span[:, : part.size]
        turned[...] = planes[0][start : start + _SPAN]
        for plane in planes[1:]:
            turned <<= 8
            low[...] = plane[start : start + _SPAN]
            turned |= low
        np.right_shift(turned, 1, out=part)
        turned <<= 8 * out.itemsize - 1
        part |= turned
