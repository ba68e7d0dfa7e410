"""Say from its pixels alone what a clip shows: how many objects, of which colour and shape, going where.

The judge knows the world's colours and shapes and nothing of the prompt; ``compare`` then holds what it saw against
what was asked. It needs numpy and no model, so that clips made by any engine are judged alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wan_tiny.render import coverage
from wan_tiny.world import COLOURS, RGB, SHAPES, UNIT, Scenes

Floats = NDArray[np.float64]

# A pixel belongs to an object if it differs from the background by this much (length of the RGB difference).
_FOREGROUND_MIN = 0.15
# An object covers this many pixels of a frame on average, and this part of what the largest object covers.
_AREA_PIXELS_MIN, _AREA_SHARE_MIN = 15.0, 0.25
# Of all that differs from the background, the objects must explain this part; the rest is a smear or a third thing.
_EXPLAINED_MIN = 0.8
_FRAME_AREA_PIXELS_MIN = 12.0
# Overlap (intersection over union) with the best of the five shapes, averaged over the frames.
_OVERLAP_MIN = 0.6
# A slower object stands still. The cosine leaves 26 degrees on either side; the eight directions are 45 apart.
_TRAVEL_PIXELS_MIN, _COSINE_MIN = 3.5, 0.9
_FAST_PIXELS_MIN, _LARGE_RADIUS_PIXELS_MIN = 15.0, 7.75


@dataclass(frozen=True, slots=True)
class Seen:
    """One object found in a clip: indexes into the world's tables, None where nothing fits."""

    colour: int
    shape: int | None
    direction: int | None
    large: bool
    fast: bool
    x: float  # pixels, mean over the clip


@dataclass(frozen=True, slots=True)
class Verdict:
    """The objects of a clip from left to right, and whether they are all that is there."""

    objects: tuple[Seen, ...]
    clean: bool


@dataclass(frozen=True, slots=True)
class Marks:
    """What of a scene a clip got right. ``right`` is count, colour, shape and direction of every object together."""

    count: bool
    colour: bool
    shape: bool
    direction: bool
    order: bool
    size: bool
    speed: bool

    @property
    def right(self) -> bool:
        """Whether the clip shows what was asked; size and speed, which a prompt may leave open, are marked apart."""
        return self.count and self.colour and self.shape and self.direction


@dataclass(frozen=True, slots=True)
class _Pixels:
    """The pixels that differ from the background: frame, place and difference."""

    frame: NDArray[np.int64]
    x: Floats
    y: Floats
    along: Floats  # [pixels, colours]: 0 background, 1 the colour itself
    residual: Floats  # [pixels, colours]: squared distance from the line between the two
    frames: int


def look(clip: NDArray[Any]) -> Verdict:
    """Find the objects of a clip.

    Args:
        clip: [frames, height, width, 3], floats in 0 to 1 or bytes.
    """
    pixels = _foreground(clip)
    label = pixels.residual.argmin(axis=1)
    own = pixels.along[np.arange(len(label)), label]
    area = np.bincount(label, own, len(COLOURS)) / pixels.frames
    found = np.flatnonzero((area >= _AREA_PIXELS_MIN) & (area >= _AREA_SHARE_MIN * area.max()))
    if not len(found):
        return Verdict((), clean=True)
    nearest = found[pixels.residual[:, found].argmin(axis=1)]
    objects = [_track(pixels, colour, nearest == colour) for colour in found.tolist()]
    clean = bool(area[found].sum() >= _EXPLAINED_MIN * area.sum())
    return Verdict(tuple(sorted(objects, key=lambda seen: seen.x)), clean)


