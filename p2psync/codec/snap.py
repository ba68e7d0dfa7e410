"""How far the elements of a chunk are from those of a base, and which of them may keep the base's bits.

This is no form: what it leaves out is gone. It serves a publisher who would rather not send a change that means
nothing, before anything is signed. Distances are relative, so that one threshold serves layers of every scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from p2psync.codec.difference import Data, elements
from p2psync.codec.layout import LAYOUTS

# Of one byte every step is a large one, and integers are codes: their distance means nothing without their scale.
DTYPES: Final = frozenset({"BF16", "F16", "F32"})


@dataclass(frozen=True, slots=True)
class Change:
    """What differs between elements and their base: sums of squares, in the dtype's own units, and counts."""

    elements: int = 0
    changed: int = 0
    squared_difference: float = 0.0
    squared_base: float = 0.0
    largest: float = 0.0

    def __add__(self, other: Change) -> Change:
        return Change(
            self.elements + other.elements,
            self.changed + other.changed,
            self.squared_difference + other.squared_difference,
            self.squared_base + other.squared_base,
            max(self.largest, other.largest),
        )

    @property
    def relative(self) -> float:
        """Mean squared change over mean squared base; infinite where the base is all zero and something changed."""
        if self.squared_base:
            return self.squared_difference / self.squared_base
        return float("inf") if self.squared_difference else 0.0


def measure(raw: Data, base: Data, dtype: str) -> Change | None:
    """The change of a chunk; None where an element of either is no finite number.

    Args:
        raw: Whole elements, little endian.
        base: As many bytes.
        dtype: Of both, one of ``DTYPES``.
    """
    new, old = _values(raw, dtype), _values(base, dtype)
    if not (np.isfinite(new).all() and np.isfinite(old).all()):
        return None
    difference = new - old
    return Change(
        new.size,
        int(np.count_nonzero(elements(raw, LAYOUTS[dtype]) != elements(base, LAYOUTS[dtype]))),
        float(np.square(difference).sum()),
        float(np.square(old).sum()),
        float(np.abs(difference).max(initial=0.0)),
    )


def snapped(raw: Data, base: Data, dtype: str, steps: int) -> tuple[bytes, int]:
    """``raw`` with the base's bits where it is at most ``steps`` representable numbers away, and how many those are.

    Args:
        raw: Whole elements, little endian, all finite.
        base: As many bytes.
        dtype: Of both, one of ``DTYPES``.
        steps: 1 or more: units in the last place, counted over zero and powers of two alike.
    """
    layout = LAYOUTS[dtype]
    new, old = elements(raw, layout), elements(base, layout)
    near = (new != old) & (np.abs(_places(new) - _places(old)) <= steps)
    return np.where(near, old, new).tobytes(), int(near.sum())


def _values(data: Data, dtype: str) -> NDArray[np.float64]:
    bits = elements(data, LAYOUTS[dtype])
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return bits.view(f"<f{bits.itemsize}").astype(np.float64)


def _places(bits: NDArray[Any]) -> NDArray[np.int64]:
    """The number of each element among all that its dtype can say, in order: both zeros are 0."""
    top = 8 * bits.itemsize - 1
    size = (bits & ((1 << top) - 1)).astype(np.int64)
    return np.where(bits >> top, -size, size)
