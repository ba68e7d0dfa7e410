"""A disk that fills up: a named error with the figures that help, nothing half, and a good end once there is room."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.conftest import Shop
from tests.integration.lab import Done, Home, Publisher, until
from tests.integration.models import WEIGHTS, assert_equal_files, held_digests, make_model, size_of
from tests.integration.relay import Relay

pytestmark = pytest.mark.root

Mount = Callable[[Path, str], Path]


@pytest.fixture
def small(mount_tmpfs: Mount, tmp_path: Path) -> Path:
    """A file system of 48 MB."""
    return mount_tmpfs(tmp_path / "small", "48m")


def fill(folder: Path, leave: int) -> Path:
    """Take the room of a file system but for ``leave`` bytes."""
    filler = folder / "filler"
    with filler.open("wb") as file:
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        os.posix_fallocate(file.fileno(), 0, max(1, free - leave))
    return filler


def assert_full(done: Done) -> None:
    """The error of a full disk says how many bytes are needed and how many are free."""
    assert done.error["code"] == "store_full", done.stdout
    assert len(re.findall(r"\d+", done.error["message"])) >= 2
    assert "need" in done.error["message"]
    assert "free" in done.error["message"]


def test_too_little_room_is_told_before_the_first_byte(shop: Shop, small: Path) -> None:
    """A pull that cannot fit asks for no chunk: exit 6, needed and free; with room it finishes."""
    node = shop.node(small / "node")
    filler = fill(small, 10_000_000)
    with Relay(shop.seed.url) as relay:
        assert_full(node.run("pull", "acme/model", "--from", relay.url, "--json", code=6))
        assert not relay.asked
        assert node.json("ls")["models"] == []
        plan = node.json("pull", "acme/model", "--from", relay.url, "-n")
        assert plan["disk"]["needed"] >= size_of(shop.folder) > plan["disk"]["free"]
        filler.unlink()
        result = node.pull("acme/model", "--from", relay.url)
    assert_equal_files(result["path"], shop.folder)
    assert node.json("verify")["ok"]


def test_disk_that_fills_in_the_middle_of_a_pull(shop: Shop, small: Path) -> None:
    """When others take the room during a pull it ends well on what it reserved, or with exit 6 and the figures.

    Then the store is consistent, what was proved is kept, and the pull finishes once there is room.
    """
    node = shop.node(small / "node")
    with Relay(shop.seed.url) as relay:
        relay.hold_after(6_000_000)
        with node.start("pull", "acme/model", "--from", relay.url, "--json") as running:
            until(lambda: relay.holding, "the pull is in the middle")
            filler = fill(small, 0)
            relay.release()
            done = running.wait(None)
        assert done.code in (0, 6), done.stderr
        held = held_digests(node.path, shop.folder)
        if done.code == 6:
            assert_full(done)
            assert node.json("ls")["models"] == []
        filler.unlink()
        relay.forget()
        result = node.pull("acme/model", "--from", relay.url)
        assert not held & set(relay.asked)
    assert_equal_files(result["path"], shop.folder)
    assert node.json("verify")["ok"]
    assert node.json("status")["partials"] == []


def test_killed_pull_on_a_disk_that_filled_meanwhile(shop: Shop, small: Path) -> None:
    """A pull that was killed and then finds the disk full keeps what it has, and finishes once there is room."""
    node = shop.node(small / "node")
    with Relay(shop.seed.url) as relay:
        relay.hold_after(6_000_000)
        with node.start("pull", "acme/model", "--from", relay.url) as running:
            until(lambda: relay.holding, "the pull is in the middle")
            running.kill()
        held = held_digests(node.path, shop.folder)
        filler = fill(small, 0)
        relay.release()
        done = node.run("pull", "acme/model", "--from", relay.url, "--json", code=None)
        assert done.code in (0, 6), done.stderr
        filler.unlink()
        relay.forget()
        result = node.pull("acme/model", "--from", relay.url)
        assert not held & set(relay.asked)
    assert_equal_files(result["path"], shop.folder)
    assert node.json("verify")["ok"]


def test_update_that_does_not_fit_keeps_the_old_version(publisher: Publisher, small: Path, tmp_path: Path) -> None:
    """An update without room ends with exit 6; the installed version is whole and is still served."""
    first, second = make_model(tmp_path / "v1"), make_model(tmp_path / "v2", seed=2)
    node, reader = publisher.node(small / "node"), publisher.node(tmp_path / "reader")
    publisher.publish(first)
    with publisher.home.serve() as seed:
        installed = node.pull("acme/model", "--from", seed.url)["path"]
        publisher.publish(second)
        filler = fill(small, 9_000_000)
        assert_full(node.run("pull", "acme/model", "--from", seed.url, "--json", code=6))
        assert_equal_files(installed, first)
        filler.unlink()
        with node.serve() as serving:
            result = reader.pull("acme/model", "--peer", serving.address)
    assert_equal_files(result["path"], first)


def test_export_to_a_full_disk_is_never_half(shop: Shop, small: Path, tmp_path: Path) -> None:
    """--to a disk without room ends with exit 6 and leaves nothing there; the home has the model all the same."""
    node = shop.node(tmp_path / "node")
    filler = fill(small, 5_000_000)
    done = node.run("pull", "acme/model", "--from", shop.seed.url, "--to", small / "out", "--json", code=6)
    assert done.error["code"] == "store_full"
    assert [path.name for path in small.iterdir()] == ["filler"]
    filler.unlink()
    result = node.pull("acme/model", "--from", shop.seed.url, "--to", small / "out")
    assert result["unchanged"]
    assert_equal_files(small / "out", shop.folder)


def test_publish_on_a_full_disk_leaves_no_half_version(small: Path, tmp_path: Path) -> None:
    """A publish without room for its snapshot, or for its tree, ends with exit 6 and can be run again."""
    publisher = Publisher.at(small / "home")
    folder = make_model(tmp_path / "model")
    filler = fill(small, 8_000_000)
    assert_full(publisher.home.run("publish", folder, "acme/model", "--key", "maker", "--json", code=6))
    assert publisher.home.json("ls")["models"] == []
    assert not list(publisher.home.path.rglob(WEIGHTS))
    filler.unlink()
    published = publisher.publish(folder)
    assert published["version"] == 1
    node = publisher.node(tmp_path / "node")
    with publisher.home.serve() as seed:
        assert_equal_files(node.pull("acme/model", "--from", seed.url)["path"], folder)
    tree_home = Publisher.at(tmp_path / "other")
    filler = fill(small, 8_000_000)
    done = tree_home.home.run(
        "publish", folder, "acme/model", "--key", "maker", "--to", small / "tree", "--json", code=6
    )
    assert done.error["code"] == "store_full"
    assert Home(tmp_path / "other").json("verify")["ok"]
