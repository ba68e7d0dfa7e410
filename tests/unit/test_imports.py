"""Light commands stay light: what a run imports is what it needs."""

import os
import subprocess
import sys

import pytest

HEAVY = ("aiohttp", "rich", "torch", "onnxruntime", "tensorrt", "zeroconf", "numpy")


def imported(home, *words):
    """The modules that a run of python imports, by their full names."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "P2PSYNC_HOME": str(home)},
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert done.returncode == 0, done.stderr.splitlines()[-5:]
    return {line.rpartition("|")[2].strip() for line in lines}


def heavy(names):
    """Which of ``names`` belong to a heavy library."""
    return sorted({name.partition(".")[0] for name in names} & {*HEAVY})


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("--version",),
        ("pull", "--help"),
        ("completion", "bash"),
        ("ls",),
        ("status",),
        ("key", "new", "a"),
        ("key", "ls"),
        ("trust", "ls"),
    ],
    ids=" ".join,
)
def test_light_commands(home, words):
    """Help, version, completion, and what only reads this home import no network, no terminal and no model library."""
    names = imported(home, "-m", "p2psync", *words)
    assert heavy(names) == []
    assert "asyncio" not in names


def test_help_opens_nothing(home):
    """Help and version need neither keys, store, node nor database."""
    for word in ("--help", "--version"):
        rooms = {name for name in imported(home, "-m", "p2psync", word) if name.startswith("p2psync.")}
        assert {name.split(".")[1] for name in rooms} == {"cli", "errors"}


def test_pull_from_plain_sources_is_light(home):
    """A pull over plain HTTP loads no HTTP library, and none of the store's rooms that only other verbs need."""
    code = (
        "import p2psync.node.operations, p2psync.store.begin; from p2psync.transport import SourceKind, connect;"
        "connect('http://127.0.0.1:9', SourceKind.LAN); connect('file:///tree', SourceKind.WAN)"
    )
    names = imported(home, "-c", code)
    assert heavy(names) == []
    unneeded = {"p2psync.store.publish", "p2psync.store.prune", "p2psync.store.verify", "p2psync.transport.server"}
    assert names & {"urllib.request", "http.client", "tomllib", *unneeded} == set()


def test_package_is_light(home):
    """Importing the package imports none of its rooms."""
    names = imported(home, "-c", "import p2psync; p2psync.__version__; dir(p2psync)")
    assert heavy(names) == []
    assert {name for name in names if name.startswith("p2psync.")} == set()


def test_public_names():
    """Every public name is found, once, and others are an AttributeError."""
    import p2psync

    for name in p2psync.__all__:
        assert getattr(p2psync, name) is getattr(p2psync, name)
        assert name in dir(p2psync)
    assert p2psync.P2PSyncError.__module__ == "p2psync.errors"
    with pytest.raises(AttributeError, match="nothing"):
        p2psync.nothing  # noqa: B018
