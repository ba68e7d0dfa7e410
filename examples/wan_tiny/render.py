"""Draw scenes: the five shapes as signed distances, and clips of them, with numpy or with torch.

Each function takes the array library as ``xp``; what it uses of it has one name in both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from wan_tiny.world import SHAPES, Frame, Scenes

# Sides and radii for which each shape has the area of the disc of radius 1.
_SQUARE_HALF = 0.886
_TRIANGLE_RADIUS = 1.555
_STAR_RADIUS = 1.537
_STAR_INNER = 0.45
_CROSS_HALF = 1.189
_TINY = 1e-9


def distance(xp: Any, shape: int, x: Any, y: Any, radius: Any) -> Any:
    """Return the distance to the outline of a shape centred at the origin, negative inside; for the star nearly so.

    Args:
        shape: Index into ``SHAPES``.
        x: Pixels right of the centre.
        y: Pixels below the centre.
        radius: Of the disc of the same area, in pixels.
    """
    if SHAPES[shape] == "circle":
        return xp.sqrt(x * x + y * y + _TINY) - radius
    if SHAPES[shape] == "square":
        return xp.maximum(abs(x), abs(y)) - _SQUARE_HALF * radius
    if SHAPES[shape] == "triangle":
        slope = math.sqrt(3) / 2
        sides = xp.maximum(slope * x - y / 2, -slope * x - y / 2)
        return xp.maximum(y, sides) - _TRIANGLE_RADIUS / 2 * radius
    if SHAPES[shape] == "star":
        return _star(xp, x, y, radius)
    arm, half = _CROSS_HALF * radius, _CROSS_HALF / 3 * radius
    return xp.minimum(xp.maximum(abs(x) - arm, abs(y) - half), xp.maximum(abs(x) - half, abs(y) - arm))


def _star(xp: Any, x: Any, y: Any, radius: Any) -> Any:
    """Fold the plane into half a ray of the five, pointing up, and measure to the one edge that is left there."""
    sector = 2 * math.pi / 5
    angle = xp.arctan2(x, -y)
    folded = abs(angle - sector * xp.round(angle / sector))
    length = xp.sqrt(x * x + y * y + _TINY)
    along, across = length * xp.cos(folded), length * xp.sin(folded)
    inner_x, inner_y = _STAR_INNER * math.cos(sector / 2), _STAR_INNER * math.sin(sector / 2)
    edge_x, edge_y = inner_x - 1, inner_y
    return ((along - _STAR_RADIUS * radius) * edge_y - across * edge_x) / math.hypot(edge_x, edge_y)


def coverage(xp: Any, shape: int, x: Any, y: Any, radius: Any) -> Any:
    """Return which part of the pixel around each point the shape covers, 0 to 1."""
    return xp.clip(0.5 - distance(xp, shape, x, y, radius), 0, 1)


def _same(array: Any) -> Any:
    return array


def render(scenes: Scenes, frame: Frame, xp: Any = np, convert: Callable[[Any], Any] = _same) -> tuple[Any, Any]:
    """Draw each scene.

    Args:
        scenes: Arrays of ``xp``.
        convert: Brings a numpy array to where the scenes' arrays are.

    Returns:
        The clips, [n, 3, frames, height, width] in 0 to 1, and which part of each pixel an object covers, [n, frames,
        height, width].
    """
    u = convert(np.linspace(0, 1, frame.frames, dtype=np.float32))
    x = convert(np.arange(frame.width, dtype=np.float32) + 0.5)
    y = convert(np.arange(frame.height, dtype=np.float32)[:, None] + 0.5)
    clips = scenes.background[:, None, None, None, None]
    covered: Any = 0.0
    for index in range(2):
        centre = scenes.start[:, None, index] + scenes.travel[:, None, index] * u[None, :, None]
        from_x = x - centre[..., 0, None, None]  # [n, frames, 1, width]
        from_y = y - centre[..., 1, None, None]  # [n, frames, height, 1]
        radius = scenes.radius[:, index, None, None, None]
        part: Any = 0.0
        for shape in range(len(SHAPES)):
            drawn = (scenes.shape[:, index] == shape) & (scenes.count > index)
            part = xp.where(drawn[:, None, None, None], coverage(xp, shape, from_x, from_y, radius), part)
        clips = clips + (scenes.rgb[:, index, :, None, None, None] - clips) * part[:, None]
        covered = covered + part
    return clips, covered
