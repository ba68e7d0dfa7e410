"""The SQLite index: which chunk stands in which file of which version, and what each file was when it was proved.

Everything in it can be rebuilt from heads, manifests and the files themselves. Chunks belong to a *content* (the
bytes of a whole file, named by its chunks in order), and files refer to contents, so that a file which several
versions share is listed once however many names and inodes it has.

WAL keeps readers out of the way of commits: ``locate`` runs in the event loop while an install commits. Commits are
not synced one by one; ``checkpoint`` is, and a row that a power cut takes is found again by proving its file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import struct
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2psync.content import DIGEST_BYTES, Digest
from p2psync.errors import StoreError, UnsupportedVersionError
from p2psync.limits import CHUNK_BYTES, KIB
from p2psync.store.home import Identity, free_bytes, full_error

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE installs (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, root BLOB NOT NULL, source TEXT,
    size INTEGER NOT NULL, files INTEGER NOT NULL, chunks INTEGER NOT NULL, variants TEXT NOT NULL,
    UNIQUE (name, root));
CREATE TABLE contents (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, cut BLOB NOT NULL);
CREATE INDEX contents_by_size ON contents (size);
CREATE TABLE chunks (
    digest BLOB NOT NULL, content INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
    PRIMARY KEY (digest, content, offset)) WITHOUT ROWID;
CREATE TABLE files (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    install INTEGER NOT NULL REFERENCES installs ON DELETE CASCADE, number INTEGER NOT NULL,
    path TEXT NOT NULL, content INTEGER NOT NULL REFERENCES contents, sha256 BLOB NOT NULL, external INTEGER NOT NULL,
    runs BLOB NOT NULL, identity BLOB NOT NULL, good INTEGER NOT NULL, UNIQUE (install, number));
CREATE INDEX files_by_content ON files (content);
CREATE INDEX files_by_identity ON files (identity);
CREATE TABLE nodes (
    digest BLOB NOT NULL, root BLOB NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
    PRIMARY KEY (digest, root)) WITHOUT ROWID;
CREATE INDEX nodes_by_root ON nodes (root);
"""
# What must hold of every row: SQLite itself proves where values stand, not what they are. Chunks are many: one that is
# unsound is not found.
_SOUND = {
    "installs": "typeof(name) = 'text' AND typeof(root) = 'blob' AND length(root) = 32"
    " AND typeof(source) IN ('null', 'text') AND typeof(size) = 'integer' AND typeof(files) = 'integer'"
    " AND typeof(chunks) = 'integer' AND typeof(variants) = 'text' AND json_valid(variants)",
    "contents": "typeof(digest) = 'blob' AND length(digest) = 32 AND typeof(size) = 'integer'"
    " AND typeof(cut) = 'blob' AND length(cut) % 36 = 0",
    "files": "typeof(number) = 'integer' AND typeof(path) = 'text' AND typeof(sha256) = 'blob' AND length(sha256) = 32"
    " AND typeof(runs) = 'blob' AND length(runs) % 8 = 0 AND typeof(identity) = 'blob' AND length(identity) = 40"
    " AND typeof(external) = 'integer' AND typeof(good) = 'integer'",
    "nodes": "typeof(root) = 'blob' AND length(root) = 32 AND typeof(offset) = 'integer' AND offset >= 0"
    " AND typeof(length) = 'integer' AND length >= 0",
}
_IDENTITY = struct.Struct("<QQQqq")
_CUT = struct.Struct(f"<{DIGEST_BYTES}sI")
_RUN = struct.Struct("<II")
# The identity of a file that is not there.
NOBODY = Identity(0, 0, 0, 0, 0)
_FULL_CODES = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})
_ROOM_BYTES = 64 * KIB
_DAMAGED_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class IndexDamagedError(StoreError):
    """The index is not what SQLite wrote. Opening the home to write rebuilds it."""


@dataclass(frozen=True, slots=True)
class InstallRow:
    """One version as installed. ``source`` is the directory of an in-place version, None for our own copy."""

    id: int
    name: str
    root: Digest
    source: str | None
    size: int
    files: int
    chunks: int
    variants: str


@dataclass(frozen=True, slots=True)
class FileRow:
    """One installed file. ``number`` is its place in the manifest, ``path`` relative to the version."""

    id: int
    install: InstallRow
    number: int
    path: str
    content: int
    size: int
    sha256: bytes
    external: bool
    runs: bytes
    identity: Identity
    good: bool


