"""Fixtures of the tests of the engine room."""

import pytest

from tests.unit.engine.tiny_engine import make_engine


@pytest.fixture
def engine(tmp_path):
    """A whole engine directory of its own."""
    return make_engine(tmp_path / "bundle" / "fp32")


@pytest.fixture(scope="session")
def shared_engine(tmp_path_factory):
    """A whole engine directory that no test changes."""
    return make_engine(tmp_path_factory.mktemp("shared") / "fp32")
