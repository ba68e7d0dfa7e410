"""What the operating system and SQLite say about a disk, and which error of ours it becomes."""

import errno
import sqlite3

import pytest

from p2psync.content import Digest
from p2psync.errors import (
    DamagedError,
    ModelNotFoundError,
    P2PSyncError,
    StoreError,
    StoreFullError,
    StoreUnwritableError,
    UsageError,
)
from p2psync.store.home import disk_errors
from tests.stores import publish


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.ENOSPC, StoreFullError, "is full: 7 bytes are needed"),
        (errno.EDQUOT, StoreFullError, "is full: 7 bytes are needed"),
        (errno.EROFS, StoreUnwritableError, "/there cannot be written: Read-only file system"),
        (errno.EACCES, StoreUnwritableError, "/there cannot be written: Permission denied"),
        (errno.EPERM, StoreUnwritableError, "/there cannot be written: Operation not permitted"),
        (errno.EIO, DamagedError, "the disk cannot read or write .*/there"),
        (errno.ELOOP, StoreError, "/there: looped"),
    ],
    ids=lambda value: errno.errorcode.get(value) if isinstance(value, int) else None,
)
def test_each_fault_of_a_disk_has_its_error(tmp_path, number, kind, message):
    """Who must act differs: make room, give the right, repair, or look for oneself."""
    with pytest.raises(P2PSyncError, match=message) as caught, disk_errors(tmp_path, needed_bytes=7):
        raise OSError(number, "looped", str(tmp_path / "there"))
    assert type(caught.value) is kind


def test_errors_of_ours_pass_as_they_are(tmp_path):
    """Some of them are an OSError as well in their cause, never in their kind."""
    with pytest.raises(UsageError, match="as it was"), disk_errors(tmp_path):
        raise UsageError("as it was")


def test_an_index_without_room_says_so(seed, model):
    """SQLite's own word for a full disk is the same fault as the operating system's."""
    publish(seed, model)
    index = seed._opened.index
    (pages,) = index._writer.execute("PRAGMA page_count").fetchone()
    index._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreFullError, match="is full") as caught, index._change() as db:
        db.execute("CREATE TABLE large AS SELECT randomblob(100000)")
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)


def test_the_nodes_of_an_unknown_version_are_not_found(seed):
    """They are asked for by whoever serves it, who answers that it is not here."""
    with pytest.raises(ModelNotFoundError, match=r"the manifest of b3:.* is not in this home"):
        seed.tree(Digest.of(b"unknown"))