@dataclass(frozen=True, slots=True)
class NewFile:
    """What is recorded of a file. ``cut`` is ``pack_cut`` of its chunks, ``runs`` ``pack_runs`` of their numbers."""

    number: int
    path: str
    size: int
    sha256: bytes
    external: bool
    cut: bytes
    runs: bytes
    identity: Identity | None


@dataclass(frozen=True, slots=True)
class Spot:
    """A chunk in a file that was good when it was recorded."""

    file: FileRow
    offset: int
    length: int


def pack_cut(chunks: Iterable[tuple[bytes, int]]) -> bytes:
    """The chunks of a file, in order, each a digest and a length in bytes."""
    return b"".join(_CUT.pack(digest, length) for digest, length in chunks)


def unpack_cut(cut: bytes) -> Iterator[tuple[Digest, int]]:
    """What ``pack_cut`` was given."""
    return ((Digest(digest), length) for digest, length in _CUT.iter_unpack(cut))


def pack_runs(numbers: Iterable[int]) -> bytes:
    """A set of chunk numbers, given in any order, as runs of neighbours."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][0] + runs[-1][1] == number:
            runs[-1][1] += 1
        else:
            runs.append([number, 1])
    return b"".join(_RUN.pack(*run) for run in runs)


def unpack_runs(runs: bytes) -> Iterator[tuple[int, int]]:
    """(first, count) of each run."""
    return ((first, count) for first, count in _RUN.iter_unpack(runs))


class Index:
    """The open index. Writes are one transaction each, under one lock; ``locate`` and its like never wait for them."""

    def __init__(self, path: Path, *, write: bool) -> None:
        """Open the index, making it where there is none. Read only: a missing one is empty.

        Raises:
            IndexDamagedError: it is damaged.
        StoreError: it cannot be opened.
            UnsupportedVersionError: a newer p2psync wrote it.
        """
        self._path = path
        self._write = write
        self._device = os.stat(path.parent).st_dev if path.parent.exists() else 0
        self._lock = threading.RLock()
        self._quick_lock = threading.Lock()
        self._scratch: str | None = None
        with _database_errors(path):
            self._writer = self._connect(write=write)
            try:
                self._prepare()
                self._quick = self._connect(write=False)
            except BaseException:
                self._writer.close()
                raise

    def close(self) -> None:
        """Close. After a clean close no file stands beside the index."""
        self._quick.close()
        with self._lock:
            self._writer.close()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def checkpoint(self) -> None:
        """Make everything that was committed survive a power cut."""
        with self._lock, _database_errors(self._path):
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    # Installs.

    def installs(self, name: str | None = None, root: Digest | None = None) -> list[InstallRow]:
        """The versions here, oldest first, of one name or root where given."""
        rows = self._read(
            _SELECT_INSTALLS + " WHERE (?1 IS NULL OR i.name = ?1) AND (?2 IS NULL OR i.root = ?2) ORDER BY i.id",
            (name, root),
        )
        return [_install_row(row) for row in rows]

    def install(self, name: str, root: Digest) -> InstallRow | None:
        """One version, None when it is not here."""
        return next(iter(self.installs(name, root)), None)

    def add(self, install: InstallRow, files: Sequence[NewFile]) -> None:
        """Record files of a version as good, or as damaged where ``identity`` is None. Replaces what stood there.

        Where the version stood elsewhere before (in place, now a copy of ours), the files there are forgotten.
        """
        with self._change() as db:
            moved = db.execute(
                "SELECT f.id, f.content FROM files f JOIN installs i ON i.id = f.install"
                " WHERE i.name = ? AND i.root = ? AND i.source IS NOT ?",
                (install.name, install.root, install.source),
            ).fetchall()
            db.executemany("DELETE FROM files WHERE id = ?", [(number,) for number, _ in moved])
            db.execute(
                "INSERT INTO installs (name, root, source, size, files, chunks, variants) VALUES (?,?,?,?,?,?,?)"
                " ON CONFLICT (name, root) DO UPDATE SET source = excluded.source",
                (
                    install.name,
                    install.root,
                    install.source,
                    install.size,
                    install.files,
                    install.chunks,
                    install.variants,
                ),
            )
            (number,) = db.execute(
                "SELECT id FROM installs WHERE name = ? AND root = ?", (install.name, install.root)
            ).fetchone()
            for file in files:
                self._add_file(db, number, file)
            self._drop_contents(db, [content for _, content in moved])

    def remove(self, install: InstallRow) -> None:
        """Forget a version, and contents that no file has any more."""
        with self._change() as db:
            contents = [c for (c,) in db.execute("SELECT content FROM files WHERE install = ?", (install.id,))]
            db.execute("DELETE FROM installs WHERE id = ?", (install.id,))
            self._drop_contents(db, contents)

    # Files.

    def files(self, install: InstallRow) -> list[FileRow]:
        """The files of a version that are recorded, in manifest order."""
        return self._file_rows("f.install = ? ORDER BY f.number", (install.id,))

    def file(self, number: int) -> FileRow | None:
        """The file with a row id, as it is recorded now."""
        return next(iter(self._file_rows("f.id = ?", (number,), quick=True)), None)

    def holders(self, cut: bytes) -> list[FileRow]:
        """The good files whose whole content is ``cut``."""
        return self._file_rows("c.digest = ? AND f.good ORDER BY f.id DESC", (Digest.of(cut),))

    def alike(self, size: int, path: str) -> list[tuple[FileRow, bytes]]:
        """Some good files of ``size`` bytes, those of the same path and the newest first, each with its cut."""
        where = "c.size = ? AND f.good ORDER BY f.path = ? DESC, f.id DESC LIMIT 8"
        rows = self._file_rows(where, (size, path))
        return [(row, self.cut(row)) for row in rows]

    def cut(self, file: FileRow) -> bytes:
        """The chunks of a file, as ``pack_cut``."""
        rows = self._read("SELECT cut FROM contents WHERE id = ?", (file.content,))
        return bytes(rows[0][0]) if rows else b""

    def all_files(self) -> list[FileRow]:
        """Every recorded file."""
        return self._file_rows("1 ORDER BY f.id", ())

    def judge(self, file: FileRow, identity: Identity | None, *, good: bool) -> None:
        """Record what a file was (None: nothing) when it was proved to be good, or damaged."""
        with self._change() as db:
            db.execute(
                "UPDATE files SET good = ?, identity = ? WHERE id = ?",
                (good, self._pack(identity or NOBODY), file.id),
            )

    def reidentify(self, changes: Iterable[tuple[Identity, Identity]]) -> None:
        """Record the new identities of inodes that we ourselves linked, unlinked or made read only."""
        with self._change() as db:
            db.executemany(
                "UPDATE files SET identity = ? WHERE identity = ?",
                [(self._pack(new), self._pack(old)) for old, new in changes],
            )

    # Chunks and nodes: short reads that never wait for a transaction.

    def spots(self, digest: Digest, *, proved_only: bool = True) -> list[Spot]:
        """Where a chunk stands, good files first and the newest of them; at most eight places.

        Without ``proved_only`` also where it stood before the file was damaged.
        """
        rows = self._quick_read(_SELECT_SPOTS, (proved_only, digest))
        return [Spot(self._file_row(row[:-2]), row[-2], row[-1]) for row in rows]

    def chunk_runs(self, root: Digest) -> tuple[int, list[tuple[int, bytes]]] | None:
        """How many chunks a version has, and (file id, runs) of each good file; None for an unknown version."""
        counts = self._quick_read("SELECT max(chunks) FROM installs WHERE root = ?", (root,))
        if counts[0][0] is None:
            return None
        rows = self._quick_read(
            "SELECT f.id, f.runs FROM files f JOIN installs i ON i.id = f.install WHERE i.root = ? AND f.good", (root,)
        )
        return counts[0][0], [(number, bytes(runs)) for number, runs in rows]

    def node(self, digest: Digest) -> list[tuple[Digest, int, int]]:
        """(root, offset, length) of each file of nodes that holds a node."""
        rows = self._quick_read("SELECT root, offset, length FROM nodes WHERE digest = ? LIMIT 4", (digest,))
        return [(Digest(root), offset, length) for root, offset, length in rows]

    def add_nodes(self, root: Digest, nodes: Iterable[tuple[Digest, int, int]]) -> None:
        """Record where the nodes of a version stand in its file."""
        with self._change() as db:
            db.execute("DELETE FROM nodes WHERE root = ?", (root,))
            db.executemany("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?)", [(d, root, o, n) for d, o, n in nodes])

    def drop_nodes(self, root: Digest) -> None:
        """Forget the nodes of a version."""
        with self._change() as db:
            db.execute("DELETE FROM nodes WHERE root = ?", (root,))

    def node_roots(self) -> set[Digest]:
        """The versions whose nodes are recorded."""
        return {Digest(root) for (root,) in self._read("SELECT DISTINCT root FROM nodes", ())}

    # Inside.

    def _add_file(self, db: sqlite3.Connection, install: int, file: NewFile) -> None:
        digest = Digest.of(file.cut)
        known = db.execute("SELECT id FROM contents WHERE digest = ?", (digest,)).fetchone()
        if known is None:
            cursor = db.execute(
                "INSERT INTO contents (digest, size, cut) VALUES (?, ?, ?)", (digest, file.size, file.cut)
            )
            content = cursor.lastrowid
            db.executemany("INSERT OR IGNORE INTO chunks VALUES (?, ?, ?, ?)", _chunk_rows(content, file.cut))
        else:
            content = known[0]
        good = file.identity is not None
        identity = self._pack(file.identity or NOBODY)
        before = db.execute(
            "SELECT content FROM files WHERE install = ? AND number = ?", (install, file.number)
        ).fetchone()
        db.execute(
            "INSERT OR REPLACE INTO files (install, number, path, content, sha256, external, runs, identity, good)"
            " VALUES (?,?,?,?,?,?,?,?,?)",
            (install, file.number, file.path, content, file.sha256, file.external, file.runs, identity, good),
        )
        if before is not None:
            self._drop_contents(db, [before[0]])

    def _drop_contents(self, db: sqlite3.Connection, contents: Iterable[int]) -> None:
        for content in set(contents):
            if db.execute("SELECT 1 FROM files WHERE content = ? LIMIT 1", (content,)).fetchone():
                continue
            (cut,) = db.execute("SELECT cut FROM contents WHERE id = ?", (content,)).fetchone()
            db.executemany(
                "DELETE FROM chunks WHERE digest = ? AND content = ? AND offset = ?",
                [(digest, content, offset) for digest, _, offset, _ in _chunk_rows(content, cut)],
            )
            db.execute("DELETE FROM contents WHERE id = ?", (content,))

    def _file_rows(self, where: str, values: Sequence[Any], *, quick: bool = False) -> list[FileRow]:
        read = self._quick_read if quick else self._read
        return [self._file_row(row) for row in read(f"{_SELECT_FILES} WHERE {where}", values)]

    def _pack(self, identity: Identity) -> bytes:
        """An identity as it is stored. The home's own device is 0: its number may be another after every mount."""
        device = 0 if identity.dev == self._device else identity.dev
        return _IDENTITY.pack(device, *identity[1:])

    def _file_row(self, row: Sequence[Any]) -> FileRow:
        number, place, path, content, size, sha256, external, runs, packed, good = row[8:]
        identity = Identity._make(_IDENTITY.unpack(packed))
        if identity != NOBODY and identity.dev == 0:
            identity = identity._replace(dev=self._device)
        return FileRow(
            number,
            _install_row(row),
            place,
            path,
            content,
            size,
            sha256,
            bool(external),
            runs,
            identity,
            bool(good),
        )

    def _read(self, sql: str, values: Sequence[Any]) -> list[Any]:
        with self._lock, _database_errors(self._path):
            return self._writer.execute(sql, values).fetchall()

    def _quick_read(self, sql: str, values: Sequence[Any]) -> list[Any]:
        with self._quick_lock, _database_errors(self._path):
            return self._quick.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _database_errors(self._path), self._writer:
            yield self._writer

    def _connect(self, *, write: bool) -> sqlite3.Connection:
        if write:
            db = sqlite3.connect(self._path, check_same_thread=False)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA foreign_keys = ON")
            return db
        if self._write:
            return sqlite3.connect(self._path, check_same_thread=False)
        return self._connect_read_only()

    def _connect_read_only(self) -> sqlite3.Connection:
        """Another process may own the home, or nobody can write to it."""
        if not self._path.exists():
            db = sqlite3.connect(":memory:", check_same_thread=False)
            db.executescript(_SCHEMA + f"PRAGMA user_version = {_SCHEMA_VERSION};")
            return db
        uri = f"{self._path.absolute().as_uri()}?mode=ro"
        with contextlib.suppress(sqlite3.OperationalError), contextlib.ExitStack() as failing:
            db = sqlite3.connect(uri, uri=True, check_same_thread=False)
            failing.callback(db.close)
            db.execute("SELECT count(*) FROM sqlite_master").fetchall()
            failing.pop_all()
            return db
        # On a read-only file system SQLite cannot make the files that WAL needs: read a copy of ours.
        if self._scratch is None:
            self._scratch = tempfile.mkdtemp(prefix="p2psync-index-")
            for suffix in ("", "-wal"):
                beside = self._path.with_name(self._path.name + suffix)
                if beside.exists():
                    shutil.copyfile(beside, Path(self._scratch) / beside.name)
        return sqlite3.connect(Path(self._scratch) / self._path.name, check_same_thread=False)

    def _prepare(self) -> None:
        (found,) = self._writer.execute("PRAGMA user_version").fetchone()
        if found > _SCHEMA_VERSION:
            raise UnsupportedVersionError(f"a newer p2psync wrote {self._path}", hint="update p2psync")
        if not self._write:
            self._require_sound()
            return
        empty = not self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if found == 0 and empty:
            self._writer.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")
        (answer,) = self._writer.execute("PRAGMA quick_check(1)").fetchone()
        if answer != "ok" or (found == 0 and not empty):
            raise IndexDamagedError(f"the index {self._path} is damaged: {answer}")
        self._require_sound()

    def _require_sound(self) -> None:
        for table, rule in _SOUND.items():
            sql = f"SELECT EXISTS (SELECT 1 FROM {table} WHERE NOT ({rule}))"  # noqa: S608 -- only names of this file.
            if self._writer.execute(sql).fetchone()[0]:
                text = f"the index {self._path} is damaged: {table} holds what nobody wrote"
                raise IndexDamagedError(text, hint="p2psync verify rebuilds it")


