"""Read a file once, through BLAKE3 per chunk and SHA-256 of the whole, on two threads and in a few reused buffers.

SHA-256 is the slower one and cannot be split, so it has a thread of its own; the calling thread reads, hashes the
chunks and, in a snapshot, writes the same buffer to the copy. Memory does not depend on the size of the file.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from p2psync.content import BlobKind, ContentCutter, Digest, Layout, grid_lengths
from p2psync.limits import CHUNK_BYTES, KIB
from p2psync.manifest import Blob, ChunkList

if TYPE_CHECKING:
    from hashlib import _Hash

_BUFFERS = 8
# Below this, waking the other thread costs more than it hashes meanwhile.
_INLINE_BYTES_MAX = 128 * KIB

# (bytes, their offset in the file).
Visit = Callable[[memoryview, int], None]
Advance = Callable[[int], None]


class ShortReadError(Exception):
    """A file ended before the size that it had. Never leaves the store."""


class TwoThreads:
    """The buffers and the SHA-256 thread, for any number of files in turn. A context manager for one thread."""

    def __init__(self) -> None:
        self._spare = [memoryview(bytearray(CHUNK_BYTES)) for _ in range(_BUFFERS)]
        self._todo: queue.SimpleQueue[tuple[_Hash, memoryview, memoryview] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._todo.put(None)
            self._thread.join()

    def read(self, fd: int, pieces: Iterable[tuple[int, int]], visit: Visit) -> bytes:
        """Read ``pieces``, (offset, length <= 1 MiB) each, show them to ``visit``, return the SHA-256 of all.

        Raises:
            ShortReadError: the file ends within a piece.
            OSError: the disk cannot read it.
        """
        sha256 = hashlib.sha256()
        for offset, length in pieces:
            buffer = self._spare.pop() if self._spare else self._done.get()
            piece = buffer[:length]
            try:
                fill(fd, piece, offset)
            except BaseException:
                self._spare.append(buffer)
                raise
            # Both threads only look at the bytes, and this one fills a buffer again only after its own look.
            if length > _INLINE_BYTES_MAX:
                self._hand_over(sha256, buffer, piece)
                visit(piece, offset)
            else:
                self._spare.append(buffer)
                self._settle()
                sha256.update(piece)
                visit(piece, offset)
        self._settle()
        return sha256.digest()

    def _hand_over(self, sha256: _Hash, buffer: memoryview, piece: memoryview) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="p2psync-sha256", daemon=True)
            self._thread.start()
        self._todo.put((sha256, buffer, piece))

    def _settle(self) -> None:
        while len(self._spare) < _BUFFERS:
            self._spare.append(self._done.get())

    def _work(self) -> None:
        while (item := self._todo.get()) is not None:
            sha256, buffer, piece = item
            sha256.update(piece)
            self._done.put(buffer)


def fill(fd: int, buffer: memoryview, offset: int) -> None:
    """Read exactly as many bytes as ``buffer`` holds.

    Raises:
        ShortReadError: the file ends before.
        OSError: the disk cannot read them.
    """
    while buffer:
        count = os.preadv(fd, [buffer], offset)
        if count == 0:
            raise ShortReadError
        buffer = buffer[count:]
        offset += count


def pieces_of(lengths: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Reads of at most 1 MiB that end where chunks end: a big chunk each, or many small ones together."""
    start, end = 0, 0
    for length in lengths:
        if end - start + length > CHUNK_BYTES:
            yield start, end - start
            start = end
        end += length
    if end > start:
        yield start, end - start


@dataclass(frozen=True, slots=True)
class CutFile:
    """A file that was read: its blobs, with their chunks, and its SHA-256."""

    blobs: tuple[Blob, ...]
    sha256: bytes


def cut_file(threads: TwoThreads, fd: int, layout: Layout, copy: Visit | None, advance: Advance) -> CutFile:
    """Hash a file as ``layout`` says how it is cut.

    Args:
        threads: Where SHA-256 runs.
        fd: The file, open for reading.
        layout: Its spans.
        copy: Gets every byte too, in order; None when nothing is copied.
        advance: Told the bytes of each piece when it is done.

    Raises:
        ShortReadError: the file ended early.
        OSError: the disk failed.
    """
    if any(span.kind is BlobKind.BYTES for span in layout.spans):
        return _cut_by_content(threads, fd, layout, copy, advance)
    lengths = [length for span in layout.spans for length in grid_lengths(span.length)]
    digests: list[bytes] = []
    queued = iter(lengths)

    def visit(piece: memoryview, offset: int) -> None:
        position = 0
        while position < len(piece):
            length = next(queued)
            digests.append(Digest.of(piece[position : position + length]))
            position += length
        if copy is not None:
            copy(piece, offset)
        advance(len(piece))

    sha256 = threads.read(fd, pieces_of(lengths), visit)
    return CutFile(_blobs(layout, list(zip(digests, lengths, strict=True))), sha256)


