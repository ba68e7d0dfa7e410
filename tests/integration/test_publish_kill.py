"""SIGKILL of a publish at any moment: the old version or the new one, never half of one, and never a lost one."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from p2psync.manifest import Reference
from p2psync.store import Store
from tests.stores import NAME, WEIGHTS, contents, edit, make_model, publish, tensors_of, write_safetensors

KILLS = 15
_CODE = """
import sys
from pathlib import Path
from p2psync.store import Store
from tests.stores import publish
home, folder, in_place, tree = sys.argv[1:]
with Store.open(Path(home)) as store:
    print("open", flush=True)
    publish(store, Path(folder), in_place=in_place == "True", origin_tree=Path(tree))
print("done", flush=True)
"""
_ROOT = Path(__file__).parents[2]


def publish_in_child(home: Path, folder: Path, tree: Path, *, in_place: bool) -> subprocess.Popen[bytes]:
    """A process that publishes; it says ``open`` when it starts and ``done`` when it has."""
    return subprocess.Popen(
        [sys.executable, "-c", _CODE, str(home), str(folder), str(in_place), str(tree)],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
    )


@pytest.mark.parametrize("in_place", [False, True])
def test_killed_publish(tmp_path: Path, *, in_place: bool) -> None:
    """Killed at seeded moments, each publish leaves a store that verifies, with every version before it."""
    chance = random.Random(int(in_place))
    folder, home, tree = make_model(tmp_path / "model", size=600_000), tmp_path / "home", tmp_path / "tree"
    known: set[bytes] = set()
    killed = 0
    took_s = _time_one(tmp_path, folder, in_place=in_place)
    for number in range(KILLS):
        if not in_place:
            write_safetensors(folder / WEIGHTS, tensors_of(1, {number % 5: number}, size=600_000))
        with publish_in_child(home, folder, tree, in_place=in_place) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(chance.random() * took_s)
            child.send_signal(signal.SIGKILL)
            killed += child.stdout.read() == b""
            child.wait()
        known = _check(home, folder, known, in_place=in_place)
    assert killed
    with Store.open(home) as store:
        before = max((v.tags.get("latest", 0) for v in store.versions()), default=0)
        version = publish(store, folder, in_place=in_place, origin_tree=tree)
        assert version.head.version > before
        path = store.installed(NAME, version.root, range(4))
        assert path is not None
        assert contents(path) == contents(folder)
        assert store.verify(None).damages == ()


def _check(home: Path, folder: Path, known: set[bytes], *, in_place: bool) -> set[bytes]:
    """Open the home: what is listed is whole, what was there is still there, the tag names something whole."""
    with Store.open(home) as store:
        # A kill between a link and its record leaves a file in doubt, which proves.
        assert store.reprove_withdrawn() == []
        versions = store.versions()
        assert all(v.complete for v in versions)
        assert store.verify(None).damages == ()
        assert not list((home / "publishing").iterdir())
        found = {bytes(v.root) for v in versions}
        assert known <= found
        if store.head(NAME, "latest") is not None:
            assert bytes(store.resolve(Reference(NAME))[0]) in found
            assert sum(bool(v.tags) for v in versions) == 1
        if in_place:
            assert contents(folder)
        return found


def _time_one(tmp_path: Path, folder: Path, *, in_place: bool) -> float:
    """How long the publish of a next version takes here, after the store was opened."""
    for _ in range(2 if in_place else 1):
        with publish_in_child(tmp_path / "trial", folder, tmp_path / "trial tree", in_place=in_place) as child:
            assert child.stdout is not None
            child.stdout.readline()
            began_s = time.monotonic()
            assert child.stdout.read() == b"done\n"
            took_s = time.monotonic() - began_s
    return took_s


def test_killed_publish_of_edited_files(tmp_path: Path) -> None:
    """A publish that was killed can simply be run again, whatever was edited in between."""
    folder, home, tree = make_model(tmp_path / "model", size=600_000), tmp_path / "home", tmp_path / "tree"
    with publish_in_child(home, folder, tree, in_place=False) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    edit(folder / "vocab.txt")
    with publish_in_child(home, folder, tree, in_place=False) as child:
        assert child.stdout is not None
        assert child.stdout.read() == b"open\ndone\n"
    with Store.open(home) as store:
        path = store.installed(NAME, store.resolve(Reference(NAME))[0], range(4))
        assert path is not None
        assert contents(path) == contents(folder)
