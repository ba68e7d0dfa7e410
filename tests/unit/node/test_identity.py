"""Who a node is follows from a key in its home."""

from __future__ import annotations

import shutil
from pathlib import Path

from p2psync.content import Digest
from p2psync.node.identity import known_node_id, node_id
from p2psync.trust import Keyring


def test_id_is_made_once_and_stays(home: Path) -> None:
    """A node's id is 64 hex digits, the same at every call, and the digest of the key in the home."""
    first = node_id(home)
    assert node_id(home) == first
    assert len(bytes.fromhex(first)) == 32
    key = Keyring(home / "node").verify_key("node")
    assert Digest.of(bytes.fromhex(str(key).removeprefix("ed25519:"))).hex() == first


def test_asking_makes_nothing(home: Path) -> None:
    """A home without a node has no id, and looking for one writes nothing."""
    assert known_node_id(home) is None
    assert list(home.iterdir()) == []


def test_known_id_is_the_made_one(home: Path) -> None:
    """Once made, the id is known."""
    made = node_id(home)
    assert known_node_id(home) == made


def test_copied_home_is_the_same_node(home: Path, tmp_path: Path) -> None:
    """The id moves with the home; two fresh homes differ."""
    made = node_id(home)
    shutil.copytree(home, tmp_path / "copy")
    assert node_id(tmp_path / "copy") == made
    assert node_id(tmp_path / "other") != made


def test_node_key_signs_no_models(home: Path) -> None:
    """The node's key is private and stands apart from the keys that sign models."""
    node_id(home)
    assert Keyring(home / "keys").names() == []
    assert [path.stat().st_mode & 0o777 for path in (home / "node").glob("*.key")] == [0o600]