def _cut_by_content(threads: TwoThreads, fd: int, layout: Layout, copy: Visit | None, advance: Advance) -> CutFile:
    (span,) = layout.spans
    cutter = ContentCutter()
    chunks: list[tuple[bytes, int]] = []

    def visit(piece: memoryview, offset: int) -> None:
        chunks.extend((Digest.of(chunk), len(chunk)) for chunk in cutter.feed(piece))
        if copy is not None:
            copy(piece, offset)
        advance(len(piece))

    sha256 = threads.read(fd, pieces_of(grid_lengths(span.length)), visit)
    chunks.extend((Digest.of(chunk), len(chunk)) for chunk in cutter.finish())
    return CutFile(_blobs(layout, chunks), sha256)


def blobs_from_cut(layout: Layout, cut: list[tuple[Digest, int]]) -> tuple[Blob, ...] | None:
    """The blobs that ``layout`` makes of known chunks; None where it would cut elsewhere."""
    if not any(span.kind is BlobKind.BYTES for span in layout.spans):
        lengths = [length for span in layout.spans for length in grid_lengths(span.length)]
        if [length for _, length in cut] != lengths:
            return None
    return _blobs(layout, cut)


def _blobs(layout: Layout, chunks: list[tuple[Digest, int]] | list[tuple[bytes, int]]) -> tuple[Blob, ...]:
    blobs = []
    place = 0
    for span in layout.spans:
        by_content = span.kind is BlobKind.BYTES
        count = len(chunks) if by_content else -(-span.length // CHUNK_BYTES)
        own = chunks[place : place + count]
        place += count
        lengths = tuple(length for _, length in own) if by_content else ()
        blobs.append(
            Blob(
                span.kind,
                span.length,
                ChunkList(b"".join(d for d, _ in own), lengths),
                span.name,
                span.dtype,
                span.shape,
            )
        )
    return tuple(blobs)


@dataclass(frozen=True, slots=True)
class Proof:
    """What re-reading a file showed: chunks (by number in the file) that are not what they must be."""

    changed: tuple[int, ...]
    unreadable: tuple[int, ...]
    sha256: bytes | None

    @property
    def good(self) -> bool:
        """Whether every chunk proved."""
        return not self.changed and not self.unreadable


def prove_file(threads: TwoThreads, fd: int, cut: list[tuple[Digest, int]], advance: Advance) -> Proof:
    """Read every chunk of a file again. ``sha256`` is None where something could not be read."""
    changed: list[int] = []
    unreadable: list[int] = []
    numbers = iter(range(len(cut)))

    def visit(piece: memoryview, _offset: int) -> None:
        position = 0
        while position < len(piece):
            number = next(numbers)
            digest, length = cut[number]
            if Digest.of(piece[position : position + length]) != digest:
                changed.append(number)
            position += length
        advance(len(piece))

    try:
        sha256 = threads.read(fd, pieces_of(length for _, length in cut), visit)
        return Proof(tuple(changed), (), sha256)
    except (OSError, ShortReadError):
        pass
    # Something in it cannot be read: find out exactly what, chunk by chunk.
    changed.clear()
    offset = 0
    scratch = memoryview(bytearray(CHUNK_BYTES))
    for number, (digest, length) in enumerate(cut):
        try:
            fill(fd, scratch[:length], offset)
            if Digest.of(scratch[:length]) != digest:
                changed.append(number)
        except ShortReadError:
            changed.append(number)
        except OSError:
            unreadable.append(number)
        offset += length
    return Proof(tuple(changed), tuple(unreadable), None)


def find_equal(fd: int, cuts: Sequence[list[tuple[Digest, int]]], advance: Advance) -> int | None:
    """Which of some cuts of equal lengths a file holds exactly. Reads no further than the last that still agrees.

    Raises:
        ShortReadError: the file ended early.
        OSError: the disk cannot read it.
    """
    scratch = memoryview(bytearray(CHUNK_BYTES))
    agree = list(range(len(cuts)))
    offset = 0
    for place, (_, length) in enumerate(cuts[0] if cuts else ()):
        fill(fd, scratch[:length], offset)
        digest = Digest.of(scratch[:length])
        agree = [number for number in agree if cuts[number][place][0] == digest]
        if not agree:
            return None
        offset += length
        advance(length)
    return agree[0] if agree else None
