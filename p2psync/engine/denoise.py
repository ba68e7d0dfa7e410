"""From noise to latents: the loop over steps, the two experts, and guidance."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2psync.engine.backends import Session, cast
from p2psync.engine.description import Sampling
from p2psync.engine.unipc import Latents, UniPC
from p2psync.errors import GenerationCancelledError, WrongAnswerError

OnStep = Callable[[int, int], None]
Cancel = Callable[[], bool]
OpenPart = Callable[[str], AbstractContextManager[Session]]
Watch = Callable[[str, NDArray[Any]], None]


def first_noise(seed: int, shape: tuple[int, ...]) -> Latents:
    """The noise that a seed means: float32 of a standard normal distribution.

    The old generator of numpy is used because its stream is frozen (NEP 19); newer ones may change with a release.
    """
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def expert_of(sampling: Sampling, experts: tuple[str, ...], timestep: int) -> str:
    """Which expert makes the step at ``timestep``: the first one down to the boundary, then the second."""
    if len(experts) == 1 or sampling.boundary_ratio is None:
        return experts[0]
    return experts[0] if timestep >= sampling.boundary_ratio * sampling.train_timesteps else experts[1]


class Denoiser:
    """One run of the loop. Its callbacks: ``on_step(done, of)`` after each step, ``cancel()`` before each.

    ``watch(stage, values)`` sees the first velocity of each expert; a golden probe of format 1 uses it.
    """

    def __init__(
        self,
        sampling: Sampling,
        experts: tuple[str, ...],
        open_part: OpenPart,
        *,
        on_step: OnStep | None = None,
        cancel: Cancel | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._sampling = sampling
        self._experts = experts
        self._open_part = open_part
        self._on_step = on_step or (lambda _done, _of: None)
        self._cancel = cancel or (lambda: False)
        self._watch = watch or (lambda _stage, _values: None)

    def run(self, latents: Latents, texts: list[NDArray[np.float32]], *, steps: int, guidance: float) -> Latents:
        """Make ``steps`` steps from pure noise.

        Args:
            latents: Noise of shape [1, channels, frames, height, width].
            texts: Hidden states of the prompt, [1, length, width]; with guidance also those of the empty prompt.
            steps: How many.
            guidance: How far to go from the empty prompt's velocity towards, and beyond, the prompt's.

        Raises:
            GenerationCancelledError: ``cancel`` said so.
            WrongAnswerError: an expert answered with NaN or infinity.
            ModelError: the backend failed.
        """
        sampling = self._sampling
        schedule = UniPC(steps=steps, flow_shift=sampling.flow_shift, train_timesteps=sampling.train_timesteps)
        seen: set[str] = set()
        for done, timestep in enumerate(schedule.timesteps.tolist()):
            if self._cancel():
                raise GenerationCancelledError(f"cancelled after {done} of {steps} steps")
            name = expert_of(sampling, self._experts, timestep)
            with self._open_part(name) as expert:
                velocities = [velocity_of(expert, latents, timestep, text) for text in texts]
            velocity = velocities[0]
            if len(velocities) == 2:
                velocity = velocities[1] + np.float32(guidance) * (velocities[0] - velocities[1])
            if name not in seen:
                seen.add(name)
                self._watch(name, velocity)
            check_finite(velocity, f"expert {name}, step {done + 1}")
            latents = schedule.step(velocity, latents)
            self._on_step(done + 1, steps)
        return latents


def velocity_of(expert: Session, latents: Latents, timestep: int, text: NDArray[np.float32]) -> Latents:
    """What an expert answers: float32 in the shape of ``latents``, of which ``text`` is [1, length, width]."""
    sample, time, context = expert.inputs
    feeds = {
        sample.name: cast(latents, sample.dtype),
        time.name: cast(np.array([timestep]), time.dtype),
        context.name: cast(text, context.dtype),
    }
    return np.asarray(expert.run(feeds)[0], np.float32)


def check_finite(values: NDArray[Any], where: str) -> None:
    """Demand numbers.

    Raises:
        WrongAnswerError: NaN or infinity.
    """
    if not np.isfinite(values).all():
        raise WrongAnswerError(
            f"{where}: the answer is not a number (NaN or infinity)",
            hint="p2psync verify REF --run checks the model; another variant or the version before may answer",
        )
