"""The fuzz targets by name, and what is common to all: errors of ours are an answer, not a finding."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from p2psync.errors import P2PSyncError

Target = Callable[[bytes], None]
TARGETS: Final[dict[str, Target]] = {}


def target(function: Target) -> Target:
    """Enter a function under its own name; errors of ours are an answer, not a finding."""

    def run(data: bytes) -> None:
        with suppress(P2PSyncError):
            function(data)

    TARGETS[function.__name__] = run
    return function


@contextmanager
def standing(name: str, data: bytes) -> Iterator[Path]:
    """A folder of the owner alone in which one file has these bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        path.chmod(0o600)
        yield path
