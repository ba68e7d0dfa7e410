"""The forms that a chunk may travel in, by the number that stands in its first byte."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Form(IntEnum):
    """What an encoded chunk is. The numbers are frozen in docs/format.md.

    A full form needs nothing, a delta the chunk that stood at its place, a residual quantised codes and their scales.
    """

    PLANES = 1
    PACKED = 2
    NARROW = 3
    SPARSE = 4
    DIFFERENCE = 5
    TIGHT = 6
    RESIDUAL = 7


# The second byte is the code of the dtype's layout, or this where it has none.
NO_LAYOUT: Final = 0
# Form and code of the dtype, before the body.
HEAD_BYTES: Final = 2
# How many pieces of other bytes a form is decoded with.
BASES: Final = {
    Form.PLANES: 0,
    Form.PACKED: 0,
    Form.NARROW: 0,
    Form.SPARSE: 1,
    Form.DIFFERENCE: 1,
    Form.TIGHT: 1,
    Form.RESIDUAL: 2,
}
