"""Typed fields of a node: each function returns the value that it was given, or says what should have been there."""

from __future__ import annotations

import re
from typing import Any, Final

from p2psync.content import DIGEST_BYTES, Digest
from p2psync.errors import MalformedError
from p2psync.limits import INTEGER_MAX, WORD_CHARS_MAX

_WORD: Final = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{WORD_CHARS_MAX - 1}}}")


def array(value: Any, what: str, count_max: int) -> list[Any]:
    """An array of at most ``count_max`` values."""
    if not isinstance(value, list):
        raise MalformedError(f"{what}: no array")
    if len(value) > count_max:
        raise MalformedError(f"{what}: {len(value)} values, more than {count_max}")
    return value


def integer(value: Any, what: str, maximum: int = INTEGER_MAX) -> int:
    """An integer from 0 to ``maximum``. True is none."""
    if type(value) is not int or not 0 <= value <= maximum:
        raise MalformedError(f"{what}: no integer from 0 to {maximum}")
    return value


def text(value: Any, what: str) -> str:
    """Any text."""
    if not isinstance(value, str):
        raise MalformedError(f"{what}: no text")
    return value


def word(value: Any, what: str) -> str:
    """A short name for machines."""
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise MalformedError(f"{what}: not 1 to {WORD_CHARS_MAX} of a-z, 0-9, dot, underscore and dash")
    return value


def octets(value: Any, what: str) -> bytes:
    """Any byte string."""
    if not isinstance(value, bytes):
        raise MalformedError(f"{what}: no byte string")
    return value


def digest(value: Any, what: str) -> Digest:
    """One digest."""
    if not isinstance(value, bytes) or len(value) != DIGEST_BYTES:
        raise MalformedError(f"{what}: no digest of {DIGEST_BYTES} bytes")
    return Digest(value)


def digests(value: Any, what: str, count_max: int = INTEGER_MAX) -> tuple[Digest, ...]:
    """At most ``count_max`` digests, one after another in one byte string."""
    packed = octets(value, what)
    count, rest = divmod(len(packed), DIGEST_BYTES)
    if rest or count > count_max:
        raise MalformedError(f"{what}: {len(packed)} bytes are not whole digests, or more than {count_max}")
    return tuple(Digest(packed[i * DIGEST_BYTES : (i + 1) * DIGEST_BYTES]) for i in range(count))
