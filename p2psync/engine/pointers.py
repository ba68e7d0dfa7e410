"""Which version runs, and which one ran well before: two small files that are replaced in one step each.

``current`` names the engine to run, ``last-good`` the one to go back to. A switch writes ``last-good`` first: killed
at any moment, both name an engine that has passed its probe. Nothing here needs the network.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from p2psync import disk
from p2psync.engine.strict_json import read_object
from p2psync.engine.video import writing
from p2psync.errors import IncompleteModelError, MalformedError
from p2psync.limits import POINTER_BYTES_MAX

CURRENT: Final = "current"
LAST_GOOD: Final = "last-good"
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Target:
    """One engine: where it is, and what it is called. ``digest`` is the version's, as it is printed."""

    path: str
    reference: str
    digest: str
    variant: str
    backend: str


class Pointers:
    """The two pointers of one model, in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def current(self) -> Target | None:
        """The engine to run, or None before the first switch. A file that is damaged counts as none."""
        return self._read(CURRENT)

    def last_good(self) -> Target | None:
        """The engine that ran before, or None."""
        return self._read(LAST_GOOD)

    def usable(self) -> Target | None:
        """The first of the two whose engine is still on this disk."""
        for target in (self.current(), self.last_good()):
            if target is not None and (Path(target.path) / "engine.json").is_file():
                return target
        return None

    def switch(self, target: Target) -> None:
        """Make ``target`` current and what was current last-good. The caller has proved that it runs.

        Raises:
            StoreError: the disk refuses; both pointers are whole then too.
        """
        with writing(self._directory):
            disk.make_folder(self._directory, sure=True)
        with self._lock():
            before = self.current()
            if before is not None and before != target:
                self._write(LAST_GOOD, before)
            self._write(CURRENT, target)

    def go_back(self) -> Target:
        """Make last-good current again. It stays last-good: there is nothing older to go back to.

        Raises:
            IncompleteModelError: there is none.
            StoreError: the disk refuses.
        """
        with self._lock():
            target = self.last_good()
            if target is None:
                raise IncompleteModelError("there is no version to go back to", hint="p2psync pull REF")
            self._write(CURRENT, target)
        return target

    def _read(self, name: str) -> Target | None:
        path = self._directory / name
        if not path.is_file():
            return None
        try:
            fields = read_object(path, bytes_max=POINTER_BYTES_MAX)
            fields.integer("format", _FORMAT, _FORMAT)
            return Target(**{key: fields.text(key) for key in Target.__slots__})
        except MalformedError:
            return None

    def _write(self, name: str, target: Target) -> None:
        text = json.dumps({"format": _FORMAT, **asdict(target)}, sort_keys=True).encode()
        with writing(self._directory / name):
            disk.write_durably(self._directory / name, text)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        import fcntl

        with writing(self._directory):
            fd = os.open(self._directory / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
