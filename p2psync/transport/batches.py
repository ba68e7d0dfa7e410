"""What a batch is answered with: the frames of an answer, their sizes, and their bytes piece by piece.

Lengths are said before the first byte goes out, so what changes meanwhile makes no frame but a fault. All of this
may wait for a disk and runs in threads, but for ``pieces``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from p2psync.content import Digest
from p2psync.errors import StoreError
from p2psync.limits import BATCH_BYTES_MAX, SERVE_PIECE_BYTES_MAX
from p2psync.transport.frames import ABSENT, LATER, LENGTH
from p2psync.transport.library import Library
from p2psync.transport.sending import read_exactly

# A digest and the length that its frame says.
Frame = tuple[Digest, int]


def node_frames(library: Library, digests: Sequence[Digest]) -> list[Frame]:
    """Frames of nodes: at least one, then as many as fit; those that do not are put off."""
    frames: list[Frame] = []
    total = 0
    for digest in digests:
        if total > BATCH_BYTES_MAX:
            frames.append((digest, LATER))
            continue
        node = library.node(digest)
        if node is not None:
            total += len(node)
        over = node is not None and total > BATCH_BYTES_MAX and total != len(node)
        frames.append((digest, ABSENT if node is None else LATER if over else len(node)))
    return frames


def chunk_frames(library: Library, digests: Sequence[Digest]) -> list[Frame]:
    """Frames of chunks, whatever their sum is."""
    return [(digest, _chunk_length(library, digest)) for digest in digests]


def absent(frames: Sequence[Frame]) -> int:
    """How many of these are not here."""
    return sum(length == ABSENT for _, length in frames)


def size_of(frames: Sequence[Frame]) -> int:
    """Bytes of an answer, its lengths included."""
    return sum(LENGTH.size + _size(length) for _, length in frames)


def payload_of(frames: Sequence[Frame]) -> int:
    """Bytes of what is asked for in an answer."""
    return sum(_size(length) for _, length in frames)


def pieces(frames: Sequence[Frame]) -> Iterator[list[Frame]]:
    """Group frames so that a slow reader pins little memory."""
    piece: list[Frame] = []
    held = 0
    for frame in frames:
        size = size_of([frame])
        if piece and held + size > SERVE_PIECE_BYTES_MAX:
            yield piece
            piece, held = [], 0
        piece.append(frame)
        held += size
    if piece:
        yield piece


def gather(piece: Sequence[Frame], read: Callable[[Digest], bytes | None]) -> bytes | None:
    """The bytes of some frames, or None where one of them is no longer what was said, or cannot be read now."""
    parts = []
    for digest, length in piece:
        parts.append(LENGTH.pack(length))
        if length not in (ABSENT, LATER):
            try:
                data = read(digest)
            except StoreError:
                return None
            if data is None or len(data) != length:
                return None
            parts.append(data)
    return b"".join(parts)


def read_chunk(library: Library, digest: Digest) -> bytes | None:
    """A chunk whose file is the one that was proved, before and after it was read."""
    located = library.locate(digest)
    if located is None:
        return None
    try:
        data = read_exactly(located)
        return data if located.intact() else None
    except OSError:
        return None
    finally:
        located.release()


def _chunk_length(library: Library, digest: Digest) -> int:
    located = library.locate(digest)
    if located is None:
        return ABSENT
    try:
        return located.length
    finally:
        located.release()


def _size(length: int) -> int:
    return 0 if length in (ABSENT, LATER) else length
