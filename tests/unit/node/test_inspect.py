"""The verbs that only look read a home whoever owns it, and change nothing in it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from p2psync.errors import ModelNotFoundError, UsageError
from p2psync.node.identity import node_id
from p2psync.node.inspect import inspect
from p2psync.node.node import Node
from p2psync.store import Store
from tests.stores import KEY, make_model, publish
from tests.unit.node.conftest import SETTINGS, Shop


def test_home_that_is_not_there_is_empty(tmp_path: Path) -> None:
    """Looking at no home shows no models and makes none."""
    absent = tmp_path / "absent"
    assert inspect(absent, "ls", {}) == {"models": []}
    status = inspect(absent, "status", {})
    assert (status["models"], status["pid"], status["node"], status["serving"]) == (0, None, None, None)
    assert not absent.exists()


def test_unknown_verb_is_refused(home: Path) -> None:
    """Only what looks is looked at."""
    with pytest.raises(UsageError):
        inspect(home, "prune", {})


@pytest.mark.parametrize(
    ("verb", "args"), [("show", {"reference": "acme/none"}), ("diff", {"a": "acme/none", "b": "acme/none"})]
)
def test_unknown_model_is_not_found(home: Path, verb: str, args: dict[str, str]) -> None:
    """A reference that is not here is not found."""
    with pytest.raises(ModelNotFoundError):
        inspect(home, verb, args)


def test_ls_has_a_row_for_each_tag(tmp_path: Path) -> None:
    """Every tag of a version is a row with its own version number and the signer."""
    home = tmp_path / "home"
    with Store.open(home) as store:
        published = publish(store, make_model(tmp_path / "model"))
        publish(store, tmp_path / "model", tag="stable")
        rows = inspect(home, "ls", {})["models"]
    assert [(r["tag"], r["reference"]) for r in rows] == [
        ("latest", "acme/model:latest"),
        ("stable", "acme/model:stable"),
    ]
    assert {r["digest"] for r in rows} == {str(published.root)}
    assert {r["signer"] for r in rows} == {KEY.verify_key.key_id}
    assert all(r["installed"] and not r["fragile"] for r in rows)
    assert {r["size"] for r in rows} == {published.head.size}


def test_show_lists_files_as_they_are(shop: Shop) -> None:
    """A version's files come with size, digest and format, beside an owner that holds the home."""
    shown = inspect(shop.store.home, "show", {"reference": "acme/model"})
    assert shown["reference"] == f"acme/model:latest@{shop.published.root}"
    assert shown["installed"]
    assert Path(shown["path"]).is_dir()
    by_path = {file["path"]: file for file in shown["files"]}
    assert {p: f["size"] for p, f in by_path.items()} == {f.path: f.size for f in shop.manifest.files}
    assert by_path["model.safetensors"]["format"] == "safetensors"
    assert by_path["model.safetensors"]["tensors"] == 5
    assert by_path["empty"]["chunks"] == 0
    assert all(file["installed"] for file in shown["files"])
    assert shown["variants"] == []


def test_show_names_variants(tmp_path: Path) -> None:
    """A variant counts its own files and those that belong to all."""
    folder = make_model(tmp_path / "model")
    (folder / "p2psync.toml").write_text(SETTINGS)
    with Store.open(tmp_path / "home") as store:
        publish(store, folder)
    variants = {v["name"]: v for v in inspect(tmp_path / "home", "show", {"reference": "acme/model"})["variants"]}
    assert {name: (v["default"], v["files"]) for name, v in variants.items()} == {
        "small": (True, 3),
        "large": (False, 3),
    }
    assert variants["small"]["size"] == 700_002


def test_diff_counts_what_changed(tmp_path: Path) -> None:
    """One changed tensor is one changed tensor, and only its bytes and the header's are missing."""
    home = tmp_path / "home"
    with Store.open(home) as store:
        publish(store, make_model(tmp_path / "one"), tag="one")
        publish(store, make_model(tmp_path / "two", changed={2: 99}), tag="two")
    found = inspect(home, "diff", {"a": "acme/model:one", "b": "acme/model:two"})
    assert [f for f in found["files"] if f["change"] != "equal"] == [{"path": "model.safetensors", "change": "changed"}]
    assert found["tensors"]["changed"] == 1
    assert 300_002 <= found["bytes"]["missing"] < 310_000
    assert found["bytes"]["reused"] + found["bytes"]["missing"] == found["bytes"]["total"]


async def test_status_asks_the_running_node(home: Path) -> None:
    """While a node runs, its status is its own word; afterwards its id is still known."""
    async with Node(home) as node:
        status = await asyncio.to_thread(inspect, home, "status", {})
        assert status["serving"] == node.url
        assert status["node"] == node.id
        assert status["pid"] == os.getpid()
        assert status["transfers"] == []
    after = await asyncio.to_thread(inspect, home, "status", {})
    assert (after["serving"], after["pid"], after["node"]) == (None, None, node_id(home))
