"""Opening a home: one owner, readers beside it, and whatever happened to it before."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys

import pytest

from p2psync.errors import StoreError, StoreLockedError, StoreUnwritableError, UnsupportedVersionError
from p2psync.manifest import Reference
from p2psync.store import Store, owner_pid
from tests.stores import NAME, WEIGHTS, begin, contents, edit, feed, make_model, manifest_of, publish, pull


def test_one_owner(home):
    """A second owner is refused and told the pid; the lock goes with the owner."""
    assert owner_pid(home) is None
    with Store.open(home):
        assert owner_pid(home) == os.getpid()
        with pytest.raises(StoreLockedError) as caught:
            Store.open(home)
        assert caught.value.pid == os.getpid()
        assert str(os.getpid()) in str(caught.value)
    assert owner_pid(home) is None
    Store.open(home).close()


def test_owner_that_was_killed_gives_way(home):
    """The lock of a process that was killed is free."""
    code = (
        "import sys, time; from pathlib import Path; from p2psync.store import Store;"
        "s = Store.open(Path(sys.argv[1])); print('open', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        with pytest.raises(StoreLockedError) as caught:
            Store.open(home)
        assert caught.value.pid == child.pid
        child.kill()
        child.wait()
    Store.open(home).close()


def test_home_is_private(tmp_path):
    """A home is made on demand, for its user alone."""
    with Store.open(tmp_path / "deep" / "home") as store:
        assert store.home.stat().st_mode & 0o777 == 0o700
        assert store.versions() == []


def test_reader_of_nothing(tmp_path):
    """A home that is not there is empty to a reader, and is not made."""
    with Store.open(tmp_path / "none", write=False) as store:
        assert store.versions() == []
        assert store.head(NAME, "latest") is None
        assert store.usage().versions == 0
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("write", [True, False])
@pytest.mark.parametrize("below", ["", "home"])
def test_home_that_is_a_file(tmp_path, write, below):
    """A file where the home or a directory above it should be is an error, not an empty home."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"is no directory|is below a file"):
        Store.open(tmp_path / "file" / below, write=write)
    assert (tmp_path / "file").read_bytes() == b""


def test_reader_beside_the_owner(seed, model):
    """A reader sees what the owner committed, while the owner works."""
    version = publish(seed, model)
    with Store.open(seed.home, write=False) as reader:
        assert [v.root for v in reader.versions()] == [version.root]
        (model / "note").write_bytes(b"x")
        publish(seed, model)
        assert len(reader.versions()) == 2


def test_two_roots_of_one_read_only_home(seed, model, monkeypatch):
    """Where SQLite cannot open the index beside a read-only disk, a copy of it is read."""
    version = publish(seed, model)
    seed.close()
    real = sqlite3.connect

    def refusing(path, **options):
        if str(path).endswith("mode=ro"):
            db = real(":memory:", check_same_thread=False)
            db.close()
            raise sqlite3.OperationalError("unable to open database file")
        return real(path, **options)

    monkeypatch.setattr(sqlite3, "connect", refusing)
    with Store.open(seed.home, write=False) as reader:
        assert [v.root for v in reader.versions()] == [version.root]
        assert reader.installed(NAME, version.root, range(4)) is not None


def replace_value(path, table, column, value):
    """A value that another program, or a flipped bit in the head of a row, could leave."""
    with sqlite3.connect(path) as db:
        db.execute(f"UPDATE {table} SET {column} = ?", (value,))
    db.close()


def replace_database(path):
    """A database that another program made."""
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE other (value)")
    db.close()


