"""Bytes that are read from the front, and the one error of all reference readers.

The readers of this folder are written from docs/format.md alone, slow and plain, and import nothing of p2psync. Where
they and p2psync differ, one of them or the page is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


class RefusedError(Exception):
    """The page says that such bytes are refused."""


def require(holds: object, why: str) -> None:
    """Refuse unless a rule holds.

    Raises:
        RefusedError: It does not; ``why`` names the rule.
    """
    if not holds:
        raise RefusedError(why)


@dataclass
class Cursor:
    """What is left of some bytes."""

    left: bytes

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes.

        Raises:
            RefusedError: There are fewer.
        """
        require(0 <= count <= len(self.left), f"{count} bytes of {len(self.left)} that are left")
        taken, self.left = self.left[:count], self.left[count:]
        return taken

    def number(self, count: int, order: Literal["little", "big"] = "little") -> int:
        """The next ``count`` bytes as a number without sign."""
        return int.from_bytes(self.take(count), order)

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self.left))

    def end(self) -> None:
        """Nothing is left.

        Raises:
            RefusedError: Something is.
        """
        require(not self.left, "bytes behind the end")
