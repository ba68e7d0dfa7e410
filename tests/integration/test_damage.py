"""Disks and users that change what was proved: it is noticed, never served, and healed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import p2psync
from tests.integration.conftest import Shop
from tests.integration.lab import HASTE, Home, until
from tests.integration.models import (
    MIB,
    WEIGHTS,
    assert_equal_files,
    edit,
    held_digests,
    make_model,
    pieces_of,
    size_of,
)
from tests.integration.relay import Relay


@pytest.fixture
def pulled(shop: Shop, tmp_path: Path) -> tuple[Home, Path]:
    """A node that has acme/model, and where."""
    node = shop.node(tmp_path / "node")
    return node, Path(node.pull("acme/model", "--from", shop.seed.url)["path"])


def quiet_edit(path: Path, offset: int) -> None:
    """Change a file and set its times back, as some editors and some archive programs do."""
    times = path.stat()
    edit(path, offset)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("change", [edit, quiet_edit])
def test_edited_file_is_withdrawn_named_and_healed(
    change: Callable[[Path, int], None], shop: Shop, pulled: tuple[Home, Path], tmp_path: Path
) -> None:
    """A file that its user edits is never served, verify names it with exit 5, --repair brings its bad chunks alone."""
    node, path = pulled
    late, healthy = shop.node(tmp_path / "late", HASTE), shop.node(tmp_path / "healthy")
    with node.serve() as serving:
        change(path / WEIGHTS, 5_000_000)
        done = late.run("pull", "acme/model", "--peer", serving.address, "--json", code=7)
        assert done.error["code"] != "digest_mismatch"
        found = node.json("verify", code=5)
        assert not found["ok"]
        assert [(row["path"], row["reason"]) for row in found["damage"]] == [(WEIGHTS, "changed")]
        assert 0 < found["damage"][0]["bytes"] <= 2 * MIB
        assert found["error"]["code"] == "damaged"
        repaired = node.json("verify", "--repair", "--from", shop.seed.url)
        assert repaired["ok"]
        assert repaired["repaired"][0]["fetched_bytes"] == found["damage"][0]["bytes"]
        result = healthy.pull("acme/model", "--peer", serving.address)
        assert result["bytes"]["lan"] == size_of(shop.folder)
    assert_equal_files(path, shop.folder)
    assert_equal_files(result["path"], shop.folder)
    assert node.json("verify", "acme/model")["ok"]


def test_node_with_an_edited_file_is_not_banned(shop: Shop, pulled: tuple[Home, Path], tmp_path: Path) -> None:
    """A puller beside another source takes what is still good from the node, the rest elsewhere, and blames nobody."""
    node, path = pulled
    far = shop.node(tmp_path / "far")
    events: list[dict[str, Any]] = []
    with node.serve() as serving:
        edit(path / WEIGHTS, 1_000_000)
        result = p2psync.pull(
            "acme/model", home=far.path, sources=[shop.seed.url], peers=[serving.url], progress=events.append
        )
    assert_equal_files(result.path, shop.folder)
    assert result.lan_bytes > 0
    assert result.wan_bytes > 0
    assert not [event for event in events if event.get("state") == "banned"]


def test_edit_in_the_middle_of_a_transfer_reaches_nobody(shop: Shop, pulled: tuple[Home, Path], tmp_path: Path) -> None:
    """A file that changes while it is sent is cut off: the puller ends with right files, from whoever has them."""
    node, path = pulled
    far = shop.node(tmp_path / "far")
    with (
        node.serve("--upload-limit", "4M") as serving,
        far.start("pull", "acme/model", "--peer", serving.address, "--from", shop.seed.url, "--json") as running,
    ):
        until(lambda: len(held_digests(far.path, shop.folder)) > 2, "some chunks are on disk")
        edit(path / WEIGHTS, 10_000_000, b"\x5a" * 4_000_000)
        done = running.wait(0)
    assert "banned" not in done.stderr
    assert_equal_files(done.json["path"], shop.folder)
    assert far.json("verify")["damage"] == []


@pytest.mark.parametrize("harm", ["truncated", "deleted", "replaced by a folder", "replaced by a link"])
def test_missing_or_strange_file_is_named_and_healed(harm: str, shop: Shop, pulled: tuple[Home, Path]) -> None:
    """A file that is shorter, gone, or no file any more is damage; --repair puts the right one there."""
    node, path = pulled
    victim = path / WEIGHTS
    if harm == "truncated":
        os.truncate(victim, 3_000_000)
    else:
        victim.unlink()
    if harm == "replaced by a folder":
        victim.mkdir()
    elif harm == "replaced by a link":
        victim.symlink_to(shop.folder / WEIGHTS)
    damage = node.json("verify", code=5)["damage"]
    assert [row["path"] for row in damage] == [WEIGHTS]
    node.run("verify", "--repair", code=5)
    assert node.json("verify", "--repair", "--from", shop.seed.url)["ok"]
    assert not victim.is_symlink()
    assert_equal_files(path, shop.folder)


def test_pull_over_a_damaged_version_heals_or_says_so(shop: Shop, pulled: tuple[Home, Path]) -> None:
    """A pull never calls a version installed whose file is gone."""
    node, path = pulled
    (path / WEIGHTS).unlink()
    result = node.pull("acme/model", "--from", shop.seed.url)
    assert_equal_files(result["path"], shop.folder)
    assert not result["unchanged"]
    assert node.json("verify")["ok"]


def test_repair_from_another_version_on_this_disk(shop: Shop, pulled: tuple[Home, Path], tmp_path: Path) -> None:
    """What another version here still holds is not fetched again: a repair without a source can succeed."""
    node, path = pulled
    node.pull("acme/model", "--from", shop.seed.url, "--to", tmp_path / "copy")
    publisher = shop.publisher
    twin = make_model(tmp_path / "twin", changed={5: 99})
    publisher.publish(twin, "acme/twin")
    node.pull("acme/twin", "--from", shop.seed.url)
    offset = next(p.offset for p in pieces_of(shop.folder) if p.length == MIB and p.offset > 100_000)
    edit(path / WEIGHTS, offset)
    assert node.json("verify", code=5)["damage"]
    assert node.json("verify", "--repair")["ok"]
    assert_equal_files(path, shop.folder)


def garble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 7):
        data[at] ^= 0x5A
    path.write_bytes(data)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


HARMS: dict[str, Callable[[Path], None]] = {"truncated": halve, "garbled": garble, "deleted": Path.unlink}


@pytest.mark.parametrize("harm", HARMS)
def test_index_is_rebuilt_from_the_files(harm: str, shop: Shop, pulled: tuple[Home, Path], tmp_path: Path) -> None:
    """A truncated, garbled or deleted index is made anew by proving the files: all is listed, served and whole."""
    node, path = pulled
    HARMS[harm](node.path / "index.db")
    reader = shop.node(tmp_path / "reader")
    with node.serve() as serving:
        assert_equal_files(reader.pull("acme/model", "--peer", serving.address)["path"], shop.folder)
        assert node.json("verify")["ok"]
    models = node.json("ls")["models"]
    assert [(row["reference"], row["installed"]) for row in models] == [("acme/model:latest", True)]
    assert node.pull("acme/model", "--from", shop.seed.url)["path"] == str(path)
    assert_equal_files(path, shop.folder)


def test_rebuilt_index_finds_what_was_damaged_meanwhile(shop: Shop, pulled: tuple[Home, Path], tmp_path: Path) -> None:
    """Without an index nothing is believed: a byte that changed too is found, not served."""
    node, path = pulled
    edit(path / WEIGHTS, 5_000_000)
    (node.path / "index.db").unlink()
    late = shop.node(tmp_path / "late", HASTE)
    with node.serve() as serving:
        late.run("pull", "acme/model", "--peer", serving.address, code=7)
        assert [row["path"] for row in node.json("verify", code=5)["damage"]] == [WEIGHTS]
    assert node.json("verify", "--repair", "--from", shop.seed.url)["ok"]
    assert_equal_files(path, shop.folder)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("victim", ["journal", "index.db"])
def test_unfinished_pull_survives_the_loss_of_its_records(victim: str, harm: str, shop: Shop, tmp_path: Path) -> None:
    """Journal or index lost or garbled after a kill: the pull goes on from the bytes that prove."""
    node = shop.node(tmp_path / "node")
    with Relay(shop.seed.url) as relay:
        relay.hold_after(9_000_000)
        with node.start("pull", "acme/model", "--from", relay.url) as running:
            until(lambda: relay.holding, "half of the bytes are through")
            until(lambda: len(held_digests(node.path, shop.folder)) > 3, "some chunks are on disk")
            running.kill()
        held = held_digests(node.path, shop.folder)
        (path,) = [path for path in node.path.rglob(victim) if path.is_file()]
        HARMS[harm](path)
        relay.release()
        relay.forget()
        result = node.pull("acme/model", "--from", relay.url)
        assert not held & set(relay.asked)
    assert_equal_files(result["path"], shop.folder)
    assert node.json("verify")["ok"]


def test_bytes_that_rot_in_an_unfinished_pull_are_fetched_again(shop: Shop, tmp_path: Path) -> None:
    """A partial file that changed between kill and resume is proved again: the changed chunk moves once more."""
    node = shop.node(tmp_path / "node")
    with Relay(shop.seed.url) as relay:
        relay.hold_after(9_000_000)
        with node.start("pull", "acme/model", "--from", relay.url) as running:
            until(lambda: relay.holding, "half of the bytes are through")
            until(lambda: len(held_digests(node.path, shop.folder)) > 3, "some chunks are on disk")
            running.kill()
        held = held_digests(node.path, shop.folder)
        piece = next(p for p in pieces_of(shop.folder) if p.digest in held and p.length == MIB)
        (weights,) = (node.path / "partial").rglob(WEIGHTS)
        edit(weights, piece.offset + 17)
        relay.release()
        relay.forget()
        result = node.pull("acme/model", "--from", relay.url)
        assert relay.asked[piece.digest] == 1
    assert_equal_files(result["path"], shop.folder)
    assert node.json("verify")["ok"]


def test_planted_link_in_staging_is_not_followed(shop: Shop, tmp_path: Path) -> None:
    """A symbolic link or a FIFO where a partial file stood is not written through: the pull ends well or says so."""
    node = shop.node(tmp_path / "node")
    for plant in ("link", "fifo"):
        with Relay(shop.seed.url) as relay:
            relay.hold_after(6_000_000)
            with node.start("pull", "acme/model", "--from", relay.url) as running:
                until(lambda: relay.holding, "the pull is in the middle")
                running.kill()
            (weights,) = (node.path / "partial").rglob(WEIGHTS)
            weights.unlink()
            outside = tmp_path / "outside"
            outside.write_bytes(b"precious")
            if plant == "link":
                weights.symlink_to(outside)
            else:
                os.mkfifo(weights)
            relay.release()
            done = node.run("pull", "acme/model", "--from", relay.url, "--json", code=None)
        assert outside.read_bytes() == b"precious"
        assert done.code in (0, 5, 6)
        if done.code:
            node.run("prune")
            done = node.run("pull", "acme/model", "--from", shop.seed.url, "--json")
        assert_equal_files(done.json["path"], shop.folder)
        node.run("rm", "acme/model")
        shutil.rmtree(node.path)
        shop.node(tmp_path / "node")