HARM = {
    "another program's": replace_database,
    "another type": lambda path: replace_value(path, "files", "identity", 5),
    "variants cut short": lambda path: replace_value(path, "installs", "variants", "{"),
    "deleted": lambda path: path.unlink(),
    "emptied": lambda path: os.truncate(path, 0),
    "truncated": lambda path: os.truncate(path, 9000),
    "header": lambda path: path.write_bytes(b"not a database at all" + path.read_bytes()[21:]),
    "garbled": lambda path: path.write_bytes(random.Random(5).randbytes(40_000)),
    "middle": lambda path: path.write_bytes(
        path.read_bytes()[:4096] + random.Random(5).randbytes(8192) + path.read_bytes()[12288:]
    ),
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
def test_index_that_is_lost_is_rebuilt(seed, node, model, harm):
    """A lost or garbled index is made again by proving every file; only damaged files are not served."""
    first = publish(seed, model)
    pull(seed, node, first)
    edit(model / "vocab.txt")
    second = publish(seed, model)
    path = pull(seed, node, second)
    incoming = begin(seed, node, publish(seed, make_model(model, 7)))
    feed(seed, incoming, 3)
    left = incoming.missing
    incoming.close(clean=True)
    node.close()
    harm(node.home / "index.db")
    edit(path / WEIGHTS, 500_000)
    with Store.open(node.home) as again:
        assert {v.root: v.damaged for v in again.versions()} == {first.root: 1, second.root: 1}
        assert again.resolve(Reference(NAME))[0] == second.root
        chunk = next(d for b in manifest_of(again, second).files[3].blobs for d, _ in b.chunks.walk(b.length))
        assert again.has(chunk)
        assert again.node(second.root) is not None
        healing = again.begin_repair(NAME, second.root)
        feed(seed, healing)
        healing.install()
        assert begin(seed, again, publish(seed, make_model(model, 7))).missing == left


def test_index_of_a_newer_program(home):
    """An index that a newer program wrote is refused, not rebuilt."""
    Store.open(home).close()
    with sqlite3.connect(home / "index.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(UnsupportedVersionError):
        Store.open(home)
    with pytest.raises(UnsupportedVersionError):
        Store.open(home, write=False)


def test_reader_of_a_damaged_index(seed, model):
    """A reader cannot rebuild; it says what is wrong."""
    publish(seed, model)
    seed.close()
    HARM["garbled"](seed.home / "index.db")
    with pytest.raises(StoreError, match="damaged"), Store.open(seed.home, write=False) as reader:
        reader.versions()


def test_in_place_version_survives_a_lost_index(seed, model):
    """Where an in-place version stands is remembered outside the index."""
    version = publish(seed, model, in_place=True)
    seed.close()
    (seed.home / "index.db").unlink()
    with Store.open(seed.home) as again:
        assert again.installed(NAME, version.root, range(4)) == model
        assert again.versions()[0].fragile


def test_files_that_nobody_recorded_are_adopted(seed, node, model, monkeypatch):
    """A crash between naming the files and recording them: the next open proves them and moves the tag."""
    version = publish(seed, model)
    incoming = begin(seed, node, version)
    feed(seed, incoming)

    def crash(*_):
        raise KeyboardInterrupt

    for step in ("p2psync.store.incoming.file_head", "p2psync.store.index.Index.add"):
        monkeypatch.setattr(step, crash)
        with pytest.raises(KeyboardInterrupt):
            incoming.install()
        monkeypatch.undo()
        home = node.home
        node.close()
        node = Store.open(home)
        assert node.resolve(Reference(NAME))[0] == version.root
        assert contents(node.installed(NAME, version.root, range(4))) == contents(model)
        assert os.listdir(home / "partial") == []
        node.remove(Reference(NAME), dry_run=False)
        incoming = begin(seed, node, version)
        feed(seed, incoming)
    incoming.close(clean=False)
    node.close()


def test_crash_of_publish_between_files_and_tag(seed, model, monkeypatch):
    """The same for publish: old or new, never half; the number of the lost tag is not given out again."""

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("p2psync.store.heads.Heads.put_tag", crash)
    with pytest.raises(KeyboardInterrupt):
        publish(seed, model)
    monkeypatch.undo()
    seed.close()
    with Store.open(seed.home) as again:
        assert again.versions()[0].tags == {"latest": 1}
        assert again.verify(None).damages == ()
        edit(model / "vocab.txt")
        assert publish(again, model).head.version == 2


def test_removed_tag_stays_removed(seed, model):
    """Opening a home again does not bring back a tag that was taken away."""
    version = publish(seed, model)
    from tests.stores import KEY, NOW_S

    seed.tag(Reference(NAME), "stable", KEY, NOW_S)
    seed.remove(Reference(NAME), dry_run=False)
    seed.close()
    with Store.open(seed.home) as again:
        assert again.versions()[0].tags == {"stable": 1}
        assert again.head(NAME, str(version.root)) is not None


def test_staging_is_emptied_and_links_stay_proved(seed, model):
    """What a killed publish staged is removed; the files that it linked are not in doubt."""
    version = publish(seed, model)
    path = seed.installed(NAME, version.root, range(4))
    (model / "note").write_bytes(b"x")
    second = publish(seed, model)
    staged = seed.home / "publishing" / "x" / "sub"
    staged.mkdir(parents=True)
    seed.close()
    (seed.home / "publishing" / "stray").write_bytes(b"x")
    shutil.copy(path / "vocab.txt", staged)
    with Store.open(seed.home) as again:
        assert os.listdir(seed.home / "publishing") == []
        assert again.usage().withdrawn == 0
        assert again.installed(NAME, second.root, range(5)) is not None


def test_garbled_heads_are_passed_over(seed, model):
    """A torn head names nothing; the other tags go on."""
    publish(seed, model)
    publish(seed, model, "stable")
    path = seed.home / "heads" / NAME / "tags" / "latest.json"
    path.write_bytes(path.read_bytes()[:40])
    assert seed.versions()[0].tags == {"stable": 1}
    # The version's own head still says that number one was given out.
    assert publish(seed, model).head.version == 2


def test_home_that_cannot_be_made(tmp_path):
    """A file where the home should be, and a home inside a file, are errors of this disk."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError):
        Store.open(tmp_path / "file" / "home")
    with pytest.raises(StoreError):
        Store.open(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_home_without_the_right_to_write(home):
    """A home that refuses writes is named."""
    home.chmod(0o500)
    with pytest.raises(StoreUnwritableError):
        Store.open(home)


def test_reader_after_a_removal_that_was_cut_short(seed, node, model, monkeypatch):
    """Between moving a version away and forgetting it, a reader lists what stays and nothing else."""
    pull(seed, node, publish(seed, model))
    (model / "note").write_bytes(b"x")
    second = publish(seed, model)
    pull(seed, node, second)

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("p2psync.store.index.Index.remove", crash)
    with pytest.raises(KeyboardInterrupt):
        node.prune(dry_run=False)
    monkeypatch.undo()
    with Store.open(node.home, write=False) as reader:
        assert [(v.root, v.complete) for v in reader.versions()] == [(second.root, True)]


def test_reader_after_a_link_without_a_record(seed, model):
    """A file whose ctime alone differs is listed as here, but is proved before it is served."""
    version = publish(seed, model)
    path = seed.installed(NAME, version.root, range(4))
    os.link(path / "vocab.txt", model.parent / "elsewhere")
    with Store.open(seed.home, write=False) as reader:
        assert reader.versions()[0].complete
        assert reader.present(NAME, version.root) == {0, 1, 2, 3}
        assert reader.installed(NAME, version.root, range(4)) is None
    assert seed.installed(NAME, version.root, range(4)) is None
    assert seed.reprove_withdrawn() == []
    assert seed.installed(NAME, version.root, range(4)) == path
