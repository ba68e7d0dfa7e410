"""The made-up world: which coloured shapes a clip shows, where they go, and which combinations training never sees.

A scene holds one or two objects on a grey background; each has a colour, one of five shapes of equal area and one of
eight directions. Two objects stand side by side, and everything that names them names the left one first. All lengths
are pixels, y points down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "white", "pink")
# The first versions of the model know eight colours; the ninth is there to be learned later.
COLOURS_KNOWN_FIRST = 8
RGB = np.array(
    [
        [0.90, 0.10, 0.10],
        [0.10, 0.70, 0.15],
        [0.15, 0.25, 0.95],
        [0.95, 0.90, 0.10],
        [0.60, 0.15, 0.80],
        [1.00, 0.50, 0.05],
        [0.10, 0.85, 0.90],
        [0.95, 0.95, 0.95],
        [1.00, 0.35, 0.65],
    ],
    dtype=np.float32,
)
SHAPES = ("circle", "square", "triangle", "star", "cross")
DIRECTIONS = ("left", "right", "up", "down", "up-left", "up-right", "down-left", "down-right")
_DIAGONAL = 0.5**0.5
UNIT = np.array(
    [
        [-1, 0],
        [1, 0],
        [0, -1],
        [0, 1],
        [-_DIAGONAL, -_DIAGONAL],
        [_DIAGONAL, -_DIAGONAL],
        [-_DIAGONAL, _DIAGONAL],
        [_DIAGONAL, _DIAGONAL],
    ],
    dtype=np.float32,
)
# How far a shape reaches from its centre, in radii of the disc of the same area.
REACH = np.array([1.0, 1.26, 1.56, 1.54, 1.26], dtype=np.float32)

# Radius and distance travelled in a clip: lowest value and span. An object of two is of a middling size and speed.
RADIUS_SMALL, RADIUS_LARGE, RADIUS_OF_TWO = (6.0, 1.0), (9.0, 1.5), (6.5, 1.0)
TRAVEL_SLOW, TRAVEL_FAST, TRAVEL_OF_TWO = (7.0, 3.0), (20.0, 6.0), (12.0, 4.0)
RGB_JITTER = 0.04
BACKGROUND = (0.05, 0.15)
HELD_OUT_DIRECTIONS = 2
_HELD_OUT_SEED = 1234


@dataclass(frozen=True, slots=True)
class Frame:
    """The size of a clip: pixels and frames. The model needs multiples of 16 pixels and 4k + 1 frames."""

    width: int = 96
    height: int = 64
    frames: int = 17


@dataclass(frozen=True, slots=True)
class Scenes:
    """``n`` scenes as arrays, numpy's or torch's; the second object's entries mean nothing where ``count`` is 1."""

    count: Any  # [n], 1 or 2
    colour: Any  # [n, 2], index into COLOURS
    shape: Any  # [n, 2], index into SHAPES
    direction: Any  # [n, 2], index into DIRECTIONS
    large: Any  # [n, 2], 0 or 1
    fast: Any  # [n, 2], 0 or 1
    radius: Any  # [n, 2]
    start: Any  # [n, 2, 2], x and y of the centre in the first frame
    travel: Any  # [n, 2, 2], x and y from the first frame to the last
    rgb: Any  # [n, 2, 3]
    background: Any  # [n], grey level

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.count)

    def map(self, change: Callable[[Any], Any]) -> Scenes:
        """Return the scenes with ``change`` applied to each array: a selection, or a move to another device."""
        return Scenes(**{field.name: change(getattr(self, field.name)) for field in fields(self)})

    def part(self, start: int, stop: int) -> Scenes:
        """Return the scenes from ``start`` up to and without ``stop``."""
        return self.map(lambda array: array[start:stop])

    @staticmethod
    def join(parts: list[Scenes]) -> Scenes:
        """Return the scenes of all ``parts``, in order."""
        return Scenes(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Scenes)})


@dataclass(frozen=True, slots=True)
class Triples:
    """What an object can be: rows of colour, shape and direction."""

    trained: NDArray[np.int64]
    held_out: NDArray[np.int64]

    @property
    def every(self) -> NDArray[np.int64]:
        """Trained and held out together."""
        return np.concatenate([self.trained, self.held_out])

    def of_colours(self, first: int, stop: int) -> Triples:
        """Return the triples of the colours ``first`` up to and without ``stop``."""
        kept = [rows[(rows[:, 0] >= first) & (rows[:, 0] < stop)] for rows in (self.trained, self.held_out)]
        return Triples(*kept)


