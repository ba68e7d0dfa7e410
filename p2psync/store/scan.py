"""Walk a directory that is to be published: which files it has, and that nothing else stands in it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from p2psync.content import ExternalTensor, external_tensors
from p2psync.errors import MalformedError, NotFoundError, StoreError, UnsafePathError, UsageError
from p2psync.manifest import check_paths
from p2psync.store.home import READ_FLAGS, Identity
from p2psync.store.settings import SETTINGS_NAME, VariantSettings, parse_settings


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file to publish: its path below the directory, and the tensors that ONNX skeletons keep in it."""

    path: str
    size: int
    external: tuple[ExternalTensor, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A directory to publish. ``files`` are in manifest order (sorted by the bytes of their paths)."""

    folder: Path
    files: tuple[SourceFile, ...]
    variants: tuple[VariantSettings, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class OpenSource:
    """One file of a source, open for reading; ``close`` or leave the context when done."""

    def __init__(self, folder: Path, path: str) -> None:
        """Open it.

        Raises:
            UnsafePathError: it is no regular file.
            StoreError: it cannot be read.
        """
        self._where = folder / path
        try:
            self.fd = os.open(self._where, READ_FLAGS)
        except OSError as error:
            raise StoreError(f"cannot read {self._where}: {error.strerror}") from error
        self.identity = Identity.of(os.fstat(self.fd))
        if not stat.S_ISREG(os.fstat(self.fd).st_mode):
            os.close(self.fd)
            raise UnsafePathError(f"{self._where} is no regular file")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def read_at(self, offset: int, length: int) -> bytes:
        """The bytes at ``offset``; fewer only at the end of the file."""
        parts = []
        while length > 0 and (part := os.pread(self.fd, length, offset)):
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return b"".join(parts)

    def require_unchanged(self) -> None:
        """Demand that the file, and the name that led to it, are what they were when it was opened.

        Raises:
            StoreError: they are not.
        """
        try:
            same = self.identity == Identity.of(os.fstat(self.fd)) == Identity.of(os.lstat(self._where))
        except OSError:
            same = False
        if not same:
            raise changed_error(self._where)


def changed_error(path: Path) -> StoreError:
    """The error of a file that somebody writes to while it is published."""
    return StoreError(f"{path} changed while it was read; nothing was published", hint="publish again when it is done")


def scan(folder: Path) -> Source:
    """List what is to be published.

    Raises:
        NotFoundError: there is no such directory.
        UsageError: it is no directory, or has nothing to publish.
        UnsafePathError: it holds a symlink, a FIFO, a socket or a device, or a path that is not safe everywhere.
        MalformedError: an ONNX file is broken, or keeps tensors in a file that is not there.
        InvalidConfigError: its ``p2psync.toml`` is not what it must be.
    """
    if not folder.is_dir():
        if folder.exists():
            raise UsageError(f"{folder} is no directory", hint="publish the directory that the file stands in")
        raise NotFoundError(f"there is no directory {folder}")
    found = _walk(folder)
    settings = found.pop(SETTINGS_NAME, None)
    if not found:
        raise UsageError(f"{folder} holds no files to publish")
    check_paths(found)
    order = sorted(found, key=lambda path: path.encode())
    external = _external(folder, order, found)
    files = tuple(SourceFile(path, found[path], external.get(path, ())) for path in order)
    variants: tuple[VariantSettings, ...] = ()
    if settings is not None:
        with OpenSource(folder, SETTINGS_NAME) as opened:
            variants = parse_settings(opened.read_at(0, opened.identity.size))
    return Source(folder, files, variants)


def _walk(folder: Path) -> dict[str, int]:
    """Sizes by path of all regular files; anything that is neither a file nor a directory is refused."""
    found: dict[str, int] = {}
    todo = [""]
    while todo:
        prefix = todo.pop()
        try:
            with os.scandir(folder / prefix) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise StoreError(f"cannot read {folder / prefix}: {error.strerror}") from error
        for entry in listed:
            path = f"{prefix}{entry.name}"
            facts = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode):
                todo.append(f"{path}/")
            elif stat.S_ISREG(facts.st_mode):
                found[path] = facts.st_size
            else:
                kind = _KINDS.get(stat.S_IFMT(facts.st_mode), "no regular file")
                raise UnsafePathError(f"{folder / path} is {kind}; only files and directories can be published")
    return found


_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


def _external(folder: Path, order: list[str], found: dict[str, int]) -> dict[str, tuple[ExternalTensor, ...]]:
    """By path, the tensors that the ONNX skeletons of the directory keep in that file."""
    external: dict[str, tuple[ExternalTensor, ...]] = {}
    for path in order:
        if not path.lower().endswith(".onnx"):
            continue
        with OpenSource(folder, path) as opened:
            tensors = external_tensors(path, opened.identity.size, opened.read_at)
        base, _, _ = path.rpartition("/")
        for location, kept in tensors.items():
            target = f"{base}/{location}" if base else location
            if target not in found:
                raise MalformedError(f"{path} keeps tensors in {target}, which is not there")
            external[target] = external.get(target, ()) + tuple(kept)
    return external
