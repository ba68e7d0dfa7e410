"""What is written durably is whole or is what was there before, and in the order that makes it so."""

import os

import pytest

from p2psync import disk


@pytest.fixture
def steps(monkeypatch):
    """The names of the system calls that were made, in order."""
    made = []
    for name in ("write", "pwrite", "fsync", "fdatasync", "rename", "replace", "link", "unlink", "mkdir"):
        real = getattr(os, name)

        def call(*arguments, name=name, real=real, **named):
            made.append(name)
            return real(*arguments, **named)

        monkeypatch.setattr(os, name, call)
    return made


def test_a_file_is_synced_before_it_has_its_name(tmp_path, steps):
    """Bytes, their sync, the name, and the sync of the name."""
    disk.write_durably(tmp_path / "file", b"new")
    assert steps == ["write", "fsync", "replace", "fsync"]
    assert (tmp_path / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_folders_are_durable_in_their_parents(tmp_path, steps):
    """From the top down, each with the sync of the one above; what is there costs nothing."""
    disk.make_folder(tmp_path / "a" / "b")
    assert steps == ["mkdir", "fsync", "mkdir", "fsync"]
    disk.make_folder(tmp_path / "a" / "b")
    assert len(steps) == 4


@pytest.mark.parametrize("failing", ["write", "sync", "replace"])
def test_a_step_that_fails_leaves_what_was_there(tmp_path, monkeypatch, failing):
    """The old bytes stay, and the next try succeeds over whatever is left."""
    disk.write_durably(tmp_path / "file", b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(disk, failing, fail)
        with pytest.raises(OSError, match="No space"):
            disk.write_durably(tmp_path / "file", b"new and longer")
    assert (tmp_path / "file").read_bytes() == b"old"
    disk.write_durably(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_short_writes_are_continued(tmp_path, monkeypatch):
    """However few bytes a call takes."""
    write, pwrite = os.write, os.pwrite
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:7], offset))
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    disk.write_all(fd, b"0123456789" * 3)
    disk.write_at(fd, bytearray(b"abcdefghij"), 25)
    assert os.pread(fd, 100, 0) == b"0123456789012345678901234abcdefghij"
    os.close(fd)


def test_removing_says_whether_there_was_anything(tmp_path, steps):
    """And what is gone stays gone after a power cut."""
    (tmp_path / "file").touch()
    assert disk.remove_durably(tmp_path / "file")
    assert steps == ["unlink", "fsync"]
    assert not disk.remove_durably(tmp_path / "file")
    (tmp_path / "tree" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "below" / "file").touch()
    disk.remove_tree(tmp_path / "tree")
    disk.remove_tree(tmp_path / "tree")
    assert os.listdir(tmp_path) == []
