"""Lay clips out as one picture: a row of frames under what was asked, in red where the judge found it wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from wan_tiny.world import COLOURS, DIRECTIONS, SHAPES, Scenes

_FRAMES, _COLUMNS, _GAP, _LINE = 5, 3, 2, 13
_COLOURS_MAX = 128


@dataclass(frozen=True, slots=True)
class Shot:
    """A clip, [frames, height, width, 3] as bytes, what it should show in plain English, and whether it does."""

    clip: NDArray[np.uint8]
    title: str
    right: bool


def describe(scenes: Scenes, index: int) -> str:
    """Say a scene in the words of the tables, which a picture's built-in font can write."""
    return " + ".join(
        f"{COLOURS[int(scenes.colour[index, k])]} {SHAPES[int(scenes.shape[index, k])]} "
        f"{DIRECTIONS[int(scenes.direction[index, k])]}"
        for k in range(int(scenes.count[index]))
    )


def save_sheet(path: Path, shots: Sequence[Shot]) -> None:
    """Write the sheet as a PNG of a reduced palette."""
    height, width = shots[0].clip.shape[1:3]
    cell_width, cell_height = _FRAMES * (width + _GAP) + 4 * _GAP, height + _LINE + _GAP
    rows = -(-len(shots) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * cell_width, rows * cell_height), "white")
    draw: Any = ImageDraw.Draw(sheet)
    for number, shot in enumerate(shots):
        x, y = number % _COLUMNS * cell_width, number // _COLUMNS * cell_height
        draw.text((x, y), shot.title, fill="black" if shot.right else "red")
        for place, frame in enumerate(np.linspace(0, len(shot.clip) - 1, _FRAMES).round().astype(int)):
            sheet.paste(Image.fromarray(shot.clip[frame]), (x + place * (width + _GAP), y + _LINE))
    sheet.quantize(_COLOURS_MAX, dither=Image.Dither.NONE).save(path, optimize=True)
