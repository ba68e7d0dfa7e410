"""What happens in a soak, and what is published in it: both follow from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from blake3 import blake3
from safetensors.numpy import save_file

from tests.integration.models import WEIGHTS, Tensors, files_of, tensors_of, write_settings

LASTING: Final = ("n1", "n2", "n3")
GUESTS: Final = ("g1", "g2", "g3")
_LAYERS: Final = 4
_LAYER_BYTES: Final = 700_000


@dataclass(frozen=True, slots=True)
class Guest:
    """Who joins for a round: with a new identity or that of its last time, and how and when it leaves."""

    name: str
    new: bool
    killed: bool
    early: bool


@dataclass(frozen=True, slots=True)
class Round:
    """What happens in one round. ``hangs`` is stopped for ``hang_s``; ``restarts`` loses its follower."""

    publishes: bool
    guests: tuple[Guest, ...]
    hangs: str
    hang_s: float
    restarts: str
    prunes: tuple[str, ...]


def rounds(seed: int) -> Iterator[Round]:
    """The rounds of a run, without end and the same for the same seed."""
    chance = random.Random(seed)
    while True:
        names = chance.sample(GUESTS, chance.randint(1, len(GUESTS)))
        guests = tuple(Guest(name, *(chance.random() < share for share in (0.3, 0.5, 0.4))) for name in names)
        hangs = chance.choice(("", "seed", "seed", *LASTING))
        yield Round(
            chance.random() < 0.8,
            guests,
            hangs,
            chance.uniform(1.0, 6.0),
            chance.choice(("", "", *LASTING[1:])),
            tuple(name for name in ("seed", *LASTING) if chance.random() < 0.4),
        )


class Models:
    """The publisher's folder: from version to version a twentieth of the weights of most layers change by a little."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self._random = np.random.default_rng(seed)
        self._tensors: Tensors = tensors_of(seed, _LAYERS, _LAYER_BYTES)
        folder.mkdir()
        write_settings(folder, seed)

    def write_next(self) -> None:
        """Write the next version over the last one."""
        stays = f"layers.{self._random.integers(_LAYERS)}."
        for name in [name for name in self._tensors if not name.startswith(stays)]:
            bits = self._tensors[name].view(np.uint16).copy()
            bits ^= (self._random.random(bits.shape) < 0.05).astype(np.uint16)
            self._tensors[name] = bits.view(np.float16)
        save_file(self._tensors, self.folder / WEIGHTS)


def fingerprints(folder: Path) -> dict[str, str]:
    """The digest of each file of a model."""
    return {file: blake3((folder / file).read_bytes()).hexdigest() for file in files_of(folder)}
