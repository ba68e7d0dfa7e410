"""The part of CBOR (RFC 8949) that nodes use, in the core deterministic encoding only."""

from __future__ import annotations

from typing import Any

from tests.reference.cursor import Cursor, RefusedError, require

_VALUES_MAX = 1 << 20
_DEPTH_MAX = 16
_SIMPLE = {20: False, 21: True, 22: None}


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.cursor = Cursor(data)
        self.values = 0

    def value(self, depth: int) -> Any:
        self.values += 1
        require(self.values <= _VALUES_MAX, "too many values")
        first = self.cursor.number(1)
        major, short = first >> 5, first & 31
        if major == 7:
            require(short in _SIMPLE, "a float or another simple value")
            return _SIMPLE[short]
        count = self._count(short)
        if major == 0:
            return count
        if major == 1:
            return -1 - count
        if major == 2:
            return self.cursor.take(count)
        if major == 3:
            return self._text(count)
        require(major <= 5, "a tag")
        require(depth <= _DEPTH_MAX, "too deep")
        if major == 4:
            require(count <= len(self.cursor.left), "more values than bytes")
            return [self.value(depth + 1) for _ in range(count)]
        return self._map(count, depth)

    def _count(self, short: int) -> int:
        if short < 24:
            return short
        require(short < 28, "an indefinite or reserved length")
        width: int = 1 << short - 24
        found = self.cursor.number(width, "big")
        require(found >= (24 if width == 1 else 1 << 4 * width), "a number that is not in its shortest form")
        return found

    def _text(self, count: int) -> str:
        try:
            return self.cursor.take(count).decode("utf-8")
        except UnicodeDecodeError as error:
            raise RefusedError("text that is not UTF-8") from error

    def _map(self, count: int, depth: int) -> dict[int, Any]:
        require(count <= len(self.cursor.left), "more values than bytes")
        found: dict[int, Any] = {}
        last = -1
        for _ in range(count):
            key = self.value(depth + 1)
            require(type(key) is int and key > last, "keys that are no ascending unsigned integers")
            last = key
            found[key] = self.value(depth + 1)
        return found


def decode_map(data: bytes) -> dict[int, Any]:
    """The one map that some bytes are.

    Raises:
        RefusedError: They are anything else, or the same in another encoding.
    """
    reader = _Reader(data)
    found = reader.value(1)
    reader.cursor.end()
    require(isinstance(found, dict), "a node that is no map")
    assert isinstance(found, dict)
    return found
