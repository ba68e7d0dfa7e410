"""A file as the readers of formats see it: small bounded reads, and faults that name the file and the byte."""

from __future__ import annotations

import struct
from typing import Final

from p2psync.content.spans import ReadAt
from p2psync.errors import MalformedError
from p2psync.limits import READ_AHEAD_BYTES

_POINTER: Final = b"version https://git-lfs"


class Window:
    """Reads a file of ``size`` bytes at any offset, some bytes ahead, and never past its end."""

    __slots__ = ("_base", "_buffer", "_read_at", "name", "size")

    def __init__(self, name: str, size: int, read_at: ReadAt) -> None:
        self.name = name
        self.size = size
        self._read_at = read_at
        self._buffer = b""
        self._base = 0

    def ahead(self, offset: int, length: int) -> tuple[bytes, int]:
        """Bytes from ``offset`` on, as a buffer and where in it they start.

        At least ``length`` bytes follow that place, or as many as the file has.

        Raises:
            MalformedError: the file is shorter than its size says.
        """
        index = offset - self._base
        needed = min(length, self.size - offset)
        if index < 0 or index + needed > len(self._buffer):
            wanted = min(max(length, READ_AHEAD_BYTES), self.size - offset)
            self._buffer = self._read_at(offset, wanted)
            self._base = offset
            index = 0
            if len(self._buffer) != wanted:
                raise self.fault(f"is shorter than its {self.size} bytes", offset + len(self._buffer))
        return self._buffer, index

    def take(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes at ``offset``.

        Raises:
            MalformedError: the file ends before.
        """
        if length > self.size - offset:
            raise self.fault(f"ends after {self.size} bytes, in the middle of a value", offset)
        buffer, index = self.ahead(offset, length)
        return buffer[index : index + length]

    def u32(self, offset: int) -> int:
        """The little-endian unsigned 32-bit number at ``offset``."""
        return int.from_bytes(self.take(offset, 4), "little")

    def u64s(self, offset: int, count: int) -> tuple[int, ...]:
        """``count`` little-endian unsigned 64-bit numbers at ``offset``."""
        return struct.unpack(f"<{count}Q", self.take(offset, 8 * count))

    def fault(self, message: str, offset: int | None = None) -> MalformedError:
        """The error that says what is wrong with this file, and at which byte."""
        return MalformedError(f"{self.name} {message}", offset=offset)

    def refuse_pointer(self) -> None:
        """Refuse what stands in place of a large file in a Git LFS checkout.

        Raises:
            MalformedError: the file is such a pointer.
        """
        if self.size >= len(_POINTER) and self.take(0, len(_POINTER)) == _POINTER:
            raise MalformedError(
                f"{self.name} is a Git LFS pointer, not the file that it points to",
                hint="run `git lfs pull` where the file came from, then publish again",
            )
