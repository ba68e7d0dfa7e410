"""How much memory and how many processors this process may use, and how much it used. Only Linux says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from p2psync.errors import BackendUnavailableError, MemoryShortError, ModelError
from p2psync.limits import KIB

# What the dynamic loader says of glibc and of musl.
_REFUSED: Final = ("failed to map segment", "annot allocate memory", "Error mapping file", "Out of memory")
_GROUP: Final = Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Memory that can be had without swapping, inside the limit of the control group. None where nobody says."""
    free = _kib_field(Path("/proc/meminfo"), "MemAvailable")
    limit = _group_number("memory.max")
    if limit is None:
        return free
    used = _group_number("memory.current") or 0
    # Pages of files count as used until somebody else wants them.
    cached = _group_stat("inactive_file")
    left = max(0, limit - used + cached)
    return left if free is None else min(free, left)


def short(what: str, fault: str = "") -> MemoryShortError:
    """The error for ``what`` did not fit, in the words of whoever was refused memory.

    A system may refuse it while much is free: a limit of the process, or more asked for at once than there is.
    """
    return MemoryShortError(
        f"{what}: not enough memory{fault and f' ({fault})'}",
        needed_bytes=None,
        available_bytes=available_bytes(),
        hint="close other programs, ask for a smaller size or fewer frames, or take a smaller variant",
    )


@contextmanager
def enough(what: str) -> Iterator[None]:
    """Turn the lack of memory that Python tells, and the loader of its libraries, into the error that has a name.

    Raises:
        MemoryShortError: the block ran out of memory.
    """
    try:
        yield
    except (MemoryError, ImportError) as error:
        if not _is_short(error):
            raise
        raise short(what, str(error)) from error


def unloadable(library: str, error: ImportError | OSError, hint: str) -> ModelError:
    """The error for a library that cannot be loaded: there is no memory for it, or it is not installed."""
    if _is_short(error):
        return short(f"{library} cannot be loaded", str(error))
    return BackendUnavailableError(f"{library} is not installed: {error}", hint=hint)


def _is_short(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error) for words in _REFUSED)


def processors() -> int:
    """Processors that this process may use, the quota of its control group included; at least one."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _text(_GROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        count = min(count, max(1, int(quota) // int(period)))
    return max(1, count)


def reset_peak() -> None:
    """Start counting the peak of this process anew, where the system lets us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_bytes() -> int | None:
    """The most memory that was resident since ``reset_peak``, mapped files included. None where nobody says."""
    return _kib_field(Path("/proc/self/status"), "VmHWM")


def anonymous_bytes() -> int | None:
    """Memory of this process that is its own: what mapped files do not back."""
    return _kib_field(Path("/proc/self/status"), "RssAnon")


def processor_flags() -> frozenset[str]:
    """What the processor says that it can do: ``avx512_vnni``, ``asimddp`` and so on."""
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return frozenset(flags.split())
    return frozenset()


def _kib_field(path: Path, name: str) -> int | None:
    for line in _text(path).splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * KIB
    return None


def _group_number(name: str) -> int | None:
    text = _text(_GROUP / name).strip()
    return int(text) if text.isdigit() else None


def _group_stat(name: str) -> int:
    for line in _text(_GROUP / "memory.stat").splitlines():
        if line.startswith(f"{name} "):
            return int(line.split()[1])
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
