"""Which chunks of an unfinished version are on disk: an append-only file that says when it may be believed.

A journal is believed only when its last record says that work ended cleanly, with the identities of all partial files
at that moment. In every other case (a crash, a torn or garbled record, a copied home) it only says where to look, and
every chunk is proved again.

Layout, little endian: magic, root (32), selection (32); then records of kind (1), count (4), payload, CRC-32 of all
of these. Kinds: 1 chunk numbers (4 each), 2 clean end (identities of 40 each). Work that goes on starts a new file.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2psync import disk
from p2psync.content import Digest
from p2psync.store.home import Identity, read_file

_MAGIC = b"P2PJ\x01\x00\x00\x00"
_HEAD_BYTES = len(_MAGIC) + 64
_RECORD = struct.Struct("<BI")
_CRC = struct.Struct("<I")
_IDENTITY = struct.Struct("<QQQqq")
_CHUNKS, _CLEAN = 1, 2
_PAYLOAD = {_CHUNKS: 4, _CLEAN: _IDENTITY.size}


@dataclass(frozen=True, slots=True)
class JournalState:
    """What a journal says. ``identities`` is None unless its work ended cleanly."""

    chunks: frozenset[int]
    identities: tuple[Identity, ...] | None


_NOTHING = JournalState(frozenset(), None)


def read_journal(path: Path, root: Digest, selection: Digest) -> JournalState:
    """Read a journal as far as it is whole. One of another version or selection of files says nothing."""
    data = read_file(path) or b""
    if data[:_HEAD_BYTES] != _MAGIC + root + selection:
        return _NOTHING
    chunks: set[int] = set()
    identities: tuple[Identity, ...] | None = None
    position = _HEAD_BYTES
    while position < len(data):
        record = _record(data, position)
        if record is None:
            return JournalState(frozenset(chunks), None)
        kind, payload, position = record
        identities = None
        if kind == _CHUNKS:
            chunks.update(n for (n,) in struct.iter_unpack("<I", payload))
        else:
            identities = tuple(Identity._make(i) for i in _IDENTITY.iter_unpack(payload))
    return JournalState(frozenset(chunks), identities)


def journalled(path: Path, root: Digest) -> frozenset[int]:
    """The chunks that a journal of a version names, whatever selection of files it is for. Not to be believed."""
    head = (read_file(path) or b"")[:_HEAD_BYTES]
    return read_journal(path, root, Digest(head[-32:])).chunks if len(head) == _HEAD_BYTES else frozenset()


def _record(data: bytes, position: int) -> tuple[int, bytes, int] | None:
    """(kind, payload, where it ends) of one record; None when it is torn or garbled."""
    if position + _RECORD.size > len(data):
        return None
    kind, count = _RECORD.unpack_from(data, position)
    if kind not in _PAYLOAD:
        return None
    start = position + _RECORD.size
    end = start + count * _PAYLOAD[kind]
    if end + _CRC.size > len(data) or zlib.crc32(data[position:end]) != _CRC.unpack_from(data, end)[0]:
        return None
    return kind, data[start:end], end + _CRC.size


class Journal:
    """An open journal. Only one thread at a time may use it."""

    def __init__(self, path: Path, root: Digest, selection: Digest, chunks: Iterable[int]) -> None:
        """Start anew, durably, with the chunks that are known to be on disk. The old one is gone only then.

        Raises:
            OSError: the disk refused.
        """
        scratch = path.with_suffix(".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(scratch, flags, 0o600)
        try:
            disk.write_all(self._fd, _MAGIC + root + selection)
            self.add(sorted(chunks))
            disk.replace(scratch, path)
            disk.sync_folder(path.parent)
        except BaseException:
            os.close(self._fd)
            raise

    def add(self, chunks: Sequence[int]) -> None:
        """Say that chunks are on disk: only after their data is."""
        self._append(_CHUNKS, struct.pack(f"<{len(chunks)}I", *chunks), len(chunks))

    def end(self, identities: Sequence[Identity]) -> None:
        """Say that work ended cleanly, and what the partial files were then."""
        self._append(_CLEAN, b"".join(_IDENTITY.pack(*i) for i in identities), len(identities))

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _append(self, kind: int, payload: bytes, count: int) -> None:
        record = _RECORD.pack(kind, count) + payload
        disk.write_all(self._fd, record + _CRC.pack(zlib.crc32(record)))
        disk.sync_data(self._fd)
