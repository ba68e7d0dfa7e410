"""Unsigned integers in as few bytes as they need: seven bits a byte, lowest first, the top bit for "more follow"."""

from __future__ import annotations

from typing import Final

from p2psync.errors import MalformedError

# Nine bytes hold every number below 2^63.
_BYTES_MAX: Final = 9


def varint(number: int) -> bytes:
    """Write a number (LEB128, unsigned), 0 to 2^63 - 1.

    Raises:
        ValueError: it is negative or too large.
    """
    if not 0 <= number < 1 << 7 * _BYTES_MAX:
        raise ValueError(f"{number} does not fit {_BYTES_MAX} bytes")
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(data: bytes | memoryview, place: int) -> tuple[int, int]:
    """The number that begins at ``place``, and the place after it.

    Raises:
        MalformedError: the bytes end within it, it is too long, or it could have been written shorter.
    """
    number = 0
    for count in range(_BYTES_MAX):
        if place + count >= len(data):
            raise MalformedError("a number ends too early")
        byte = data[place + count]
        number |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            if count and not byte:
                raise MalformedError("a number is longer than it need be")
            return number, place + count + 1
    raise MalformedError(f"a number has more than {_BYTES_MAX} bytes")
