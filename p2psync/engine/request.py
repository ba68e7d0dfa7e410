"""What one generation is asked to make, settled against what the model can make before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from p2psync.engine.description import Description, Video
from p2psync.engine.text import clean
from p2psync.errors import UnfitRequestError
from p2psync.limits import FRAMES_MAX, GUIDANCE_MAX, SEED_MAX, SIDE_PX_MAX, STEPS_MAX


@dataclass(frozen=True, slots=True)
class Request:
    """One clip. Sides in pixels. ``guidance`` of 1 or less is none: half the calls."""

    prompt: str
    seed: int
    steps: int
    guidance: float
    height_px: int
    width_px: int
    frames: int

    @property
    def guided(self) -> bool:
        """Whether each step also asks for what the model shows without a prompt."""
        return self.guidance > 1.0


@dataclass(frozen=True, slots=True)
class Wish:
    """A request in which None means what the model's publisher chose."""

    prompt: str
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    height_px: int | None = None
    width_px: int | None = None
    frames: int | None = None


def settle(described: Description, wish: Wish) -> Request:
    """Fill a wish with the model's own values and check it.

    Raises:
        UnfitRequestError: the model cannot make this; the nearest that it can make is named.
    """
    video, sampling = described.video, described.sampling
    request = Request(
        prompt=clean(wish.prompt),
        seed=wish.seed,
        steps=sampling.steps if wish.steps is None else wish.steps,
        guidance=sampling.guidance if wish.guidance is None else wish.guidance,
        height_px=video.height_px if wish.height_px is None else wish.height_px,
        width_px=video.width_px if wish.width_px is None else wish.width_px,
        frames=video.frames if wish.frames is None else wish.frames,
    )
    _check_numbers(request, sampling.train_timesteps)
    check_size(described.video, request.height_px, request.width_px, request.frames)
    return request


def check_size(video: Video, height_px: int, width_px: int, frames: int) -> None:
    """Demand a size that latents can stand for.

    Raises:
        UnfitRequestError: with the nearest size or length.
    """
    step = video.size_step_px
    height, width = _nearest(height_px, step), _nearest(width_px, step)
    if (height, width) != (height_px, width_px):
        raise UnfitRequestError(
            f"a clip of {height_px}x{width_px} pixels cannot be made: height and width are multiples of {step}, "
            f"up to {SIDE_PX_MAX // step * step}",
            hint=f"the nearest size is --size {height}x{width}",
        )
    # A model of single pictures has no graph for later frames.
    step = video.frames_step if video.frames > 1 else FRAMES_MAX
    count = 1 + step * max(0, min((FRAMES_MAX - 1) // step, round((frames - 1) / step)))
    if count != frames:
        rule = f"{step}k+1" if step < FRAMES_MAX else "1"
        raise UnfitRequestError(
            f"a clip of {frames} frames cannot be made: their number is {rule}, up to {FRAMES_MAX}",
            hint=f"the nearest is --frames {count}",
        )


def _nearest(side_px: int, step: int) -> int:
    return min(max(1, round(side_px / step)), SIDE_PX_MAX // step) * step


def _check_numbers(request: Request, train_timesteps: int) -> None:
    steps_max = min(STEPS_MAX, train_timesteps)
    if not 1 <= request.steps <= steps_max:
        raise UnfitRequestError(f"{request.steps} steps: from 1 to {steps_max} can be made", hint="--steps 8")
    if not (math.isfinite(request.guidance) and 0.0 <= request.guidance <= GUIDANCE_MAX):
        raise UnfitRequestError(
            f"guidance {request.guidance} is not from 0 to {GUIDANCE_MAX:g}", hint="--guidance 1 is none"
        )
    if not 0 <= request.seed <= SEED_MAX:
        raise UnfitRequestError(f"seed {request.seed} is not from 0 to {SEED_MAX}", hint="--seed 7")
