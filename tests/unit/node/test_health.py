"""Whether the disk of a home takes writes."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from p2psync.node.health import CHECK_S, Health


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_good_disk_is_ok_and_keeps_nothing(tmp_path: Path) -> None:
    """A disk that takes a block is well, and the block is gone afterwards."""
    health = Health(tmp_path)
    assert health.told() == (200, b'{"status": "ok"}\n')
    health.check()
    assert health.reason is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["open", "write", "fdatasync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_every_step_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    """Whichever step the disk refuses, the answer is 503 with its reason and no path; it recovers with the disk."""

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number), str(tmp_path / "secret-model"))

    health = Health(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        health.check()
    status, body = health.told()
    assert status == 503
    assert json.loads(body) == {
        "status": "failing",
        "reason": f"the disk takes no writes: {os.strerror(number)}",
    }
    assert list(tmp_path.iterdir()) == []
    health.check()
    assert health.told()[0] == 200


def test_short_write_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes part of a block has no room."""
    health = Health(tmp_path)
    monkeypatch.setattr(os, "write", lambda _descriptor, data: len(data) - 1)
    health.check()
    assert health.told()[0] == 503


def test_link_in_the_place_of_the_probe_is_not_followed(tmp_path: Path) -> None:
    """A link under the probe's name leads no write elsewhere."""
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".health").symlink_to(target)
    health = Health(tmp_path / "home")
    health.check()
    assert target.read_bytes() == b"mine"
    assert health.reason is not None


def test_home_that_is_gone(tmp_path: Path) -> None:
    """A home whose directory was taken away is not well."""
    health = Health(tmp_path / "gone")
    health.check()
    assert health.told()[0] == 503


def test_disk_that_hangs_is_told_by_its_silence(tmp_path: Path) -> None:
    """When no check has come back for three intervals, that is the fault; one that comes back ends it."""
    clock = Clock()
    health = Health(tmp_path, clock)
    clock.now_s += 3 * CHECK_S
    assert health.reason is None
    clock.now_s += 1
    assert health.reason == "the disk has not answered for 91 s"
    health.check()
    assert health.reason is None
