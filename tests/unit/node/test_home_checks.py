"""What ``doctor`` finds of a home and its disk, each time with a home that is really broken."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import p2psync
from p2psync.limits import FREE_RESERVE_BYTES, GIB, MIB, PARTIAL_KEEP_S
from p2psync.node import home_checks as checks
from p2psync.node.findings import Check, Finding, Outcome, look_at
from p2psync.store import Store, condition
from p2psync.trust import Keyring, TrustStore
from tests.stores import KEY, NOW_S, WEIGHTS, make_model, publish


def outcome(finding: Finding | None) -> Outcome:
    assert finding is not None
    return finding.outcome


@pytest.fixture
def stocked(home: Path, tmp_path: Path) -> Path:
    """A home with one version of acme/model."""
    with Store.open(home) as store:
        publish(store, make_model(tmp_path / "model"))
    return home


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 8 MiB; only root of a machine that allows it can make one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = [shutil.which("mount") or "mount", "-t", "tmpfs", "-o", "size=8m", "x", str(place)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("nobody may mount here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_home_exists_or_can_be_made(tmp_path: Path) -> None:
    """One that is there, and one whose parent takes it, are well; a file, and what is below it, are none."""
    assert checks.check_home(tmp_path).outcome is Outcome.OK
    assert "can be made" in checks.check_home(tmp_path / "a" / "b").found
    (tmp_path / "file").write_bytes(b"")
    assert checks.check_home(tmp_path / "file").outcome is Outcome.FAILED
    assert checks.check_home(tmp_path / "file" / "home").outcome is Outcome.FAILED
    assert checks.check_home(Path("/proc/home")).outcome is Outcome.FAILED


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_others_may_write_the_home(home: Path, mode: int) -> None:
    """Whoever may write it could replace what is trusted."""
    home.chmod(mode)
    found = checks.check_owner(home)
    assert found is not None
    assert (found.outcome, found.hint) == (Outcome.FAILED, f"chmod go-w {home}")
    home.chmod(0o755)
    assert outcome(checks.check_owner(home)) is Outcome.OK


def test_home_of_another_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other user's number is told."""
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert outcome(checks.check_owner(home)) is Outcome.WARNING


def test_no_home_has_neither_owner_nor_store(tmp_path: Path) -> None:
    """Of a home that is not there, only what it would stand on is told."""
    home = tmp_path / "none"
    for look in (checks.check_owner, checks.check_store, checks.check_interrupted, checks.check_private):
        assert look(home) is None
    assert outcome(checks.check_writable(home)) is Outcome.OK
    assert outcome(checks.check_reflink(home)) is Outcome.OK
    assert list(tmp_path.iterdir()) == []


def test_full_and_volatile_disk(small_disk: Path) -> None:
    """A disk with less than what is always left fails, and one in memory warns."""
    assert checks.check_room(small_disk).outcome is Outcome.FAILED
    found = checks.check_file_system(small_disk)
    assert found is not None
    assert (found.outcome, found.found) == (Outcome.WARNING, "tmpfs, gone at the next boot")


def test_read_only_disk(small_disk: Path) -> None:
    """It takes no writes, and the home that stands there is read nevertheless."""
    home = small_disk / "home"
    with Store.open(home):
        pass
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert outcome(checks.check_file_system(home)) is Outcome.FAILED
    assert outcome(checks.check_writable(home)) is Outcome.FAILED
    assert checks.check_reflink(home) is None
    assert outcome(checks.check_home(home)) is Outcome.OK
    assert outcome(checks.check_store(home)) is Outcome.OK
    assert outcome(checks.check_home(small_disk / "other")) is Outcome.FAILED


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (condition.Room(2 * GIB, None), Outcome.OK),
        (condition.Room(FREE_RESERVE_BYTES - 1, None), Outcome.FAILED),
        (condition.Room(200 * MIB, 10_000), Outcome.WARNING),
        (condition.Room(2 * GIB, 3), Outcome.WARNING),
    ],
)
def test_room(home: Path, monkeypatch: pytest.MonkeyPatch, room: condition.Room, expected: Outcome) -> None:
    """Bytes below the reserve fail; few bytes or few files warn."""
    monkeypatch.setattr(condition, "room", lambda _path: room)
    assert checks.check_room(home).outcome is expected


