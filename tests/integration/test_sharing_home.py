"""Several processes, several file systems and several copies: one home, never two truths."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Shop
from tests.integration.lab import HASTE, Home, Publisher, until
from tests.integration.models import (
    WEIGHTS,
    assert_equal_files,
    bytes_of,
    copied,
    edit,
    held_digests,
    make_model,
    pieces_of,
    size_of,
)
from tests.integration.relay import Relay


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the test's."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system to write to")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def test_second_daemon_names_the_first(tmp_path: Path) -> None:
    """A home has one owner: a second serve exits 6 and names the pid that is in the way, which serves on."""
    home = Home(tmp_path / "home")
    with home.serve() as first:
        done = home.run("serve", "--json", code=6)
        assert done.error["code"] == "store_locked"
        assert str(first.pid) in done.error["message"]
        assert first.alive
        assert home.json("status")["pid"] == first.pid
    assert home.json("status")["pid"] is None


def test_two_bare_pulls_of_one_model(shop: Shop, tmp_path: Path) -> None:
    """Without a serve the second pull is told whose pid is in the way; the first one ends well."""
    node = shop.node(tmp_path / "node")
    with Relay(shop.seed.url) as relay:
        relay.hold_after(6_000_000)
        with node.start("pull", "acme/model", "--from", relay.url, "--json") as first:
            until(lambda: relay.holding, "the first pull is in the middle")
            done = node.fails("pull", "acme/model", "--from", relay.url, code=6, named="store_locked")
            assert str(first.pid) in done.error["message"]
            relay.release()
            result = first.wait(0).json
    assert_equal_files(result["path"], shop.folder)


def test_two_pulls_of_one_model_through_serve(shop: Shop, tmp_path: Path) -> None:
    """Two pulls that one serve does at the same time both succeed, and each chunk moves once."""
    node = shop.node(tmp_path / "node")
    with Relay(shop.seed.url) as relay, node.serve():
        pull = ("pull", "acme/model", "--from", relay.url, "--json")
        with node.start(*pull) as first, node.start(*pull, "--to", tmp_path / "copy") as second:
            results = [first.wait(0).json, second.wait(0).json]
        assert set(relay.asked.values()) == {1}
    assert sum(result["bytes"]["wan"] for result in results) == bytes_of(pieces_of(shop.folder))
    assert sorted(result["unchanged"] for result in results) == [False, True]
    assert_equal_files(results[0]["path"], shop.folder)
    assert_equal_files(tmp_path / "copy", shop.folder)


def test_pulls_of_two_models_at_once(publisher: Publisher, tmp_path: Path) -> None:
    """Two models that share chunks are pulled at the same time by one serve, and both end right."""
    one, two = make_model(tmp_path / "one"), make_model(tmp_path / "two", changed={0: 8, 1: 8})
    publisher.publish(one, "acme/one")
    publisher.publish(two, "acme/two")
    node = publisher.node(tmp_path / "node")
    with publisher.home.serve() as seed, node.serve():
        pulls = [node.start("pull", f"acme/{name}", "--from", seed.url, "--json") for name in ("one", "two")]
        with pulls[0] as first, pulls[1] as second:
            paths = [first.wait(0).json["path"], second.wait(0).json["path"]]
        assert node.json("verify")["ok"]
    assert_equal_files(paths[0], one)
    assert_equal_files(paths[1], two)


def test_one_content_under_two_names_at_once(publisher: Publisher, tmp_path: Path) -> None:
    """The same bytes under two names are two models for one serve, pulled at the same time, and moved about once."""
    folder = make_model(tmp_path / "model")
    publisher.publish(folder, "acme/one")
    publisher.publish(folder, "acme/two")
    node = publisher.node(tmp_path / "node")
    with publisher.home.serve() as seed, Relay(seed.url) as relay, node.serve():
        pulls = [node.start("pull", f"acme/{name}", "--from", relay.url, "--json") for name in ("one", "two")]
        with pulls[0] as first, pulls[1] as second:
            done = [first.wait(None), second.wait(None)]
        results = [
            node.pull(f"acme/{name}", "--from", relay.url) if each.code else each.json
            for name, each in zip(("one", "two"), done, strict=True)
        ]
        assert {each.code for each in done} <= {0, 6}
        assert relay.sent < 2.2 * size_of(folder)
        assert node.json("verify")["ok"]
    for result in results:
        assert_equal_files(result["path"], folder)


def test_version_that_goes_while_it_is_served(shop: Shop, tmp_path: Path) -> None:
    """A version that rm removes while a peer reads it is withdrawn; the peer takes the rest from elsewhere."""
    near, far = shop.node(tmp_path / "near"), shop.node(tmp_path / "far")
    near.pull("acme/model", "--from", shop.seed.url)
    with (
        near.serve("--upload-limit", "4M") as peer,
        far.start("pull", "acme/model", "--peer", peer.address, "--from", shop.seed.url, "--json") as running,
    ):
        until(lambda: len(held_digests(far.path, shop.folder)) > 2, "some chunks are on disk")
        assert near.json("rm", "acme/model")["removed"]
        done = running.wait(0)
        assert "banned" not in done.stderr
    assert_equal_files(done.json["path"], shop.folder)
    assert not list((near.path / "models").rglob(WEIGHTS))


def test_prune_while_a_pull_runs(publisher: Publisher, tmp_path: Path) -> None:
    """Beside a running update prune takes the version without a tag and nothing that is in flight or linked."""
    first, second = make_model(tmp_path / "v1"), make_model(tmp_path / "v2", changed={0: 3, 1: 3})
    node = publisher.node(tmp_path / "node")
    with publisher.home.serve() as seed, Relay(seed.url) as relay, node.serve():
        publisher.publish(first)
        old = node.pull("acme/model", "--from", relay.url)
        node.pull("acme/model", "--from", relay.url)
        publisher.publish(second)
        relay.hold_after(3_000_000)
        with node.start("pull", "acme/model", "--from", relay.url, "--json") as running:
            until(lambda: relay.holding, "the update is in the middle")
            preview = node.json("prune", "-n")
            pruned = node.json("prune")
            assert preview["removed"] == pruned["removed"]
            assert "partial" not in {row["kind"] for row in pruned["removed"]}
            relay.release()
            result = running.wait(0).json
        assert_equal_files(result["path"], second)
        assert Path(old["path"]).exists()
        removed = node.json("prune")
        assert [row["reference"] for row in removed["removed"]] == [f"acme/model@{old['digest']}"]
        assert removed["freed_bytes"] > 0
        assert not Path(old["path"]).exists()
        assert node.json("verify")["ok"]
    assert_equal_files(result["path"], second)


def test_bare_prune_while_a_pull_runs(shop: Shop, tmp_path: Path) -> None:
    """Without a serve prune is told whose pid is in the way, and takes nothing from the pull."""
    node = shop.node(tmp_path / "node")
    with Relay(shop.seed.url) as relay:
        relay.hold_after(6_000_000)
        with node.start("pull", "acme/model", "--from", relay.url, "--json") as running:
            until(lambda: relay.holding, "the pull is in the middle")
            assert str(running.pid) in node.fails("prune", code=6, named="store_locked").error["message"]
            relay.release()
            assert_equal_files(running.wait(0).json["path"], shop.folder)


def test_prune_keeps_an_interrupted_pull_until_it_is_of_no_use(shop: Shop, tmp_path: Path) -> None:
    """A pull that was interrupted lately is still in flight: prune leaves it, the next pull goes on with it."""
    node = shop.node(tmp_path / "node")
    with Relay(shop.seed.url) as relay:
        relay.hold_after(6_000_000)
        with node.start("pull", "acme/model", "--from", relay.url) as running:
            until(lambda: relay.holding, "the pull is in the middle")
            until(lambda: any(row["done"] for row in node.json("status")["partials"]), "some of it is synced")
            running.kill()
    (before,) = node.json("status")["partials"]
    assert before["done"] > 0
    assert node.json("prune", "-n")["removed"] == []
    assert node.json("prune")["removed"] == []
    assert node.json("status")["partials"] == [before]
    assert node.pull("acme/model", "--from", shop.seed.url)["bytes"]["reused"] > 0
    assert node.json("status")["partials"] == []


@pytest.mark.root
def test_read_only_home(shop: Shop, tmp_path: Path) -> None:
    """On a read-only file system ls, show, diff and status work; what must write says so with exit 6."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    node = shop.node(tmp_path / "node")
    installed = node.pull("acme/model", "--from", shop.seed.url)
    subprocess.run(["mount", "--bind", node.path, node.path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", node.path], check=True)
        assert [row["reference"] for row in node.json("ls")["models"]] == ["acme/model:latest"]
        assert node.json("show", "acme/model")["path"] == installed["path"]
        assert node.json("status")["models"] == 1
        assert node.json("diff", "acme/model", "acme/model")["bytes"]["missing"] == 0
        for words in (("pull", "acme/model", "--from", shop.seed.url), ("prune",), ("serve",), ("key", "new", "k")):
            done = node.run(*words, "--json", code=6)
            assert done.error["hint"] or done.error["message"]
    finally:
        subprocess.run(["umount", node.path], check=True)
    assert_equal_files(installed["path"], shop.folder)
    assert node.pull("acme/model", "--from", shop.seed.url)["unchanged"]


def test_export_to_another_file_system(shop: Shop, tmp_path: Path, other_file_system: Path) -> None:
    """--to on another file system is a copy; --link, which cannot work there, ends with exit 6 and leaves nothing."""
    node = shop.node(tmp_path / "node")
    target = other_file_system / "model"
    node.pull("acme/model", "--from", shop.seed.url, "--to", target)
    assert_equal_files(target, shop.folder)
    linked = other_file_system / "linked"
    done = node.run("pull", "acme/model", "--to", linked, "--link", "--offline", "--json", code=6)
    assert str(linked) in done.error["message"]
    assert [path.name for path in other_file_system.iterdir()] == ["model"]


def test_home_and_source_on_different_file_systems(
    publisher: Publisher, tmp_path: Path, other_file_system: Path
) -> None:
    """A home on one file system publishes from another, and pulls an origin tree that stands on the other."""
    folder = make_model(other_file_system / "model", layers=2)
    publisher.publish(folder, "acme/model", "--to", other_file_system / "tree")
    node = publisher.node(tmp_path / "node")
    assert_equal_files(node.pull("acme/model", "--from", other_file_system / "tree")["path"], folder)
    far = publisher.node(other_file_system / "home")
    with publisher.home.serve() as seed:
        assert_equal_files(far.pull("acme/model", "--from", seed.url)["path"], folder)
    assert far.json("verify")["ok"]


def test_moved_home_works_where_it_stands(shop: Shop, tmp_path: Path) -> None:
    """A home that was renamed keeps its models: no path in it is absolute."""
    node = shop.node(tmp_path / "node")
    node.pull("acme/model", "--from", shop.seed.url)
    os.rename(node.path, tmp_path / "elsewhere")
    moved = Home(tmp_path / "elsewhere")
    path = Path(moved.json("show", "acme/model")["path"])
    assert path.is_relative_to(moved.path)
    assert_equal_files(path, shop.folder)
    assert moved.json("verify")["ok"]
    assert moved.pull("acme/model", "--from", shop.seed.url)["unchanged"]


def test_copied_home_proves_before_it_serves(shop: Shop, tmp_path: Path) -> None:
    """A copy of a home serves what it has proved again and nothing else: a byte that went wrong stays there."""
    node = shop.node(tmp_path / "node")
    node.pull("acme/model", "--from", shop.seed.url)
    copy = Home(copied(node.path, tmp_path / "copy"))
    reader = shop.node(tmp_path / "reader")
    with copy.serve() as serving:
        result = reader.pull("acme/model", "--peer", serving.address)
        assert_equal_files(result["path"], shop.folder)
    bad = Home(copied(node.path, tmp_path / "bad"))
    (weights,) = (bad.path / "models").rglob(WEIGHTS)
    edit(weights, 5_000_000)
    late, both = shop.node(tmp_path / "late", HASTE), shop.node(tmp_path / "both")
    with bad.serve() as serving:
        late.run("pull", "acme/model", "--peer", serving.address, code=7)
        result = both.pull("acme/model", "--peer", serving.address, "--from", shop.seed.url)
    assert_equal_files(result["path"], shop.folder)
    assert 0 < result["bytes"]["wan"] < size_of(shop.folder)


def test_home_in_use_by_nobody_but_its_lock_file(shop: Shop, tmp_path: Path) -> None:
    """A lock file and a socket that a dead process left are in nobody's way."""
    node = shop.node(tmp_path / "node")
    with node.serve() as serving:
        serving.kill()
    assert (node.path / "serve.sock").exists()
    assert_equal_files(node.pull("acme/model", "--from", shop.seed.url)["path"], shop.folder)
    with node.serve() as serving:
        assert node.json("status")["serving"] == serving.url


def listed(folder: Path) -> set[Path]:
    """Every file below a folder."""
    return {path for path in folder.rglob("*") if path.is_file()}


def test_failed_pull_leaves_no_litter(shop: Shop, tmp_path: Path) -> None:
    """A pull of a name that no source has leaves the home as a first use leaves it."""
    node = shop.node(tmp_path / "node")
    node.run("pull", "acme/none", "--from", shop.seed.url, code=3)
    before = listed(node.path)
    node.run("pull", "acme/none", "--from", shop.seed.url, code=3)
    assert listed(node.path) == before
    shutil.rmtree(node.path)
    node.run("ls", code=0)
