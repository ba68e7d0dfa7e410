"""Exports that cannot be whole: each says why, and the target stays as it was."""

import os
from contextlib import contextmanager

import pytest

from p2psync.errors import DamagedError, ModelNotFoundError, StoreError, StoreFullError
from p2psync.store import linux
from p2psync.store.opened import OpenHome
from tests.stores import NAME, WEIGHTS, edit, publish, pull


@pytest.fixture
def version(seed, node, model):
    """A version of four files that both stores have."""
    made = publish(seed, model)
    pull(seed, node, made)
    return made


@pytest.fixture
def target(tmp_path):
    """Where nothing stands yet."""
    return tmp_path / "out"


@pytest.fixture
def unshared(monkeypatch):
    """A file system that shares no blocks, so that bytes are copied."""
    monkeypatch.setattr(linux, "reflink", lambda _source, _target: False)


@contextmanager
def refused(target, kind, message):
    """What is done here ends in an error, and leaves nothing behind."""
    with pytest.raises(kind, match=message) as caught:
        yield caught
    assert not target.exists()
    assert not list(target.parent.glob(".p2psync-export-*"))


def before_call(monkeypatch, place, name, happening):
    """Let something happen just before a function is called."""
    honest = getattr(place, name)

    def called(*arguments):
        happening()
        return honest(*arguments)

    monkeypatch.setattr(place, name, called)


def test_files_that_were_not_pulled_are_counted(seed, node, model, target):
    """Of a version whose variant alone is here, the rest cannot be exported, and no part of it is."""
    version = publish(seed, model)
    pull(seed, node, version, {0, 3})
    with refused(target, ModelNotFoundError, f"2 files of {NAME}@b3:.* are not in this home"):
        node.export(NAME, version.root, range(4), target)


def test_room_is_asked_before_the_first_byte(node, version, target, unshared, monkeypatch):
    """A copy that cannot fit is not begun: what it needs and what is free are both told."""
    monkeypatch.setattr("p2psync.store.export.free_bytes", lambda _path: 1_000_000)
    monkeypatch.setattr(linux, "copy_range", lambda *_: pytest.fail("bytes were copied"))
    with refused(target, StoreFullError, "is full") as caught:
        node.export(NAME, version.root, range(4), target)
    assert caught.value.needed_bytes > 1_000_000


def test_links_need_no_room(node, version, tmp_path, unshared, monkeypatch):
    """Names of what is there already fit on a full disk."""
    monkeypatch.setattr("p2psync.store.export.free_bytes", lambda _path: 0)
    node.export(NAME, version.root, range(4), tmp_path / "linked", link=True)
    assert (tmp_path / "linked" / WEIGHTS).stat().st_nlink == 2


def test_a_file_that_changes_while_it_is_copied_is_not_exported(node, version, target, unshared, monkeypatch):
    """What was copied is what was proved, or it is thrown away."""
    stored = node.installed(NAME, version.root, range(4)) / WEIGHTS
    before_call(monkeypatch, linux, "copy_range", lambda: edit(stored))
    with refused(target, DamagedError, "changed while it was exported"):
        node.export(NAME, version.root, {1}, target)


def test_a_file_that_shrinks_while_it_is_copied_is_not_exported(node, version, target, unshared, monkeypatch):
    """A copy that ends early is noticed where it ends."""
    stored = node.installed(NAME, version.root, range(4)) / WEIGHTS

    def shrink():
        stored.chmod(0o644)
        os.truncate(stored, 1000)

    before_call(monkeypatch, linux, "copy_range", shrink)
    with refused(target, DamagedError, "is shorter than when it was proved"):
        node.export(NAME, version.root, {1}, target)


def test_a_file_that_changes_before_it_is_linked_is_not_exported(node, version, target, monkeypatch):
    """A link would name bytes that nobody proved."""
    stored = node.installed(NAME, version.root, range(4)) / WEIGHTS
    before_call(monkeypatch, OpenHome, "link", lambda: edit(stored))
    with refused(target, DamagedError, "changed while it was exported"):
        node.export(NAME, version.root, {1}, target, link=True)


def test_a_file_that_a_verify_beside_it_finds_damaged_is_not_left_out(node, version, target, monkeypatch):
    """What could not be linked ends the export, even where the file looks as it did."""
    monkeypatch.setattr(OpenHome, "link", lambda *_: None)
    with refused(target, DamagedError, "changed while it was exported"):
        node.export(NAME, version.root, {1}, target, link=True)


def test_links_that_the_file_system_refuses_are_told(node, version, target, monkeypatch):
    """Another file system takes no links; a copy is what helps."""

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(OpenHome, "link", refuse)
    with refused(target, StoreError, "cannot be a hard link") as caught:
        node.export(NAME, version.root, range(4), target, link=True)
    assert "--link" in caught.value.hint