def test_network_file_system(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks and syncs over a network are doubtful."""
    monkeypatch.setattr(condition, "mounted", lambda _path: condition.Mounted("nfs4", read_only=False))
    assert outcome(checks.check_file_system(home)) is Outcome.WARNING


def test_slow_and_failing_sync(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync that takes longer than the journal's interval warns; one that fails, fails."""
    monkeypatch.setattr(condition, "sync_time_s", lambda _path: 0.9)
    assert outcome(checks.check_writable(home)) is Outcome.WARNING

    def fail(_path: Path) -> float:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(condition, "sync_time_s", fail)
    found = checks.check_writable(home)
    assert outcome(found) is Outcome.FAILED


def test_owner_is_named(home: Path) -> None:
    """The process that holds the home, here this one."""
    assert checks.check_in_use(home).found == "by no process"
    with Store.open(home):
        assert checks.check_in_use(home).found == f"by process {os.getpid()}"


def test_store_with_an_edited_file(stocked: Path) -> None:
    """A file that changed after it was proved is withdrawn, and counted. The check changes nothing."""
    assert outcome(checks.check_store(stocked)) is Outcome.OK
    weights = next(stocked.joinpath("models").rglob(WEIGHTS))
    weights.chmod(0o644)
    weights.write_bytes(b"other")
    found = checks.check_store(stocked)
    assert found is not None
    assert (found.outcome, found.hint) == (Outcome.WARNING, "p2psync verify --repair")


def test_store_that_cannot_be_opened(stocked: Path) -> None:
    """An index that is no database ends in a finding, and the next check is made."""
    (stocked / "index.db").write_bytes(b"no database" * 1000)
    found = look_at(Check("store", lambda: checks.check_store(stocked)) for _ in range(2))
    assert [each.outcome for each in found] == [Outcome.FAILED] * 2
    assert checks.check_clock(stocked).outcome is Outcome.OK


def test_interrupted_pulls(home: Path) -> None:
    """Young ones are well, old ones and strays warn."""
    assert outcome(checks.check_interrupted(home)) is Outcome.OK
    folder = home / "partial" / ("ab" * 32)
    folder.mkdir(parents=True)
    now = folder.stat().st_mtime
    assert outcome(checks.check_interrupted(home, now + 60)) is Outcome.OK
    assert outcome(checks.check_interrupted(home, now + PARTIAL_KEEP_S + 60)) is Outcome.WARNING
    (home / "partial" / "left").write_bytes(b"")
    found = checks.check_interrupted(home, now + 60)
    assert found is not None
    assert "left" in found.found


def test_clock_before_what_happened(stocked: Path) -> None:
    """A clock of 1970, and one before the newest version that is here."""
    assert checks.check_clock(stocked).outcome is Outcome.OK
    found = checks.check_clock(stocked, 1000.0)
    assert found.outcome is Outcome.FAILED
    assert found.found.startswith("1970-01-01")


def test_clock_before_a_version(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the program is older than the newest version, that version is the measure."""
    with Store.open(home) as store:
        publish(store, make_model(tmp_path / "model"))
    old = tmp_path / "old.py"
    old.write_bytes(b"")
    os.utime(old, (NOW_S - 10**6, NOW_S - 10**6))
    monkeypatch.setattr(p2psync, "__file__", str(old))
    assert checks.check_clock(home, NOW_S + 5).outcome is Outcome.OK
    found = checks.check_clock(home, NOW_S - 2 * 86_400)
    assert found.outcome is Outcome.FAILED
    assert "2 days before the newest version here was signed" in found.found


def test_keys_and_trust_that_others_may_touch(home: Path) -> None:
    """As they are made they are well; a key that others may read, or a folder that they may enter, is named."""
    Keyring(home / "keys").new("release")
    TrustStore(home / "trust").add("acme/*", KEY.verify_key)
    assert outcome(checks.check_private(home)) is Outcome.OK
    key = next(path for path in (home / "keys").iterdir() if path.is_file())
    key.chmod(0o644)
    found = checks.check_private(home)
    assert found is not None
    assert (found.outcome, found.found) == (Outcome.FAILED, f"open to others: keys/{key.name} (0644)")
    key.chmod(0o600)
    (home / "trust").chmod(0o755)
    assert outcome(checks.check_private(home)) is Outcome.FAILED


def test_trust(stocked: Path) -> None:
    """Nobody trusted, somebody else trusted, the publisher trusted."""
    trust = TrustStore(stocked / "trust")
    assert checks.check_trust(stocked).outcome is Outcome.WARNING
    trust.add("other/*", KEY.verify_key)
    found = checks.check_trust(stocked)
    assert (found.outcome, found.found) == (Outcome.WARNING, "nobody is trusted for acme/model, which is here")
    trust.add("acme/*", KEY.verify_key)
    assert checks.check_trust(stocked).outcome is Outcome.OK


def test_lost_floors(home: Path) -> None:
    """Without them an old version could pass for a new one: that fails, with what to do."""
    TrustStore(home / "trust").add("acme/*", KEY.verify_key)
    (home / "trust" / "floors.json").unlink()
    (found,) = look_at([Check("trust", lambda: checks.check_trust(home))])
    assert found.outcome is Outcome.FAILED
    assert found.hint


def test_now_is_after_this_program() -> None:
    """The clock that the tests run by is no clock that is behind."""
    assert checks.check_clock(Path("/nonexistent"), time.time()).outcome is Outcome.OK
