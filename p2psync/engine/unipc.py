"""The UniPC multistep scheduler for flow matching, in numpy.

UniPC (Zhao et al., 2023, https://arxiv.org/abs/2302.04867) in its B2(h) form of order 2, data prediction, over the
shifted sigmas of flow matching: x(sigma) = (1 - sigma) * data + sigma * noise, and the model predicts the velocity
noise - data. It makes the same numbers as ``UniPCMultistepScheduler`` of diffusers with ``flow_prediction`` and
``use_flow_sigmas``: sigmas are float32, timesteps are truncated to integers, the last steps are of order 1.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

# The first sigma stays below 1, where the logarithm of the signal would be minus infinity.
_SIGMA_MARGIN: Final = 1e-6
_ORDER: Final = 2

Latents = NDArray[np.float32]


class UniPC:
    """One run of ``steps`` steps. ``timesteps`` are what the model is told, ``sigmas`` have one more: the last is 0."""

    def __init__(self, *, steps: int, flow_shift: float, train_timesteps: int) -> None:
        line = np.linspace(1, 1 / train_timesteps, steps + 1)[:-1]
        sigmas = flow_shift * line / (1 + (flow_shift - 1) * line)
        if abs(sigmas[0] - 1) < _SIGMA_MARGIN:
            sigmas[0] -= _SIGMA_MARGIN
        self.timesteps: NDArray[np.int64] = (sigmas * train_timesteps).astype(np.int64)
        self.sigmas: NDArray[np.float32] = np.append(sigmas, 0.0).astype(np.float32)
        self._at = 0
        self._order = 0
        self._data: list[Latents] = []
        self._before: Latents | None = None

    def step(self, velocity: Latents, sample: Latents) -> Latents:
        """Go from the noise of this step to the noise of the next.

        Args:
            velocity: What the model predicted at ``timesteps[i]`` in the i-th call, in the shape of ``sample``.
            sample: What the step before returned, or pure noise.
        """
        data = sample - self.sigmas[self._at] * velocity
        if self._before is not None:
            sample = self._corrected(self._before, data)
        self._data = [*self._data[1 - _ORDER :], data]
        left = len(self.timesteps) - self._at
        self._order = min(_ORDER, left, self._order + 1)
        self._before = sample
        self._at += 1
        return self._predicted(sample)

    def _predicted(self, sample: Latents) -> Latents:
        """UniP: from the sample at the step before to the next, by the data predictions so far."""
        now, then = float(self.sigmas[self._at]), float(self.sigmas[self._at - 1])
        newest = self._data[-1]
        if now == 0.0:
            return newest
        grown = math.expm1(_log_ratio(then) - _log_ratio(now))
        moved = (now / then) * sample - ((1 - now) * grown) * newest
        if self._order == 2:
            share = self._ratio(self._at - 1)
            moved = moved - ((1 - now) * grown * 0.5 / share) * (self._data[-2] - newest)
        return np.asarray(moved, np.float32)

    def _corrected(self, sample: Latents, data: Latents) -> Latents:
        """UniC: the same step again, now that the model has spoken about its end."""
        now, then = float(self.sigmas[self._at]), float(self.sigmas[self._at - 1])
        newest = self._data[-1]
        step = _log_ratio(then) - _log_ratio(now)
        grown = math.expm1(step)
        moved = (now / then) * sample - ((1 - now) * grown) * newest
        if self._order == 1:
            return np.asarray(moved - ((1 - now) * grown * 0.5) * (data - newest), np.float32)
        older_weight, newer_weight = _weights(step, self._ratio(self._at - 1))
        older = (older_weight / self._ratio(self._at - 1)) * (self._data[-2] - newest)
        return np.asarray(moved - ((1 - now) * grown) * (older + newer_weight * (data - newest)), np.float32)

    def _ratio(self, at: int) -> float:
        """How far the step before ``at`` went, in units of the step after it, in log signal to noise; negative."""
        before, start, end = (float(sigma) for sigma in self.sigmas[at - 1 : at + 2])
        here = _log_ratio(start)
        return (_log_ratio(before) - here) / (_log_ratio(end) - here)


def _log_ratio(sigma: float) -> float:
    """Half of the logarithm of signal to noise."""
    return math.log(1 - sigma) - math.log(sigma)


def _weights(step: float, ratio: float) -> tuple[float, float]:
    """The two weights of UniC of order 2: the solution of R(ratio) w = b(step), the paper's equation for B2(h)."""
    grown = math.expm1(step)
    second = grown / step - 1
    third = second / step - 0.5
    b = (second / grown, 2 * third / grown)
    older = (b[1] - b[0]) / (ratio - 1)
    return older, b[0] - older
