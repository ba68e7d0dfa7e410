"""A published model that the tests of the node read and none changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2psync.manifest import Manifest, read_tree
from p2psync.store import Published, Store
from p2psync.trust import TrustStore
from tests.stores import KEY, make_model, publish

SETTINGS = """
[variants.small]
files = ["vocab.txt"]
default = true
[variants.large]
files = ["model.safetensors"]
"""


@dataclass(frozen=True, slots=True)
class Shop:
    """A publisher's open store, and the version acme/model:latest in it."""

    store: Store
    folder: Path
    published: Published
    manifest: Manifest


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """acme/model, 2.2 MB: five tensors, a plain file, an empty one and one with a strange name."""
    base = tmp_path_factory.mktemp("node-shop")
    folder = make_model(base / "model")
    with Store.open(base / "home") as store:
        published = publish(store, folder)
        yield Shop(store, folder, published, read_tree(published.root, store.node))


@pytest.fixture
def trusting(tmp_path: Path) -> Path:
    """A home that trusts the publisher of acme/*."""
    home = tmp_path / "reader"
    TrustStore(home / "trust").add("acme/*", KEY.verify_key)
    return home
