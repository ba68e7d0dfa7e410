"""The small values of nodes and heads: numbers in bounds, digests, paths, and names of every sort."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from tests.reference.cursor import require

_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\\\\]")
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])", re.IGNORECASE)
_LABEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DTYPE = re.compile(r"[A-Za-z0-9_]{1,32}")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def whole(value: Any, most: int, least: int = 0) -> int:
    """A number in bounds.

    Raises:
        RefusedError: It is none.
    """
    require(type(value) is int and least <= value <= most, f"not a number from {least} to {most}")
    return int(value)


def listed(value: Any) -> list[Any]:
    """An array.

    Raises:
        RefusedError: It is none.
    """
    require(isinstance(value, list), "not an array")
    return list(value)


def digest(value: Any) -> bytes:
    """One digest.

    Raises:
        RefusedError: It is none.
    """
    require(isinstance(value, bytes) and len(value) == 32, "not a digest")
    return bytes(value)


def digests(value: Any, least: int = 1) -> list[bytes]:
    """Digests that stand in one byte string.

    Raises:
        RefusedError: They do not, or are fewer than ``least``.
    """
    require(isinstance(value, bytes) and len(value) % 32 == 0 and len(value) >= 32 * least, "not digests")
    return [value[at : at + 32] for at in range(0, len(value), 32)]


def numbers(value: Any) -> list[int]:
    """Four big-endian bytes each.

    Raises:
        RefusedError: They are not.
    """
    require(isinstance(value, bytes) and len(value) % 4 == 0, "not numbers of four bytes")
    return [int.from_bytes(value[at : at + 4], "big") for at in range(0, len(value), 4)]


def label(value: Any) -> str:
    """The name of a variant, a backend or a precision."""
    require(isinstance(value, str) and _LABEL.fullmatch(value), "not a name of a variant, backend or precision")
    return str(value)


def dtype(value: Any) -> str:
    """The dtype of a tensor."""
    require(isinstance(value, str) and _DTYPE.fullmatch(value), "not a dtype")
    return str(value)


def tensor_name(value: Any) -> str:
    """The name of a tensor."""
    require(isinstance(value, str), "not a name")
    encoded = utf8(value)
    require(1 <= len(encoded) <= 1024, "the length of a name")
    require(not value.startswith("/") and ".." not in value.split("/"), "a name that leads out")
    require(not _FORBIDDEN.search(value), "a character in a name")
    return str(value)


def utf8(value: str) -> bytes:
    """Its bytes; a lone surrogate has none."""
    require(not any("\ud800" <= letter <= "\udfff" for letter in value), "a lone surrogate")
    return value.encode()


def path(value: Any) -> str:
    """The path of a file."""
    require(isinstance(value, str) and 1 <= len(utf8(value)) <= 1024, "the length of a path")
    require(unicodedata.is_normalized("NFC", value), "a path that is not in form C")
    require(value[0] not in "/~" and not _FORBIDDEN.search(value), "a character in a path")
    parts = value.split("/")
    require(len(parts) <= 32, "too many parts")
    for part in parts:
        require(1 <= len(part.encode()) <= 255 and part not in (".", ".."), "a part of a path")
        require(not re.match("[A-Za-z]:", part) and part[-1] not in ". ", "a part that Windows does not have")
        require(not _DEVICE.fullmatch(part.split(".")[0].rstrip(" ")), "a device of Windows")
    return str(value)


def folded(value: str) -> str:
    """How paths are compared."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", value).casefold())


def check_apart(paths: Sequence[str]) -> None:
    """No two paths are equal when they are compared, and none is the directory of another.

    Raises:
        RefusedError: Two are.
    """
    seen = [folded(value) for value in paths]
    require(len(set(seen)) == len(seen), "two paths that are one")
    above = {parent for value in seen for parent in _parents(value)}
    require(not above & set(seen), "a file that is a directory")


def _parents(value: str) -> Iterator[str]:
    parts = value.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))


def name(value: Any) -> str:
    """The name of a model: its parts, and the words that none of them may be."""
    require(isinstance(value, str) and len(value) <= 96, "the length of a name")
    parts = value.split("/")
    require(2 <= len(parts) <= 4 and all(_PART.fullmatch(part) for part in parts), "the parts of a name")
    for part in parts:
        kept = part in ("tags", "digests") or re.fullmatch("[0-9a-f]{64}", part) or part.endswith(".json")
        require(not kept, "a part that homes and trees keep")
    return str(value)


def tag(value: Any) -> str:
    """The tag of a version."""
    require(isinstance(value, str) and len(value) <= 64 and _PART.fullmatch(value), "a tag")
    return str(value)


def printed(value: Any) -> bytes:
    """A digest as it is printed."""
    require(isinstance(value, str) and re.fullmatch("b3:[0-9a-f]{64}", value), "not a digest")
    return bytes.fromhex(value[3:])
