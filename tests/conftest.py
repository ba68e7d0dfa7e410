"""Fixtures that tests of several rooms share."""

import shutil

import pytest


@pytest.fixture
def home(tmp_path):
    """An empty p2psync home."""
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture(scope="session")
def nginx():
    """The path of the nginx program; without one, what needs it is skipped."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("nginx is not installed")
    return program
