"""What is learnt of a disk by trying it, and that nothing is left of the try."""

import os
from pathlib import Path

import pytest

from p2psync.store import condition
from p2psync.store.home import Home

ROOT = "ab" * 32


def test_the_nearest_directory_that_stands(tmp_path):
    """Of a path that does not exist, the directory above it that does; a file is where it is."""
    (tmp_path / "file").write_bytes(b"")
    assert condition.standing(tmp_path) == tmp_path
    assert condition.standing(tmp_path / "a" / "b") == tmp_path
    assert condition.standing(tmp_path / "file" / "home") == tmp_path / "file"


def test_file_system_of_pseudo_mounts():
    """The kernel's own mounts are told by their type."""
    assert condition.mounted(Path("/proc")).kind == "proc"


def test_the_deepest_mount_decides(tmp_path, monkeypatch):
    """A mount within a mount, later over earlier, and a name with a space, as mountinfo writes them."""
    place = tmp_path / "my disk"
    place.mkdir()
    lines = [
        "1 0 0:9 / / rw - ext4 /dev/a rw",
        f"2 1 0:8 / {tmp_path} rw - xfs /dev/b rw",
        f"3 2 0:7 / {str(place).replace(' ', chr(92) + '040')} rw shared:1 - nfs4 server:/x rw",
        f"4 1 0:6 / {tmp_path}-other rw - cifs //s/x rw",
    ]
    mounts = tmp_path / "mountinfo"
    mounts.write_text("\n".join(lines))
    monkeypatch.setattr(condition, "_MOUNTS", mounts)
    assert [condition.mounted(path).kind for path in (Path("/"), tmp_path, place)] == ["ext4", "xfs", "nfs4"]


def test_no_mounts_to_read(tmp_path, monkeypatch):
    """Where the kernel does not say, nobody guesses."""
    monkeypatch.setattr(condition, "_MOUNTS", tmp_path / "none")
    assert condition.mounted(tmp_path) is None


def test_tries_leave_nothing(tmp_path):
    """A sync takes some time, a reflink works or not, and the directory is as empty as before."""
    assert condition.sync_time_s(tmp_path) > 0
    assert condition.shares_blocks(tmp_path) in (True, False)
    assert condition.room(tmp_path).free_bytes > 0
    assert list(tmp_path.iterdir()) == []


def test_a_try_in_no_directory(tmp_path):
    """What cannot be tried is an error of the system."""
    with pytest.raises(OSError, match="No such file"):
        condition.sync_time_s(tmp_path / "none")


def test_interrupted_pulls_and_what_belongs_to_none(tmp_path):
    """The oldest by its journal, or by its folder where it has none; other names are strays."""
    assert condition.interrupted(tmp_path, 1000.0) == condition.Interrupted(0, 0.0, ())
    partial = Home(tmp_path).partial
    for name, moved_s in ((ROOT, 400), ("cd" * 32, 900)):
        (partial / name).mkdir(parents=True)
        (partial / name / "journal").write_bytes(b"")
        os.utime(partial / name / "journal", (moved_s, moved_s))
    (partial / "download.tmp").write_bytes(b"")
    assert condition.interrupted(tmp_path, 1000.0) == condition.Interrupted(2, 600.0, ("download.tmp",))
    (partial / ROOT / "journal").unlink()
    os.utime(partial / ROOT, (100, 100))
    assert condition.interrupted(tmp_path, 1000.0).oldest_s == 900.0
