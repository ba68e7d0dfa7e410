"""JSON objects from outside, read field by field: what is wrong is named by its place, what is unknown is kept."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any, Final, NoReturn

from p2psync.content import Digest
from p2psync.errors import IncompleteModelError, MalformedError
from p2psync.limits import ENGINE_FILE_BYTES_MAX, ENGINE_FILE_DEPTH_MAX, INTEGER_MAX, WORD_CHARS_MAX

_TEXT_CHARS_MAX: Final = 4096
_MISSING: Final = object()
# Half of a pair can be written as an escape; no path, terminal or file takes it.
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\ud800-\udfff]")


def read_object(path: Path, *, bytes_max: int = ENGINE_FILE_BYTES_MAX) -> Fields:
    """Read a file that holds one JSON object.

    Raises:
        IncompleteModelError: there is no such file, or it cannot be read.
        MalformedError: it is too long, no JSON object, holds a key twice or a number that is none.
    """
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise IncompleteModelError(
            f"{path}: {os.strerror(error.errno or 0)}", hint="p2psync verify says what is missing"
        ) from error
    return parse_object(data, path.name, bytes_max=bytes_max)


def parse_object(data: bytes, what: str, *, bytes_max: int = ENGINE_FILE_BYTES_MAX) -> Fields:
    """Read the text of one JSON object.

    Raises:
        MalformedError: as for ``read_object``.
    """
    if len(data) > bytes_max:
        raise MalformedError(f"{what} is longer than {bytes_max} bytes")
    try:
        value = json.loads(data.decode(), object_pairs_hook=_object, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"{what} is no JSON: {str(error)[:120]}") from error
    if not isinstance(value, dict):
        raise MalformedError(f"{what} is no JSON object")
    if _depth_over(value, ENGINE_FILE_DEPTH_MAX):
        raise MalformedError(f"{what} is nested deeper than {ENGINE_FILE_DEPTH_MAX}")
    return Fields(value, what)


class Fields:
    """The fields of one object. Each is taken once; ``rest()`` are those that nobody took."""

    def __init__(self, value: Any, what: str) -> None:
        if not isinstance(value, dict):
            raise MalformedError(f"{what}: no object")
        self._left = dict(value)
        self.what = what

    def has(self, name: str) -> bool:
        """Whether there is a field ``name`` that is not null. A null counts as taken."""
        if self._left.get(name) is None:
            self._left.pop(name, None)
            return False
        return True

    def keys(self) -> list[str]:
        """The names of the fields that were not taken yet."""
        return list(self._left)

    def rest(self) -> dict[str, Any]:
        """What was not taken."""
        return dict(self._left)

    def object(self, name: str) -> Fields:
        """An object."""
        return Fields(self._take(name), self._at(name))

    def integer(self, name: str, low: int = 0, high: int = INTEGER_MAX) -> int:
        """An integer from ``low`` to ``high``. True is none."""
        value = self._take(name)
        if type(value) is not int or not low <= value <= high:
            raise MalformedError(f"{self._at(name)}: no integer from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float) -> float:
        """A number from ``low`` to ``high``."""
        return _number(self._take(name), self._at(name), low, high)

    def numbers(
        self, name: str, count_max: int, *, low: float = -math.inf, high: float = math.inf
    ) -> tuple[float, ...]:
        """A list of at most ``count_max`` finite numbers."""
        return tuple(_number(v, self._at(name), low, high) for v in self.list(name, count_max))

    def integers(self, name: str, count_max: int) -> tuple[int, ...]:
        """A list of at most ``count_max`` integers that are not negative."""
        values = self.list(name, count_max)
        if any(type(value) is not int or not 0 <= value <= INTEGER_MAX for value in values):
            raise MalformedError(f"{self._at(name)}: not all integers from 0")
        return tuple(values)

    def list(self, name: str, count_max: int) -> list[Any]:
        """A list of at most ``count_max`` values."""
        value = self._take(name)
        if not isinstance(value, list) or len(value) > count_max:
            raise MalformedError(f"{self._at(name)}: no list of at most {count_max}")
        return value

    def text(self, name: str) -> str:
        """A text of at most 4,096 characters."""
        return check_text(self._take(name), self._at(name), _TEXT_CHARS_MAX)

    def word(self, name: str) -> str:
        """A text of 1 to 64 characters."""
        value = check_text(self._take(name), self._at(name), WORD_CHARS_MAX)
        if not value:
            raise MalformedError(f"{self._at(name)}: empty")
        return value

    def digest(self, name: str) -> Digest:
        """A digest: ``b3:`` and 64 hex digits."""
        return Digest.parse(self.text(name))

    def _take(self, name: str) -> Any:
        value = self._left.pop(name, _MISSING)
        if value is _MISSING:
            raise MalformedError(f"{self._at(name)}: missing")
        return value

    def _at(self, name: str) -> str:
        return f"{self.what}: {name}"


def check_text(value: Any, what: str, chars_max: int) -> str:
    """A text of at most ``chars_max`` characters without control characters and halves of surrogate pairs.

    Raises:
        MalformedError: it is not.
    """
    if not isinstance(value, str) or len(value) > chars_max or _UNPRINTABLE.search(value):
        raise MalformedError(f"{what}: no text of at most {chars_max} characters")
    return value


def _number(value: Any, what: str, low: float, high: float) -> float:
    if type(value) not in {int, float} or not low <= value <= high or not math.isfinite(value):
        raise MalformedError(f"{what}: no number from {low} to {high}")
    return float(value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return value


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _depth_over(value: Any, left: int) -> bool:
    if not isinstance(value, (list, dict)):
        return False
    items = value.values() if isinstance(value, dict) else value
    return left == 0 or any(_depth_over(item, left - 1) for item in items)
