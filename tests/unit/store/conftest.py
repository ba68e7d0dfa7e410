"""A store that publishes, one that pulls, and a small model."""

import pytest

from p2psync.store import Store
from tests.stores import make_model


@pytest.fixture
def seed(tmp_path):
    """The publisher's store."""
    with Store.open(tmp_path / "seed") as opened:
        yield opened


@pytest.fixture
def node(tmp_path):
    """The store that pulls."""
    with Store.open(tmp_path / "node") as opened:
        yield opened


@pytest.fixture
def model(tmp_path):
    """A folder to publish."""
    return make_model(tmp_path / "model")
