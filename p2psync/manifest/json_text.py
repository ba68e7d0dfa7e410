"""One JSON value, one text: no duplicate keys, no floats, nothing deep, nothing around it."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from p2psync.errors import MalformedError


def encode_json(value: Any) -> bytes:
    """Write ``value`` in its one text: ASCII, keys sorted, no spaces."""
    return json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def decode_json(data: bytes, *, depth_max: int, what: str) -> Any:
    """Read a value that stands in its one text.

    Args:
        data: The text. Its caller has bounded its length.
        depth_max: Arrays and objects inside each other.
        what: Names the value in messages.

    Raises:
        MalformedError: it is no JSON, or JSON that has another text: spaces, another order, a byte order mark.
    """
    try:
        text = data.decode("ascii")
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
        )
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"{what} is no JSON as p2psync writes it: {error}"[:200]) from error
    if _depth_over(value, depth_max):
        raise MalformedError(f"{what} is nested deeper than {depth_max}")
    if "\\ud" in text and _has_half_pair(value):
        raise MalformedError(f"{what} holds half of a surrogate pair")
    if encode_json(value) != data:
        raise MalformedError(f"{what} is not in its one text: keys sorted, no spaces")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return value


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"the number {text[:40]} is no integer")


def _depth_over(value: Any, left: int) -> bool:
    if not isinstance(value, (list, dict)):
        return False
    items = value.values() if isinstance(value, dict) else value
    return left == 0 or any(_depth_over(item, left - 1) for item in items)


def _has_half_pair(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
