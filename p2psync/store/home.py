"""Where everything of a home stands, and how small files get there so that a power cut leaves old or new.

Theory of operation: contents, then name, then directory. A name appears only by a rename after the bytes
behind it are on disk, and the rename is believed only after its directory is on disk too.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from p2psync import disk
from p2psync.content import Digest
from p2psync.errors import DamagedError, P2PSyncError, StoreError, StoreFullError, StoreUnwritableError

_OPEN_HINT = "let it open more: ulimit -n 1024, or LimitNOFILE=1024 in its unit"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# This process or this machine, not the file, is why it cannot be opened.
BUSY = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})
_UNWRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Identity(NamedTuple):
    """What tells a file from any other, and from itself after a write."""

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, facts: os.stat_result) -> Identity:
        """The identity in what ``stat`` says."""
        return cls(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)

    def same_bytes(self, other: Identity) -> bool:
        """Whether only ctime may differ: what a link, a chmod or an unlink of ours leaves."""
        return self[:4] == other[:4]


@dataclass(frozen=True, slots=True)
class Home:
    """The paths of a home. Nothing here touches the disk."""

    path: Path

    @property
    def lock(self) -> Path:
        """Held by the process that owns the home."""
        return self.path / "lock"

    @property
    def index(self) -> Path:
        """The SQLite file. It can be rebuilt from everything else."""
        return self.path / "index.db"

    @property
    def heads(self) -> Path:
        """Signed heads, by name."""
        return self.path / "heads"

    @property
    def manifests(self) -> Path:
        """The nodes of each version, one file each."""
        return self.path / "manifests"

    @property
    def forms(self) -> Path:
        """The encoded chunks of versions, one pack each."""
        return self.path / "forms"

    @property
    def models(self) -> Path:
        """Installed versions."""
        return self.path / "models"

    @property
    def partial(self) -> Path:
        """Versions that are being pulled."""
        return self.path / "partial"

    @property
    def staging(self) -> Path:
        """What no crash may leave behind: emptied when the home is opened."""
        return self.path / "publishing"

    def version(self, name: str, root: Digest) -> Path:
        """The directory of an installed version."""
        return self.models / name / root.hex()

    def nodes(self, root: Digest) -> Path:
        """The file that holds the nodes of a version."""
        return self.manifests / f"{root.hex()}.nodes"

    def require_folder(self) -> None:
        """Demand that what stands here, if anything does, is a directory.

        Raises:
            StoreError: it is not, or nobody can say.
        """
        with disk_errors(self.path):
            try:
                facts = os.stat(self.path)
            except FileNotFoundError:
                return
            except NotADirectoryError as error:
                raise StoreError(f"the home {self.path} is below a file") from error
        if not stat.S_ISDIR(facts.st_mode):
            raise StoreError(f"the home {self.path} is no directory", hint="--home names a directory")

    def create(self) -> None:
        """Make the home and its folders, for this user alone.

        Raises:
            StoreUnwritableError: it cannot be made or written.
        """
        self.require_folder()
        with disk_errors(self.path):
            disk.make_folder(self.path.parent)
            disk.make_folder(self.path, 0o700)
            inside = (self.heads, self.manifests, self.models, self.partial, self.staging)
            missing = [folder for folder in inside if not folder.is_dir()]
            for folder in missing:
                with suppress(FileExistsError):
                    disk.mkdir(folder)
            if missing:
                # What is durable in them is lost with them.
                disk.sync_folder(self.path)

    def settle(self) -> None:
        """Make every name in the home durable, where a killed owner or a refusal may have left some that are not.

        What is there is taken for done by whoever comes next, who would sync nothing. Names can be synced again after a
        failure, as bytes cannot: a file system that lost one stops.

        Raises:
            StoreError: the disk refuses.
        """
        with disk_errors(self.path):
            disk.make_folder(self.path, sure=True)
            disk.sync_tree(self.path)


class Refusals:
    """How often a disk refused this process something: what was changed before that may not be durable."""

    count = 0


@contextmanager
def disk_errors(path: Path, *, needed_bytes: int = 0) -> Iterator[None]:
    """Turn what the operating system says about a disk into errors of ours.

    Raises:
        StoreFullError: the file system of ``path`` is full.
        StoreUnwritableError: it refuses writes.
        DamagedError: it cannot read what it holds.
        StoreError: anything else that it says.
    """
    try:
        yield
    except P2PSyncError:
        raise
    except OSError as error:
        Refusals.count += 1
        where = error.filename or path
        if error.errno in _FULL:
            raise full_error(path, needed_bytes) from error
        if error.errno in _UNWRITABLE:
            raise StoreUnwritableError(
                f"{where} cannot be written: {os.strerror(error.errno)}", hint="check the owner and the mount options"
            ) from error
        if error.errno == errno.EIO:
            raise DamagedError(f"the disk cannot read or write {where}", hint="p2psync verify --repair") from error
        hint = _OPEN_HINT if error.errno in {errno.EMFILE, errno.ENFILE} else None
        raise StoreError(f"{where}: {error.strerror or error}", hint=hint) from error


def full_error(path: Path, needed_bytes: int) -> StoreFullError:
    """The error of a file system without room for ``needed_bytes`` more."""
    free = free_bytes(path)
    needed = max(needed_bytes, 1)
    return StoreFullError(
        f"the disk of {path} is full: {needed} bytes are needed and {free} are free",
        needed_bytes=needed,
        free_bytes=free,
        hint="make room (p2psync prune -n shows what can go), then run the same command: what arrived is kept",
    )


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write to the file system of ``path``."""
    while not path.exists() and path != path.parent:
        path = path.parent
    facts = os.statvfs(path)
    return facts.f_bavail * facts.f_frsize


def read_file(path: Path) -> bytes | None:
    """The bytes of a small file, None when there is none."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
