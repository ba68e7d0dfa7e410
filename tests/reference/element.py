"""The dtypes of encoded chunks: how wide an element is, and where its exponent stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.reference.cursor import require

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Element:
    """Bits of an element, of its exponent and of what stands below the exponent."""

    name: str
    bits: int
    exponent_bits: int = 0
    mantissa_bits: int = 0

    @property
    def width(self) -> int:
        """Bytes of an element."""
        return self.bits // 8

    @property
    def unsigned(self) -> str:
        """The type of its bit pattern, as numpy names it."""
        return f"<u{self.width}"

    @property
    def signed(self) -> str:
        """The type of a difference."""
        return f"<i{self.width}"

    def patterns(self, raw: bytes) -> Array:
        """Bit patterns of the elements of a chunk.

        Raises:
            RefusedError: It is no whole number of elements.
        """
        require(len(raw) % self.width == 0, "a length inside an element")
        return np.frombuffer(raw, self.unsigned)

    def exponents(self, raw: bytes) -> Array:
        """What stands in the exponent's bits, without its bias."""
        return self.patterns(raw) >> self.mantissa_bits & (1 << self.exponent_bits) - 1


ELEMENTS = {
    1: Element("BF16", 16, 8, 7),
    2: Element("F16", 16, 5, 10),
    3: Element("F32", 32, 8, 23),
    4: Element("F8_E4M3", 8, 4, 3),
    5: Element("F8_E5M2", 8, 5, 2),
    6: Element("I8", 8),
    7: Element("U8", 8),
}
