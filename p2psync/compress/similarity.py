"""How alike two clips look: structural similarity, in NumPy."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from p2psync.errors import UnsupportedModelError

WINDOW: Final = 11
_SIGMA: Final = 1.5
# (0.01 * range) ** 2 and (0.03 * range) ** 2 for values from 0 to 1.
_C1: Final = 1e-4
_C2: Final = 9e-4


def ssim(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Mean structural similarity (Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861).

    A Gaussian window of 11 pixels with sigma 1.5, only where it lies inside the frame, population covariance: what
    scikit-image computes with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1``.

    Args:
        first: (frames, height, width, channels), 0..1.
        second: The same shape.

    Returns:
        The mean over frames, places and channels; 1 for equal clips.

    Raises:
        UnsupportedModelError: shapes differ, a side is under 11 pixels, or a value is not finite.
    """
    if first.shape != second.shape or first.ndim != 4 or min(first.shape[1:3]) < WINDOW:
        raise UnsupportedModelError(f"clips of {first.shape} and {second.shape} cannot be compared")
    x, y = first.astype(np.float64), second.astype(np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise UnsupportedModelError("a clip holds NaN or infinity")
    mean_x, mean_y = _smooth(x), _smooth(y)
    spread_x = _smooth(x * x) - mean_x**2
    spread_y = _smooth(y * y) - mean_y**2
    shared = _smooth(x * y) - mean_x * mean_y
    brightness = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * shared + _C2) / (spread_x + spread_y + _C2)
    return float((brightness * structure).mean())


def _smooth(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted means over the window, along height and then width; both sides lose 10 pixels."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    for axis in (1, 2):
        length = frames.shape[axis] - WINDOW + 1
        parts = [w * frames.take(range(at, at + length), axis) for at, w in enumerate(weights)]
        frames = np.sum(parts, axis=0)
    return frames
