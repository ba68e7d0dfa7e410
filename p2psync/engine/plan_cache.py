"""Plans that were built here, kept in a folder so that a start costs a read: by skeleton, weights, builder and device.

A plan is code for one GPU, so it is made where it runs and never published. The folder is its owner's alone, each plan
stands behind its own digest, and what is damaged, foreign or too much is built again: nothing is synced, since a power
cut costs no more than another build.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from p2psync import disk
from p2psync.content import Digest, external_tensors
from p2psync.engine.plans import Shapes
from p2psync.errors import IncompleteModelError
from p2psync.limits import PLAN_CACHE_BYTES_MAX

_DIGEST_BYTES: Final = 32
_SUFFIX: Final = ".plan"
_HALF: Final = ".new"


def default_folder() -> Path:
    """Where plans are kept: ``P2PSYNC_PLANS``, or a folder of the user's cache."""
    named = os.environ.get("P2PSYNC_PLANS")
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "p2psync" / "plans"


def contents_of(skeleton: Path) -> Digest:
    """One digest of a skeleton and of every file that it takes weights from.

    Raises:
        IncompleteModelError: one of them is missing.
        MalformedError: the skeleton is no ONNX file.
    """
    digests = [_digest_of(skeleton)]
    size = skeleton.stat().st_size
    with skeleton.open("rb") as file:
        found = external_tensors(skeleton.name, size, lambda at, count: os.pread(file.fileno(), count, at))
    digests += [_digest_of(skeleton.parent / location) for location in sorted(found)]
    return Digest.of(b"".join(digests))


def key_of(contents: Digest, shapes: Shapes, builder: str, device: str) -> str:
    """The name of a plan: what it was built from, with which version, and for which GPU."""
    told = [str(contents), builder, device, *(f"{name} {shapes[name]}" for name in sorted(shapes))]
    return Digest.of("\n".join(told).encode()).hex()


class PlanCache:
    """A folder of plans. A folder that cannot be used costs the time of building, and nothing else."""

    def __init__(self, folder: Path, bytes_max: int = PLAN_CACHE_BYTES_MAX) -> None:
        self._folder = folder
        self._bytes_max = bytes_max

    def get(self, key: str, build: Callable[[], bytes]) -> bytes:
        """The plan of that name, built now if it is not here whole."""
        kept = self._read(key)
        if kept is not None:
            return kept
        plan = build()
        with contextlib.suppress(OSError):
            self._write(key, plan)
            self._trim(key)
        return plan

    def _read(self, key: str) -> bytes | None:
        path = self._folder / (key + _SUFFIX)
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(path, flags), "rb") as file:
                if os.fstat(file.fileno()).st_size > self._bytes_max + _DIGEST_BYTES:
                    return None
                whole = file.read()
                os.utime(file.fileno())
        except OSError:
            return None
        plan = whole[_DIGEST_BYTES:]
        return plan if plan and Digest.of(plan) == whole[:_DIGEST_BYTES] else None

    def _write(self, key: str, plan: bytes) -> None:
        # Nobody else may put code for our GPU here.
        disk.make_folder(self._folder, 0o700)
        disk.remove_abandoned(self._folder.glob(f"*{_HALF}"))
        scratch = self._folder / f"{key}.{secrets.token_hex(4)}{_HALF}"
        with disk.create(scratch, 0o600) as file:
            disk.hold(file.fileno())
            try:
                file.write(Digest.of(plan))
                file.write(plan)
                file.flush()
                disk.replace(scratch, self._folder / (key + _SUFFIX))
            except OSError:
                disk.unlink(scratch)
                raise

    def _trim(self, but: str) -> None:
        """Remove the plans that were not used for longest, until the folder keeps its bound."""
        plans = sorted(self._folder.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
        total = sum(path.stat().st_size for path in plans)
        for path in plans:
            if total <= self._bytes_max:
                return
            if path.stem != but:
                total -= path.stat().st_size
                disk.unlink(path)


def _digest_of(path: Path) -> Digest:
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                return Digest.of(b"")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
                return Digest.of(view)
    except OSError as error:
        raise IncompleteModelError(f"{path} cannot be read: {error}", hint="p2psync verify --repair") from error
