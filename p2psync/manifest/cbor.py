"""The part of CBOR that nodes are written in (RFC 8949, core deterministic encoding, and less than that).

Whole numbers, byte strings, text, arrays, maps, true, false and null. Keys of maps are unsigned integers. No floats, no
tags, no other simple values, no indefinite lengths, nothing deep. That a value stands in its one encoding is proved by
whoever understood it: he writes it again and compares with ``require_same``.
"""

from __future__ import annotations

from typing import Any

import cbor2

from p2psync.errors import MalformedError
from p2psync.limits import NODE_BYTES_MAX, NODE_DEPTH_MAX, NODE_ITEMS_MAX

_BYTES, _ARRAY, _MAP, _TAG, _SIMPLE = 2, 4, 5, 6, 7
_FALSE_TRUE_NULL = (20, 21, 22)


def encode(value: Any) -> bytes:
    """Write ``value`` in its one encoding.

    The canonical order of cbor2 is that of RFC 7049, shorter keys first. For unsigned integers, the only keys that
    nodes have, it is the order of RFC 8949.

    Raises:
        MalformedError: CBOR has no form for a part of ``value``.
    """
    try:
        return cbor2.dumps(value, canonical=True)
    except cbor2.CBOREncodeError as error:
        raise MalformedError(f"no node can hold it: {error}") from error


def decode(data: bytes) -> Any:
    """Read one value. Arrays become lists, maps dicts.

    Raises:
        MalformedError: ``data`` is not exactly one value of the kinds above, or it passes a bound.
    """
    if len(data) > NODE_BYTES_MAX:
        raise MalformedError(f"a node has {len(data)} bytes, more than {NODE_BYTES_MAX}")
    _survey(data)
    try:
        value = cbor2.loads(data, max_depth=NODE_DEPTH_MAX, allow_indefinite=False, allow_duplicate_keys=False)
    except (cbor2.CBORError, ValueError) as error:
        raise MalformedError(f"a node is not readable: {error}") from error
    _refuse_foreign_keys(value)
    return value


def require_same(written: bytes, data: bytes) -> None:
    """Prove that ``data`` is the one encoding of what it says: what was understood, ``written`` again, is the same.

    Raises:
        MalformedError: it is not. Names the first byte that differs.
    """
    if written != data:
        offset = next((i for i, (a, b) in enumerate(zip(written, data, strict=False)) if a != b), len(written))
        raise MalformedError("a node is not in its one encoding", offset=offset)


def _survey(data: bytes) -> None:
    """Walk the heads of all values before any of them is made, so that nothing hostile is ever built in memory."""
    size = len(data)
    position = items = 0
    left = 1  # Values still to come in the innermost open container.
    outer: list[int] = []
    while left or outer:
        if not left:
            left = outer.pop()
            continue
        left -= 1
        items += 1
        start = position
        if start >= size:
            raise MalformedError("a node ends too early", offset=start)
        if items > NODE_ITEMS_MAX:
            raise MalformedError(f"a node holds more than {NODE_ITEMS_MAX} values", offset=start)
        major, argument = data[start] >> 5, data[start] & 31
        position += 1
        if major == _TAG:
            raise MalformedError("a node holds a tag", offset=start)
        if major == _SIMPLE:
            if argument not in _FALSE_TRUE_NULL:
                raise MalformedError("a node holds a float or an unknown simple value", offset=start)
            continue
        if argument >= 24:
            if argument > 27:
                raise MalformedError("a node holds an indefinite or reserved length", offset=start)
            end = position + (1 << (argument - 24))
            argument = int.from_bytes(data[position:end])
            position = end
        if major in (_ARRAY, _MAP):
            outer.append(left)
            left = argument if major == _ARRAY else 2 * argument
            if len(outer) > NODE_DEPTH_MAX:
                raise MalformedError(f"a node is nested deeper than {NODE_DEPTH_MAX}", offset=start)
        elif major >= _BYTES:
            position += argument
        if position > size:
            raise MalformedError("a node ends too early", offset=start)
    if position != size:
        raise MalformedError("a node has bytes behind its end", offset=position)


def _refuse_foreign_keys(value: Any) -> None:
    items = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    if isinstance(value, dict) and any(type(key) is not int or key < 0 for key in value):
        raise MalformedError("a node holds a map whose keys are not unsigned integers")
    for item in items:
        if isinstance(item, (list, dict)):
            _refuse_foreign_keys(item)
