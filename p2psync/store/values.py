"""What the store takes and gives, as plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from p2psync.content import Digest
from p2psync.limits import MIB
from p2psync.manifest import FormSet, Head, Reference

# Events as dictionaries with an ``event`` key.
Progress = Callable[[dict[str, Any]], None]
_PROGRESS_BYTES = 32 * MIB


def ignore(_event: dict[str, Any]) -> None:
    """A progress that nobody follows."""


class Meter:
    """Counts bytes that were read, and tells a progress of it now and then."""

    def __init__(self, progress: Progress, total: int, event: str = "hashing") -> None:
        self._progress = progress
        self._event = event
        self._total = total
        self._told = 0
        self.done = 0

    def advance(self, count: int) -> None:
        """Some more bytes are done."""
        self.done += count
        if self.done - self._told >= _PROGRESS_BYTES:
            self.tell()

    def tell(self) -> None:
        """Say how far it is now."""
        self._told = self.done
        self._progress({"event": self._event, "done": min(self.done, self._total), "total": self._total})


@dataclass(frozen=True, slots=True)
class Snap:
    """Which changes a publisher would rather not send.

    A tensor keeps a base's bytes where its mean squared change is under ``threshold`` of the base's mean square. Of
    the others those elements do that are at most ``steps`` representable numbers away; 0 leaves them.
    """

    threshold: float
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Snapped:
    """What was left out of one tensor: ``left_out`` of its ``changed`` elements, all of them where it is ``whole``.

    ``relative`` is its mean squared change over the base's mean square, ``largest`` the largest change of an element.
    """

    path: str
    tensor: str
    whole: bool
    elements: int
    changed: int
    left_out: int
    relative: float
    largest: float


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """How to publish. ``expires_s`` is a span from ``now_unix_s``, both in seconds; None never expires.

    ``forms`` is whether chunks are encoded too, in full and against each of ``bases``. ``snap`` changes what is
    signed: it needs ``bases``, and a snapshot.
    """

    now_unix_s: int
    bases: tuple[Reference, ...] = ()
    in_place: bool = False
    expires_s: int | None = None
    origin_tree: Path | None = None
    forms: bool = True
    snap: Snap | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """What a publish made. ``new_bytes`` counts bytes in chunks that the store did not have.

    ``unchanged`` is whether the tag already named the same bytes. ``origin`` counts what was added to an origin tree.
    """

    head: Head
    envelope: bytes
    files: int
    new_bytes: int
    unchanged: bool
    origin: dict[str, int] | None
    forms: tuple[FormSet, ...] = ()
    snapped: tuple[Snapped, ...] = ()

    @property
    def root(self) -> Digest:
        """The digest of the version."""
        return self.head.root


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One version in the store.

    ``size`` counts the bytes of all its files, ``disk_bytes`` the blocks of those that stand here (a file that
    several versions share counts in each). ``fragile`` versions stand where their publisher keeps them, outside the
    home. ``files`` of ``files_total`` are here and seem whole: at most their ctime was seen to change. ``damaged`` are
    the others that were here; ``variants`` are those whose files all seem whole.
    """

    name: str
    root: Digest
    tags: dict[str, int]
    pinned: bool
    size: int
    disk_bytes: int
    fragile: bool
    files: int
    files_total: int
    damaged: int
    variants: tuple[str, ...]
    created: int
    path: Path

    @property
    def complete(self) -> bool:
        """Whether every file of the version is here and was not seen to change."""
        return self.files == self.files_total


class DamageKind(StrEnum):
    """What is wrong with a file."""

    CHANGED = "changed"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    # A symlink, a directory or a FIFO stands where a file must be.
    REPLACED = "replaced"
    # Every chunk proves, and the SHA-256 that was signed beside them is of other bytes.
    MISLABELLED = "mislabelled"
    # The nodes that say what the files must be are lost; pulling the version again brings them. The path is empty.
    MANIFEST = "manifest"


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged file of one version. ``ranges`` are (offset, length) in bytes, as far as they are known."""

    name: str
    root: Digest
    path: str
    kind: DamageKind
    ranges: tuple[tuple[int, int], ...] = ()

    @property
    def bytes(self) -> int:
        """How many bytes are wrong."""
        return sum(length for _, length in self.ranges)


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What ``verify`` read and what it found. Counts are of files and of bytes."""

    files: int
    bytes: int
    damages: tuple[Damage, ...]


@dataclass(frozen=True, slots=True)
class Removed:
    """One thing that went, or would go. ``bytes`` is what its removal alone frees on the disk."""

    kind: str
    what: str
    bytes: int


@dataclass(frozen=True, slots=True)
class RemovalReport:
    """What ``rm`` or ``prune`` removed, or would remove. ``freed_bytes`` counts blocks that no other name keeps."""

    removed: tuple[Removed, ...]
    freed_bytes: int
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A pull that did not end, running or not.

    ``done_bytes`` of ``total_bytes`` were proved and synced; ``disk_bytes`` are the blocks that it holds.
    """

    root: Digest
    name: str
    done_bytes: int
    total_bytes: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What a home takes on its disk, in bytes."""

    models_bytes: int
    partial_bytes: int
    free_bytes: int
    versions: int
    withdrawn: int
    forms_bytes: int = 0
    unfinished: tuple[Unfinished, ...] = field(default_factory=tuple)
