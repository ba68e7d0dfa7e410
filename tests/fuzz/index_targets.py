"""Readers of the index of a home and of a report of quality, which come from a disk that rots and from other people."""

from __future__ import annotations

import functools
import sqlite3
import struct
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from p2psync.content import Digest
from tests.fuzz.registry import standing, target

_ROOT: Final = Digest(bytes(range(32)))
_NAME: Final = "acme/wan"


@target
def quality_json(data: bytes) -> None:
    """The report of a variant's quality."""
    from p2psync.compress.quality import read_report

    with standing("quality.json", data) as path:
        report = read_report(str(path.parent))
        assert report is None or isinstance(report.variant, str)


@functools.cache
def _index_template() -> bytes:
    """An index of one version with two files, in small pages."""
    from p2psync.store.home import Identity
    from p2psync.store.index import Index, InstallRow, NewFile, pack_cut, pack_runs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.db"
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA page_size = 512")
            db.execute("VACUUM")
        db.close()
        index = Index(path, write=True)
        cuts = [pack_cut([(Digest.of(b"a"), 10), (Digest.of(b"b"), 5)]), pack_cut([(Digest.of(b"a"), 10)])]
        files = [
            NewFile(number, f"w{number}", 15 - 5 * number, bytes(32), False, cut, pack_runs([0, 1]), Identity(*[9] * 5))
            for number, cut in enumerate(cuts)
        ]
        index.add(InstallRow(0, _NAME, _ROOT, None, 25, 2, 2, '{"full": [0, 1]}'), files)
        index.add_nodes(_ROOT, [(Digest.of(b"node"), 5, 40)])
        index.close()
        return path.read_bytes()


@target
def index_file(data: bytes) -> None:
    """The index, with bytes of its file replaced: (offset, byte) each, and then a row's value where more follows.

    What rots is found when the index is opened, or read as another value of the same type; nothing else.
    """
    from p2psync.store.index import Index, unpack_cut, unpack_runs

    file = bytearray(_index_template())
    patches, _, value = data.partition(b"\xff\xff\xff")
    for at in range(0, len(patches) - 2, 3):
        offset, byte = struct.unpack_from("<HB", patches, at)
        file[offset % len(file)] = byte
    with standing("index.db", bytes(file)) as path:
        if value:
            _replace(path, value)
        index = Index(path, write=True)
        try:
            for install in index.installs():
                assert len(index.files(install)) <= 2
            for row in index.all_files():
                assert all(len(digest) == 32 for digest, _ in unpack_cut(index.cut(row)))
                assert index.file(row.id) is not None
            for spot in index.spots(Digest.of(b"a"), proved_only=False):
                assert spot.offset + spot.length >= 0
            _, held = index.chunk_runs(_ROOT) or (0, [])
            assert all(first + count >= 0 for _, runs in held for first, count in unpack_runs(runs))
            assert len(index.node(Digest.of(b"node"))) <= 1
            assert index.node_roots() is not None
        finally:
            index.close()


_COLUMNS: Final = (
    *(("installs", name) for name in ("id", "name", "root", "source", "size", "files", "chunks", "variants")),
    *(("contents", name) for name in ("id", "digest", "size", "cut")),
    *(("chunks", name) for name in ("digest", "content", "offset", "length")),
    *(("files", name) for name in ("install", "number", "path", "content", "sha256", "runs", "identity", "good")),
    *(("nodes", name) for name in ("digest", "root", "offset", "length")),
)


def _replace(path: Path, value: bytes) -> None:
    """Let a row of the index hold something else: a column, a type, and the bytes of the value."""
    table, column = _COLUMNS[value[0] % len(_COLUMNS)]
    kind, rest = value[1:2] or b"\x00", value[2:]
    shown = (rest, rest.decode("latin-1"), int.from_bytes(rest[:7], "little"), len(rest) / 3)[kind[0] % 4]
    # Of a garbled schema the library cannot even say what is wrong with it.
    with suppress(sqlite3.Error, UnicodeDecodeError):
        db = sqlite3.connect(path)
        try:
            with db:
                db.execute(f"UPDATE {table} SET {column} = ?", (shown,))
        finally:
            db.close()
