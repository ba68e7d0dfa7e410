"""What is looked at of a home and of the disk below it. Nothing here owns the home or leaves anything in it."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import p2psync
from p2psync.limits import FREE_LOW_BYTES, FREE_RESERVE_BYTES, JOURNAL_INTERVAL_S, MIB, PARTIAL_KEEP_S
from p2psync.node.findings import Finding, failed, ok, warning
from p2psync.store import Store, condition, owner_pid
from p2psync.trust import TrustStore

# Locks and reflinks there are what the server makes of them.
_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "afs", "fuse.sshfs", "fuse.glusterfs"})
_VOLATILE: Final = {
    "tmpfs": "gone at the next boot",
    "ramfs": "gone at the next boot",
    "overlay": "gone with its container",
}
_OTHERS_WRITE: Final = 0o022
_OTHERS_ANYTHING: Final = 0o077
_DAY_S: Final = 86_400
# Clocks of machines that nobody keeps together differ by minutes.
_CLOCK_SLACK_S: Final = 3600
_CLOCK_AHEAD_S: Final = 10 * 365 * 86_400
# A home that needs fewer new files than this to take one version is rare.
_FILES_LOW: Final = 1024


def check_home(home: Path) -> Finding:
    """Whether there is a home, or one can be made. Where neither is so, p2psync cannot run at all."""
    place = condition.standing(home)
    if not os.path.isdir(place):
        return failed("home", f"{place} is no directory", "--home names a directory, or one that can be made")
    if place != home:
        if condition.takes_files(place):
            return ok("home", f"{home} does not exist yet and can be made")
        return failed("home", f"{home} does not exist, and {place} takes no new one", "--home names another place")
    if not os.access(home, os.R_OK | os.X_OK):
        return failed("home", f"{home} cannot be read", f"chown {os.geteuid()} {home}, or choose another --home")
    return ok("home", str(home))


def check_owner(home: Path) -> Finding | None:
    """Whose the home is, and who else may write there: whoever may can replace what is trusted."""
    if not home.is_dir():
        return None
    facts = os.stat(home)
    mode = stat.S_IMODE(facts.st_mode)
    found = f"owner {facts.st_uid}, mode {mode:04o}"
    if mode & _OTHERS_WRITE:
        return failed("home owner", f"{found}: others may write there", f"chmod go-w {home}")
    if facts.st_uid != os.geteuid():
        return warning("home owner", f"{found}, and this is user {os.geteuid()}", f"run p2psync as user {facts.st_uid}")
    return ok("home owner", found)


def check_writable(home: Path) -> Finding | None:
    """Whether files can be made in the home, found out by making one; with the time of a sync."""
    place = condition.standing(home)
    if not place.is_dir() or (place != home and not condition.takes_files(place)):
        return None
    try:
        took_s = condition.sync_time_s(place)
    except OSError as error:
        hint = "ls and show still work; pull, publish and serve need a home that takes writes"
        return failed("home writes", f"{place} takes no writes: {error.strerror or error}", hint)
    found = f"a sync takes {took_s * 1000:.1f} ms"
    if took_s > JOURNAL_INTERVAL_S:
        hint = f"a pull syncs every {JOURNAL_INTERVAL_S * 1000:.0f} ms: it will wait for this disk"
        return warning("home writes", found, hint)
    return ok("home writes", found)


def check_room(home: Path) -> Finding:
    """Free bytes and free files."""
    place = condition.standing(home)
    left = condition.room(place)
    found = f"{left.free_bytes // MIB} MiB free"
    hint = "p2psync prune -n shows what can go"
    if left.free_bytes < FREE_RESERVE_BYTES:
        return failed("disk room", f"{found}, and {FREE_RESERVE_BYTES // MIB} MiB are always left", hint)
    if left.files is not None and left.files < _FILES_LOW:
        return warning("disk room", f"{found}, and no more than {left.files} new files", hint)
    return warning("disk room", found, hint) if left.free_bytes < FREE_LOW_BYTES else ok("disk room", found)


def check_file_system(home: Path) -> Finding | None:
    """What the home stands on."""
    found = condition.mounted(condition.standing(home))
    if found is None:
        return None
    if found.read_only:
        hint = "mount it for writing, or choose another --home"
        return failed("file system", f"{found.kind}, mounted read-only", hint)
    if found.kind in _REMOTE:
        hint = "locks and syncs over a network are what its server makes of them: use a local disk"
        return warning("file system", f"{found.kind}, over a network", hint)
    if found.kind in _VOLATILE:
        return warning("file system", f"{found.kind}, {_VOLATILE[found.kind]}", "choose a --home on a disk or volume")
    return ok("file system", found.kind)


def check_reflink(home: Path) -> Finding | None:
    """Whether copies share their blocks. Without, they cost their room and their time, and all works."""
    place = condition.standing(home)
    if not place.is_dir() or not condition.takes_files(place):
        return None
    shared = condition.shares_blocks(place)
    return ok("reflink", "copies share their blocks" if shared else "none: snapshots and exports are real copies")


def check_in_use(home: Path) -> Finding:
    """Which process owns the home now."""
    pid = owner_pid(home)
    return ok("in use", "by no process" if pid is None else f"by process {pid}")


def check_store(home: Path) -> Finding | None:
    """Whether what the home says of itself can be read, and what of it is withdrawn."""
    if not home.is_dir():
        return None
    with Store.open(home, write=False) as store:
        usage = store.usage()
    found = f"versions installed: {usage.versions}"
    if usage.withdrawn:
        hint = "p2psync verify --repair"
        return warning("store", f"{found}; files changed or damaged, and withdrawn: {usage.withdrawn}", hint)
    return ok("store", found)


def check_interrupted(home: Path, now_unix_s: float | None = None) -> Finding | None:
    """Pulls that did not end, and what belongs to none."""
    if not home.is_dir():
        return None
    left = condition.interrupted(home, time.time() if now_unix_s is None else now_unix_s)
    if left.strays:
        names = ", ".join(left.strays[:3])
        found = f"{len(left.strays)} in {home / 'partial'} belong to none: {names}"
        return warning("pulls", found, "remove what p2psync did not put there")
    if not left.pulls:
        return ok("pulls", "none is unfinished")
    found = f"{left.pulls} unfinished, the oldest moved {_span(left.oldest_s)} ago"
    if left.oldest_s > PARTIAL_KEEP_S:
        return warning("pulls", found, "pull again to go on, or p2psync prune to free their bytes")
    return ok("pulls", found)


def check_clock(home: Path, now_unix_s: float | None = None) -> Finding:
    """A clock before what already happened, or ten years after it.

    Heads expire by it: one that is behind accepts what has expired, one that is ahead refuses what has not.
    """
    now = time.time() if now_unix_s is None else now_unix_s
    latest, what = Path(p2psync.__file__).stat().st_mtime, "this p2psync was installed"
    for created in _created(home):
        if created > latest:
            latest, what = created, "the newest version here was signed"
    behind_s = latest - now
    told = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if behind_s > _CLOCK_SLACK_S:
        hint = "set the clock (timedatectl set-ntp true): expired versions would pass for fresh ones"
        return failed("clock", f"{told}, {_span(behind_s)} before {what}", hint)
    if -behind_s > _CLOCK_AHEAD_S:
        hint = "if that is not so, set the clock (timedatectl set-ntp true): whatever expires is refused"
        return warning("clock", f"{told}, {_span(-behind_s)} after {what}", hint)
    return ok("clock", told)


def _created(home: Path) -> list[int]:
    """When the versions that are here were signed; a home that cannot be read is another check's."""
    try:
        with Store.open(home, write=False) as store:
            return [info.created for info in store.versions()]
    except Exception:  # noqa: BLE001 - see above
        return []