def split_triples() -> Triples:
    """Return all triples, a quarter of them held out.

    Each pair of colour and shape loses two of its eight directions, drawn apart for each pair, so that a further colour
    changes nothing of the others.
    """
    trained: list[tuple[int, int, int]] = []
    held_out: list[tuple[int, int, int]] = []
    for colour in range(len(COLOURS)):
        for shape in range(len(SHAPES)):
            order = np.random.default_rng([_HELD_OUT_SEED, colour, shape]).permutation(len(DIRECTIONS))
            for rank, direction in enumerate(order):
                (held_out if rank < HELD_OUT_DIRECTIONS else trained).append((colour, shape, int(direction)))
    return Triples(np.array(trained), np.array(held_out))


def sample(
    rng: np.random.Generator,
    n: int,
    triples: NDArray[np.int64],
    *,
    two_share: float,
    frame: Frame = Frame(),
    wild_share: float = 0.0,
) -> Scenes:
    """Draw scenes whose objects all stay inside the frame.

    Args:
        triples: What an object may be, [m, 3]; two objects of a scene never share a colour.
        two_share: Which part of the scenes holds two objects.
        wild_share: Which part of the objects gets any colour at all, for training what sees pixels and no words.
    """
    drawn = _draw_pairs(rng, n, triples)
    colour, shape, direction = drawn[..., 0], drawn[..., 1], drawn[..., 2]
    count = np.where(rng.random(n) < two_share, 2, 1)
    two = np.repeat((count == 2)[:, None], 2, axis=1)
    large, fast = rng.integers(2, size=(n, 2)), rng.integers(2, size=(n, 2))
    radius = _between(rng, two, large, (RADIUS_OF_TWO, RADIUS_SMALL, RADIUS_LARGE))
    distance = _between(rng, two, fast, (TRAVEL_OF_TWO, TRAVEL_SLOW, TRAVEL_FAST))
    travel = UNIT[direction] * distance[..., None]
    rgb = np.clip(RGB[colour] + RGB_JITTER * rng.uniform(-1, 1, (n, 2, 3)), 0, 1)
    wild = rng.random((n, 2, 1)) < wild_share
    return Scenes(
        count=count,
        colour=colour,
        shape=shape,
        direction=direction,
        large=np.where(two, 0, large),
        fast=np.where(two, 0, fast),
        radius=radius.astype(np.float32),
        start=_place(rng, two, REACH[shape] * radius + 1, travel, frame).astype(np.float32),
        travel=travel.astype(np.float32),
        rgb=np.where(wild, rng.random((n, 2, 3)), rgb).astype(np.float32),
        background=(BACKGROUND[0] + BACKGROUND[1] * rng.random(n)).astype(np.float32),
    )


def _draw_pairs(rng: np.random.Generator, n: int, triples: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return two triples for each scene, [n, 2, 3], of different colours wherever there is more than one colour."""
    pairs = triples[rng.integers(len(triples), size=(n, 2))]
    if len(np.unique(triples[:, 0])) > 1:
        while (same := pairs[:, 0, 0] == pairs[:, 1, 0]).any():
            pairs[same, 1] = triples[rng.integers(len(triples), size=int(same.sum()))]
    return pairs


def _between(
    rng: np.random.Generator, two: NDArray[np.bool_], high: NDArray[np.int64], ranges: tuple[tuple[float, float], ...]
) -> NDArray[np.float64]:
    """Draw a length for each object from the range of two objects, else from the low or the high one."""
    lowest, span = np.array(ranges).T
    which = np.where(two, 0, 1 + high)
    drawn: NDArray[np.float64] = lowest[which] + span[which] * rng.random(which.shape)
    return drawn


def _place(
    rng: np.random.Generator, two: NDArray[np.bool_], reach: NDArray[Any], travel: NDArray[Any], frame: Frame
) -> NDArray[np.float64]:
    """Draw starting points such that each object, from start to end, stays in the frame, or in its half of it."""
    low = np.zeros((*two.shape, 2))
    high = np.broadcast_to([frame.width, frame.height], low.shape).astype(float)
    low[..., 1, 0] = np.where(two[:, 1], frame.width / 2, 0)
    high[..., 0, 0] = np.where(two[:, 0], frame.width / 2, frame.width)
    low += reach[..., None] - np.minimum(travel, 0)
    high -= reach[..., None] + np.maximum(travel, 0)
    placed: NDArray[np.float64] = low + (high - low) * rng.random(low.shape)
    return placed
