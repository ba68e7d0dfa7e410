"""Calls that only Linux has, and what happens where the file system lacks them."""

import errno
import os

import pytest

from p2psync.store import linux


@pytest.fixture
def pair(tmp_path):
    """An open file of a million bytes and an empty one."""
    (tmp_path / "source").write_bytes(bytes(range(250)) * 4000)
    source, target = os.open(tmp_path / "source", os.O_RDWR), os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield source, target
    os.close(source)
    os.close(target)


@pytest.fixture(params=["kernel", "fallback"])
def copying(request, monkeypatch):
    """Copies by the kernel, and by reading and writing where the kernel refuses."""
    if request.param == "fallback":

        def refuse(*_):
            raise OSError(errno.EXDEV, "another file system")

        monkeypatch.setattr(os, "copy_file_range", refuse)


def test_copy_range(pair, copying):
    """Bytes arrive at their offset; a source that ends early says how many there were."""
    source, target = pair
    assert linux.copy_range(source, 1000, target, 77, 500_000) == 500_000
    assert os.pread(target, 500_000, 77) == os.pread(source, 500_000, 1000)
    assert linux.copy_range(source, 999_990, target, 0, 100) == 10


def test_copy_range_tells_of_a_full_disk(pair, monkeypatch):
    """An error that no fallback mends is raised."""

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(OSError, match="full"):
        linux.copy_range(*pair[:1], 0, pair[1], 0, 10)


def test_reserve_gives_size_and_no_data(pair):
    """A reserved file has its size, its blocks where possible, and nothing written in it."""
    _, target = pair
    linux.reserve(target, 300_000)
    facts = os.fstat(target)
    assert facts.st_size == 300_000
    assert list(linux.written_extents(target, 300_000)) in ([], [(0, 300_000)])
    linux.reserve(target, 0)
    assert os.fstat(target).st_size == 0


def test_reserve_where_nothing_can_be_promised(pair, monkeypatch):
    """Without fallocate the file only gets its size; any other refusal is raised."""

    class Lib:
        def fallocate(self, *_):
            return -1

    monkeypatch.setattr(linux, "_libc", Lib())
    monkeypatch.setattr(linux.ctypes, "get_errno", lambda: errno.EOPNOTSUPP)
    linux.reserve(pair[1], 4096)
    assert os.fstat(pair[1]).st_size == 4096
    monkeypatch.setattr(linux.ctypes, "get_errno", lambda: errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        linux.reserve(pair[1], 4096)


def test_written_extents(pair, monkeypatch):
    """What was written lies inside the extents; where nobody keeps track, everything does."""
    _, target = pair
    linux.reserve(target, 1 << 20)
    os.pwrite(target, b"x" * 5000, 300_000)
    extents = list(linux.written_extents(target, 1 << 20))
    assert any(start <= 300_000 and end >= 305_000 for start, end in extents)

    def unknown(*_):
        raise OSError(errno.EINVAL, "no such seek")

    monkeypatch.setattr(os, "lseek", unknown)
    assert list(linux.written_extents(target, 1 << 20)) == [(0, 1 << 20)]


def test_reflink_shares_or_says_no(pair):
    """A clone equals its source; a file system without clones says so and writes nothing."""
    source, target = pair
    if linux.reflink(source, target):
        assert os.pread(target, 1_000_000, 0) == os.pread(source, 1_000_000, 0)
    else:
        assert os.fstat(target).st_size == 0