def check_private(home: Path) -> Finding | None:
    """Modes of what only the owner of a home may touch: its keys, its node's key, and whom it trusts."""
    open_to_others = [f"{path} ({mode:04o})" for path, mode in _private(home) if mode & _OTHERS_ANYTHING]
    if not any((home / name).is_dir() for name in ("keys", "node", "trust")):
        return None
    if open_to_others:
        folders = " ".join(str(home / name) for name in ("keys", "node", "trust") if (home / name).exists())
        found = f"open to others: {', '.join(open_to_others[:3])}"
        if len(open_to_others) > 3:
            found += f" and {len(open_to_others) - 3} more"
        return failed("private files", found, f"chmod -R go-rwx {folders}")
    return ok("private files", "only their owner may read or write them")


def _private(home: Path) -> Iterator[tuple[Path, int]]:
    for name in ("keys", "node", "trust"):
        folder = home / name
        if folder.is_dir():
            for path in (folder, *sorted(folder.iterdir())):
                yield path.relative_to(home), stat.S_IMODE(os.lstat(path).st_mode)


def check_trust(home: Path) -> Finding:
    """Whether anybody is trusted, and whether somebody is for each model that is here."""
    trust = TrustStore(home / "trust")
    entries = trust.entries()
    trust.floor("", "")
    if not entries:
        hint = "p2psync trust add 'NAMESPACE/*' ed25519:HEX, with the publisher's key"
        return warning("trust", "no publisher is trusted yet: nothing can be pulled", hint)
    names = _names(home)
    orphans = sorted(name for name in names if not any(entry.matches(name) for entry in entries))
    if orphans:
        hint = f"p2psync trust add '{orphans[0].partition('/')[0]}/*' ed25519:HEX, or p2psync rm what is not wanted"
        return warning("trust", f"nobody is trusted for {', '.join(orphans[:3])}, which is here", hint)
    return ok("trust", f"patterns bound to a key: {len(entries)}")


def _names(home: Path) -> set[str]:
    """The models that are here; a home that cannot be read is another check's."""
    try:
        with Store.open(home, write=False) as store:
            return {info.name for info in store.versions()}
    except Exception:  # noqa: BLE001 - see above
        return set()


def _span(seconds: float) -> str:
    if seconds < _DAY_S:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / _DAY_S:.0f} days"
