"""Prove installed files again, byte by byte, and record what was found."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from typing import Self

from p2psync.content import Digest
from p2psync.store.hashing import Advance, Proof, TwoThreads, prove_file
from p2psync.store.home import READ_FLAGS, Identity
from p2psync.store.index import FileRow, unpack_cut
from p2psync.store.opened import OpenHome
from p2psync.store.values import Damage, DamageKind


class Prover:
    """Proves files of one home, each inode once. A context manager for one thread."""

    def __init__(self, opened: OpenHome, advance: Advance) -> None:
        self._opened = opened
        self._advance = advance
        self._threads = TwoThreads()
        self._seen: dict[tuple[int, Identity], Proof] = {}

    def __enter__(self) -> Self:
        self._threads.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.__exit__(None, None, None)

    def prove(self, file: FileRow) -> Damage | None:
        """Read an installed file again and say what is wrong with it. Withdraws it, or takes it back."""
        identity, proof, fault = self._read(file)
        cut = list(unpack_cut(self._opened.index.cut(file)))
        if proof is not None and proof.good and identity is not None:
            self._take_back(file, identity)
            if proof.sha256 != file.sha256:
                return self._damage(file, DamageKind.MISLABELLED)
            return None
        self._withdraw(file, identity)
        if proof is None:
            return self._damage(file, fault)
        kind = DamageKind.UNREADABLE if proof.unreadable else DamageKind.CHANGED
        return self._damage(file, kind, _ranges(cut, {*proof.changed, *proof.unreadable}))

    def _read(self, file: FileRow) -> tuple[Identity | None, Proof | None, DamageKind]:
        """Identity and proof of what stands at the file's path, or why there is none."""
        try:
            fd = os.open(self._opened.path(file), READ_FLAGS)
        except (FileNotFoundError, NotADirectoryError):
            return None, None, DamageKind.MISSING
        except OSError as error:
            replaced = os.path.lexists(self._opened.path(file)) and error.errno not in _REFUSED
            return None, None, DamageKind.REPLACED if replaced else DamageKind.UNREADABLE
        try:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode):
                return None, None, DamageKind.REPLACED
            before = Identity.of(facts)
            proof = self._seen.get((file.content, before)) or self._prove_open(file, fd)
            self._seen[file.content, before] = proof
            if before.size != file.size and proof.good:
                # What was added at the end is in no chunk.
                return before, None, DamageKind.CHANGED
            return before, proof, DamageKind.CHANGED
        finally:
            os.close(fd)

    def _prove_open(self, file: FileRow, fd: int) -> Proof:
        return prove_file(self._threads, fd, list(unpack_cut(self._opened.index.cut(file))), self._advance)

    def _take_back(self, file: FileRow, identity: Identity) -> None:
        if self._opened.write:
            with self._opened.inodes:
                # The lock keeps our own links and unlinks out; one that came during the proof was recorded.
                now = self._opened.identity_on_disk(file)
                fresh = self._opened.index.file(file.id)
                if now is None or fresh is None or now not in (identity, fresh.identity):
                    self._opened.withdrawn.add(file.id)
                    return
                self._opened.index.judge(file, now, good=True)
        self._opened.withdrawn.discard(file.id)

    def _withdraw(self, file: FileRow, identity: Identity | None) -> None:
        self._opened.withdrawn.add(file.id)
        if self._opened.write:
            self._opened.index.judge(file, identity, good=False)

    def _damage(self, file: FileRow, kind: DamageKind, ranges: Iterable[tuple[int, int]] | None = None) -> Damage:
        whole = ((0, file.size),) if kind is not DamageKind.MISLABELLED else ()
        return Damage(file.install.name, file.install.root, file.path, kind, whole if ranges is None else tuple(ranges))


_REFUSED = frozenset({13, 1, 5})


def _ranges(cut: list[tuple[Digest, int]], numbers: set[int]) -> Iterator[tuple[int, int]]:
    """(offset, length) of some chunks of a file, neighbours joined."""
    start, end, offset = 0, 0, 0
    for number, (_, length) in enumerate(cut):
        if number in numbers:
            if end != offset or end == start:
                if end > start:
                    yield start, end - start
                start = offset
            end = offset + length
        offset += length
    if end > start:
        yield start, end - start