def _foreground(clip: NDArray[Any]) -> _Pixels:
    """Split a clip from its background, the median of the border, and place each pixel between it and each colour."""
    video = clip.astype(np.float64) / (255.0 if clip.dtype == np.uint8 else 1.0)
    rows, columns = video[:, [0, 1, -2, -1]], video[:, :, [0, 1, -2, -1]]
    background = np.median(np.concatenate([rows.reshape(-1, 3), columns.reshape(-1, 3)]), axis=0)
    difference = video - background
    frame, y, x = np.nonzero((difference**2).sum(axis=-1) > _FOREGROUND_MIN**2)
    delta = difference[frame, y, x]
    axes = RGB - background
    squared = (axes**2).sum(axis=1)
    dot = delta @ axes.T
    along = np.clip(dot / squared, 0, 1.15)
    residual = (delta**2).sum(axis=1)[:, None] - 2 * along * dot + along**2 * squared
    return _Pixels(frame, x + np.float64(0.5), y + np.float64(0.5), np.minimum(along, 1), residual, len(video))


def _track(pixels: _Pixels, colour: int, mine: NDArray[np.bool_]) -> Seen:
    """Follow one object: hold its outline against the five shapes, and its way against the eight directions."""
    frame, x, y, weight = pixels.frame[mine], pixels.x[mine], pixels.y[mine], pixels.along[mine, colour]

    def per_frame(values: Floats) -> Floats:
        return np.bincount(frame, values, pixels.frames).astype(np.float64)

    area = per_frame(weight)
    there = area > _FRAME_AREA_PIXELS_MIN
    safe = np.maximum(area, 1e-6)
    centre_x, centre_y, radius = per_frame(weight * x) / safe, per_frame(weight * y) / safe, np.sqrt(safe / math.pi)
    mean_x = float(centre_x[there].mean()) if there.any() else 0.0
    if there.sum() < pixels.frames - 1:
        return Seen(colour, None, None, large=False, fast=False, x=mean_x)
    overlaps = []
    for shape in range(len(SHAPES)):
        expected = coverage(np, shape, x - centre_x[frame], y - centre_y[frame], radius[frame])
        common = per_frame(np.minimum(expected, weight))
        # Both areas are equal by construction, so their union is twice one less what they share.
        overlaps.append(float((common / (2 * safe - common))[there].mean()))
    best = int(np.argmax(overlaps))
    travel = _travel(np.flatnonzero(there), centre_x[there], centre_y[there]) * (pixels.frames - 1)
    length = float(np.hypot(*travel))
    cosines = UNIT @ travel / max(length, 1e-6)
    heading = int(cosines.argmax())
    moves = length > _TRAVEL_PIXELS_MIN and cosines[heading] > _COSINE_MIN
    return Seen(
        colour,
        best if overlaps[best] > _OVERLAP_MIN else None,
        heading if moves else None,
        large=float(radius[there].mean()) > _LARGE_RADIUS_PIXELS_MIN,
        fast=length > _FAST_PIXELS_MIN,
        x=mean_x,
    )


def _travel(frame: NDArray[np.int64], x: Floats, y: Floats) -> Floats:
    """Return the velocity, pixels per frame, of the straight line that fits the centres best."""
    t = frame - frame.mean()
    return np.array([(t * x).sum() / (t * t).sum(), (t * y).sum() / (t * t).sum()])


def compare(verdict: Verdict, scenes: Scenes, index: int) -> Marks:
    """Hold what was seen against scene ``index``. Objects are paired by colour, else from left to right."""
    n = int(scenes.count[index])
    asked = [int(colour) for colour in scenes.colour[index, :n]]
    seen = list(verdict.objects)
    by_colour = {thing.colour: thing for thing in seen}
    paired = [by_colour.get(colour) for colour in asked]
    if None in paired:
        paired = [*seen, None, None][:n]

    def every(name: str, table: Any) -> bool:
        return all(thing is not None and getattr(thing, name) == table[index, k] for k, thing in enumerate(paired))

    return Marks(
        count=len(seen) == n and verdict.clean,
        colour=every("colour", scenes.colour),
        shape=every("shape", scenes.shape),
        direction=every("direction", scenes.direction),
        order=[thing.colour for thing in seen] == asked,
        size=every("large", scenes.large),
        speed=every("fast", scenes.fast),
    )
