"""The ``Range`` header of a request, read strictly (RFC 9110, section 14): one range of bytes, or nothing of it.

A unit that is not known is ignored, as the standard wants. A set of several ranges, which would be answered by many
bodies for one request, is refused like a range that cannot be satisfied.
"""

from __future__ import annotations

import re
from typing import Final

# More digits than any file needs: nobody can make this parse a number of 8 KiB.
_RANGE: Final = re.compile(r"([0-9]{0,18})-([0-9]{0,18})")


def range_of(value: str | None, whole: int) -> tuple[int, int] | None:
    """The first byte and the length that a ``Range`` header asks for, of ``whole`` bytes.

    None is all of them: there is no header, or its unit is not bytes. A length of 0 is a range that is refused: it
    begins behind the end, ends before its begin, or is none.
    """
    unit, equals, text = (value or "").partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return None
    match = _RANGE.fullmatch(text.strip())
    if match is None or not (match[1] or match[2]):
        return 0, 0
    if not match[1]:  # The last bytes, however many there are.
        length = min(int(match[2]), whole)
        return whole - length, length
    first = int(match[1])
    last = int(match[2]) if match[2] else whole - 1
    return first, max(0, min(last + 1, whole) - first)