_INSTALL = "i.id, i.name, i.root, i.source, i.size, i.files, i.chunks, i.variants"
_FILE = f"{_INSTALL}, f.id, f.number, f.path, f.content, c.size, f.sha256, f.external, f.runs, f.identity, f.good"
_JOINS = "JOIN installs i ON i.id = f.install JOIN contents c ON c.id = f.content"
_SELECT_INSTALLS = f"SELECT {_INSTALL} FROM installs i"  # noqa: S608 -- only names of this file.
_SELECT_FILES = f"SELECT {_FILE} FROM files f {_JOINS}"  # noqa: S608 -- only names of this file.
_SELECT_SPOTS = (
    f"SELECT {_FILE}, k.offset, k.length"  # noqa: S608 -- only names of this file.
    f" FROM chunks k JOIN files f ON f.content = k.content AND f.good >= ? {_JOINS}"
    " WHERE k.digest = ? AND typeof(k.offset) = 'integer' AND k.offset >= 0"
    f" AND typeof(k.length) = 'integer' AND k.length BETWEEN 1 AND {CHUNK_BYTES}"
    " ORDER BY f.good DESC, f.id DESC LIMIT 8"
)


def _install_row(row: Sequence[Any]) -> InstallRow:
    return InstallRow(row[0], row[1], Digest(row[2]), *row[3:8])


def _chunk_rows(content: int | None, cut: bytes) -> Iterator[tuple[bytes, int | None, int, int]]:
    offset = 0
    for digest, length in _CUT.iter_unpack(cut):
        yield digest, content, offset, length
        offset += length


@contextlib.contextmanager
def _database_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        # A name in the schema that is no text, which SQLite would have told in its message.
        raise IndexDamagedError(f"the index {path} is damaged: {error}", hint="p2psync verify rebuilds it") from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        # On a full disk SQLite cannot even make the file through which its connections agree, and calls that I/O.
        full = code in _FULL_CODES and free_bytes(path) < _ROOM_BYTES
        if code == sqlite3.SQLITE_FULL or full:
            raise full_error(path, 0) from error
        if code in _DAMAGED_CODES:
            text = f"the index {path} is damaged: {error}"
            raise IndexDamagedError(text, hint="p2psync verify rebuilds it") from error
        raise StoreError(f"the index {path}: {error}") from error
