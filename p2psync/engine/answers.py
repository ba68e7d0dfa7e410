"""How the answer to one stage of a golden probe is kept: a few of its values, and how far another answer is off.

Distances are in units of the spread of the whole answer. Values at single places say that an answer is of the right
kind; what a rounding of INT8 moves there can be as much as what a small damage does. Over many places such rounding
cancels out and damage does not, so an expert is also held to its means: see ADR 0018.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from p2psync.engine.strict_json import Fields
from p2psync.errors import MalformedError
from p2psync.limits import PROBE_MEANS_MAX, PROBE_VALUES_MAX, TENSOR_RANK_MAX

Values = NDArray[np.float32]
# A spread below this is a constant: differences are then taken as they are.
_SPREAD_MIN: Final = 1e-6
# Of what is written as text: finer than any tolerance, and half the bytes of all digits.
_DIGITS: Final = 7


@dataclass(frozen=True, slots=True)
class Expected:
    """One stage as the publisher saw it. ``positions`` count in the flattened array; ``deviation`` is its spread."""

    shape: tuple[int, ...]
    positions: tuple[int, ...]
    values: tuple[float, ...]
    deviation: float
    means: tuple[float, ...] = ()

    def largest(self, made: Values | None) -> float:
        """The largest difference at the recorded positions; infinite where shapes differ, or for what is no number."""
        differences = self._differences(made)
        return float("inf") if differences is None else float(np.abs(differences).max())

    def root_mean_square(self, made: Values | None) -> float:
        """The root of the mean of squared differences there, likewise."""
        differences = self._differences(made)
        return float("inf") if differences is None else float(np.sqrt(np.square(differences).mean()))

    def off_the_means(self, made: NDArray[np.float64]) -> float:
        """The same of what ``means_of`` gives."""
        if made.size != len(self.means) or not np.isfinite(made).all():
            return float("inf")
        return float(np.sqrt(np.square(made - np.array(self.means)).mean()) / max(self.deviation, _SPREAD_MIN))

    def _differences(self, made: Values | None) -> NDArray[np.float64] | None:
        if made is None or made.shape != self.shape or not np.isfinite(made).all():
            return None
        values = made.reshape(-1)[list(self.positions)].astype(np.float64)
        differences: NDArray[np.float64] = (values - np.array(self.values)) / max(self.deviation, _SPREAD_MIN)
        return differences


@dataclass(frozen=True, slots=True)
class Answer:
    """How far one stage was from what was expected, in units of its spread, and how far it may be."""

    stage: str
    distance: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether it is near enough. A distance that is no number is not."""
        return self.distance <= self.tolerance


def means_of(velocities: Values, side: int) -> NDArray[np.float64]:
    """Means of an expert's answers over clips, frames and patches.

    Args:
        velocities: [clips, channels, frames, height, width].
        side: Of a patch, in latents. Where it does not fit, a patch is one latent.

    Returns:
        One mean for each channel and each place in a patch, flat.
    """
    clips, channels, frames, height, width = velocities.shape
    if height % side or width % side:
        side = 1
    patches = velocities.reshape(clips, channels, frames, height // side, side, width // side, side)
    means: NDArray[np.float64] = patches.mean((0, 2, 3, 5), dtype=np.float64).reshape(-1)
    return means


def summary(values: Values, means: NDArray[np.float64] | None = None) -> dict[str, Any]:
    """An answer as a probe keeps it: at most 512 values, evenly over all of it, and its means."""
    flat = values.reshape(-1)
    positions = np.unique(np.linspace(0, flat.size - 1, min(flat.size, PROBE_VALUES_MAX)).astype(np.int64))
    return {
        "shape": list(values.shape),
        "positions": positions.tolist(),
        "values": [_short(value) for value in flat[positions]],
        "deviation": _short(flat.std(dtype=np.float64)),
        **({} if means is None else {"means": [_short(mean) for mean in means]}),
    }


def read_expected(fields: Fields) -> Expected:
    """Read what ``summary`` gave.

    Raises:
        MalformedError: positions, values and shape do not belong together.
    """
    shape = fields.integers("shape", TENSOR_RANK_MAX)
    positions = fields.integers("positions", PROBE_VALUES_MAX)
    values = fields.numbers("values", PROBE_VALUES_MAX)
    size = int(np.prod([int(side) for side in shape], dtype=object))
    if not positions or len(positions) != len(values) or max(positions) >= size:
        raise MalformedError(f"{fields.what}: positions, values and shape do not belong together")
    deviation = fields.number("deviation", 0.0, 1e30)
    means = fields.numbers("means", PROBE_MEANS_MAX) if fields.has("means") else ()
    return Expected(shape, positions, values, deviation, means)


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
