"""The part of the demonstration that updates fine-tuned weights: planes first, then deltas, from seed and peer."""

from __future__ import annotations

import sys
from pathlib import Path

import environment


def lay_out(folder: Path) -> tuple[Path, Path]:
    """A small text-to-video model in BF16, and the same after a gentle fine-tune, in two new folders."""
    sys.path.append(str(environment.ROOT / "examples"))
    from wan_tiny import versions

    return versions.build("v1", folder / "wan-tiny-v1"), versions.build("v2", folder / "wan-tiny-v2")
