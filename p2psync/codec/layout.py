"""Where the exponent stands in an element of each dtype that has a form of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Layout:
    """The bits of one element. An integer has no exponent: ``exponent_bits`` is 0.

    The sign is the highest bit, the exponent follows it, and the lowest ``mantissa_bits`` are the mantissa.
    """

    code: int
    element_bytes: int
    exponent_bits: int
    mantissa_bits: int


# The codes stand in encoded chunks and are frozen in docs/format.md.
LAYOUTS: Final[Mapping[str, Layout]] = {
    "BF16": Layout(1, 2, 8, 7),
    "F16": Layout(2, 2, 5, 10),
    "F32": Layout(3, 4, 8, 23),
    "F8_E4M3": Layout(4, 1, 4, 3),
    "F8_E5M2": Layout(5, 1, 5, 2),
    "I8": Layout(6, 1, 0, 0),
    "U8": Layout(7, 1, 0, 0),
}
