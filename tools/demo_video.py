"""The part of the demonstration that runs what was delivered: a prompt becomes a clip, and a program looks at it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import command
import environment

PROMPT = "a red circle moves left"
SEED = 3
SEEN = ("red", "circle", "left")


def lay_out(folder: Path) -> tuple[Path, Path]:
    """The engine directories of two versions of wan-tiny, pruned and in INT8, in two new folders."""
    _find_examples()
    from wan_tiny import engines

    return engines.build("v1", folder / "engine-v1"), engines.build("v2", folder / "engine-v2")


def place_for(name: str, keep: Path | None) -> Path:
    """Where a clip stays after the demonstration."""
    folder = keep or Path(tempfile.gettempdir()) / "p2psync-demo"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def make(home: command.Home, reference: str, out: Path) -> tuple[command.Answer, str]:
    """Make a clip on a node; what the command said, and what the judge of the example sees in the clip.

    Raises:
        ValueError: the clip shows something else than was asked.
    """
    with tempfile.TemporaryDirectory() as frames:
        answer = home.json(
            "run", reference, "--prompt", PROMPT, "--seed", str(SEED), "--out", str(out), "--frames-dir", frames
        )
        seen = look(Path(frames))
    if seen != SEEN:
        raise ValueError(f"the clip of {PROMPT!r} shows {seen}")
    return answer, " ".join(seen)


def look(frames: Path) -> tuple[str, ...]:
    """Colour, shape and direction of the one object that a clip shows, judged from its frames; else what is amiss."""
    _find_examples()
    import av
    import numpy as np
    from wan_tiny import judge, world

    clip = np.stack([_picture(av, path) for path in sorted(frames.glob("*.png"))])
    objects: Any = judge.look(clip).objects
    if len(objects) != 1 or objects[0].shape is None or objects[0].direction is None:
        return (f"{len(objects)} objects",)
    (one,) = objects
    return world.COLOURS[one.colour], world.SHAPES[one.shape], world.DIRECTIONS[one.direction]


def _picture(library: Any, path: Path) -> Any:
    with library.open(str(path)) as file:
        return next(file.decode(video=0)).to_ndarray(format="rgb24")


def _find_examples() -> None:
    path = str(environment.ROOT / "examples")
    if path not in sys.path:
        sys.path.append(path)
