"""Where a build works, and the one step in which its outcome appears.

Everything is written to a directory beside the target, made durable, and renamed. The directory is held meanwhile:
one that nobody holds is what a killed build left, and the next build beside it removes it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from p2psync import disk
from p2psync.errors import StoreUnwritableError

_PREFIX: Final = ".compress-"


@contextmanager
def placed(target: Path) -> Iterator[Path]:
    """A directory to work in, which becomes ``target`` when the body ends without an error.

    Whole or not at all, also after a power cut. What ends with an error leaves nothing behind.

    Args:
        target: Must not exist.

    Raises:
        StoreUnwritableError: it exists, or the disk refuses.
    """
    if os.path.lexists(target):
        raise StoreUnwritableError(f"{target} exists", hint="name a directory that does not exist yet")
    try:
        parent = Path(os.path.abspath(target)).parent
        disk.make_folder(parent)
        disk.remove_abandoned(parent.glob(f"{_PREFIX}*"))
        work = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        held = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            disk.hold(held)
            yield work
            _appear(work, target)
        finally:
            with suppress(OSError):
                # What stays is removed by the next build; how this one ended says more.
                disk.remove_tree(work)
            os.close(held)
    except OSError as error:
        raise StoreUnwritableError(f"{target} cannot be written: {error.strerror or error}") from error


def _appear(work: Path, target: Path) -> None:
    # A temporary directory is private; what is published need not be.
    os.chmod(work, 0o755)  # noqa: S103
    disk.sync_all(work)
    disk.rename(work, target)
    try:
        disk.sync_folder(target.parent)
    except OSError:
        # Whoever asked hears that there is none; a build that is told as failed must not be found by the next one.
        disk.rename(target, work)
        raise
