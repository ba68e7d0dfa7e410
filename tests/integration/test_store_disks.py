"""The store on real file systems: a full one, a read-only one, and two at once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from p2psync.errors import StoreError, StoreFullError, StoreUnwritableError
from p2psync.manifest import Reference, chunk_table
from p2psync.store import Store
from tests.stores import (
    NAME,
    WEIGHTS,
    begin,
    contents,
    feed,
    make_model,
    manifest_of,
    publish,
    pull,
    tensors_of,
    write_safetensors,
)

pytestmark = pytest.mark.root

Mount = Callable[[Path, str], Path]


@pytest.fixture
def small(mount_tmpfs: Mount, tmp_path: Path) -> Path:
    """A file system of 40 MB."""
    return mount_tmpfs(tmp_path / "small", "40m")


def fill(folder: Path, leave: int) -> Path:
    """Take all room of a file system but for ``leave`` bytes."""
    filler = folder / "filler"
    with filler.open("wb") as file:
        facts = os.statvfs(folder)
        os.posix_fallocate(file.fileno(), 0, max(1, facts.f_bavail * facts.f_frsize - leave))
    return filler


def test_publish_into_every_shortage(small: Path, tmp_path: Path) -> None:
    """Whatever room is left, a publish either succeeds or is a StoreFullError that leaves the store as it was."""
    folder = make_model(tmp_path / "model", size=1_000_000)
    failures: list[tuple[int, StoreFullError]] = []
    done = 0
    for leave in range(0, 8_000_000, 400_000):
        home = small / f"home {leave}"
        Store.open(home).close()
        filler = fill(small, leave)
        try:
            with Store.open(home) as store:
                publish(store, folder)
            done += 1
        except StoreFullError as error:
            failures.append((leave, error))
        filler.unlink()
        with Store.open(home) as store:
            assert store.verify(None).damages == ()
            assert all(v.complete for v in store.versions())
            assert not list((home / "publishing").iterdir())
            version = publish(store, folder)
            store.remove(Reference(NAME, digest=version.root), dry_run=False)
    assert done
    assert failures
    assert all(error.needed_bytes > 0 and error.free_bytes <= leave + 65536 for leave, error in failures)


def test_room_that_vanishes_during_a_pull(small: Path, tmp_path: Path) -> None:
    """What a pull reserved is its own: others who fill the disk do not stop its data, and it can go on later."""
    folder = make_model(tmp_path / "model", size=1_000_000)
    with Store.open(tmp_path / "seed") as seed, Store.open(small / "node") as node:
        version = publish(seed, folder)
        incoming = begin(seed, node, version)
        feed(seed, incoming, 2)
        filler = fill(small, 0)
        try:
            feed(seed, incoming)
            incoming.install()
        except StoreFullError:
            incoming.close(clean=True)
        filler.unlink()
        incoming = begin(seed, node, version)
        feed(seed, incoming)
        assert contents(incoming.install()) == contents(folder)
        assert node.verify(None).damages == ()


def test_update_without_room_leaves_the_old_version(small: Path, tmp_path: Path) -> None:
    """Too little room is said before a byte moves, with figures; the old version stays and the update comes later."""
    folder = make_model(tmp_path / "model", size=1_000_000)
    with Store.open(tmp_path / "seed") as seed, Store.open(small / "node") as node:
        first = publish(seed, folder)
        path = pull(seed, node, first)
        before = contents(folder)
        write_safetensors(folder / WEIGHTS, tensors_of(1, {0: 5, 1: 5}, size=1_000_000))
        second = publish(seed, folder)
        filler = fill(small, 17_000_000)
        with pytest.raises(StoreFullError) as caught:
            begin(seed, node, second)
        assert caught.value.needed_bytes > 5_000_000
        assert 16_000_000 < caught.value.free_bytes < 18_000_000
        assert contents(path) == before
        assert node.installed(NAME, first.root, range(4)) == path
        filler.unlink()
        incoming = begin(seed, node, second)
        assert sum(c.length for c in incoming.missing) == 2_000_001
        feed(seed, incoming)
        assert contents(incoming.install()) == contents(folder)


def test_read_only_home_is_read(small: Path, tmp_path: Path) -> None:
    """On a read-only disk nobody owns the home; a reader lists it and serves from it."""
    folder = make_model(tmp_path / "model")
    with Store.open(small / "home") as store:
        version = publish(store, folder)
        table = chunk_table(manifest_of(store, version))
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    with pytest.raises(StoreUnwritableError):
        Store.open(small / "home")
    with Store.open(small / "home", write=False) as store:
        assert [v.tags for v in store.versions()] == [{"latest": 1}]
        for chunk in table:
            located = store.locate(chunk.digest)
            assert located is not None
            located.release()
        assert store.verify(None).damages == ()
        store.export(NAME, version.root, range(4), tmp_path / "out")
        assert contents(tmp_path / "out") == contents(folder)
        with pytest.raises(StoreUnwritableError):
            publish(store, folder)


def test_export_across_file_systems(small: Path, tmp_path: Path) -> None:
    """Another file system gets copies; links cannot go there, and a full one is left as it was."""
    folder = make_model(tmp_path / "model")
    with Store.open(tmp_path / "home") as store:
        version = publish(store, folder)
        store.export(NAME, version.root, range(4), small / "out")
        assert contents(small / "out") == contents(folder)
        with pytest.raises(StoreError):
            store.export(NAME, version.root, range(4), small / "linked", link=True)
        filler = fill(small, 1_000_000)
        with pytest.raises(StoreFullError) as caught:
            store.export(NAME, version.root, range(4), small / "full")
        assert caught.value.needed_bytes > caught.value.free_bytes
        filler.unlink()
        assert sorted(os.listdir(small)) == ["out"]
        assert store.verify(None).damages == ()


def test_publish_across_file_systems(small: Path, tmp_path: Path) -> None:
    """A source on another file system is copied, in place it is read there, and a tree is written there."""
    folder = make_model(small / "model")
    with Store.open(tmp_path / "home") as store:
        version = publish(store, folder, origin_tree=small / "tree")
        assert store.installed(NAME, version.root, range(4)) is not None
        assert (small / "tree" / "v1" / "index" / version.root.hex()).exists()
        publish(store, folder, "here", in_place=True)
        assert store.verify(None).damages == ()
