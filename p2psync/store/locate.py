"""Find the bytes of a chunk on this disk, and give them out only while they are what was proved."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from p2psync.content import Digest
from p2psync.manifest import chunk_count
from p2psync.store.descriptors import Descriptors, Kept
from p2psync.store.index import unpack_runs
from p2psync.store.opened import OpenHome


class Located:
    """Where a chunk stands: an open file, an offset and a length in bytes. ``release`` it when done."""

    __slots__ = ("_descriptors", "_intact", "_kept", "length", "offset")

    def __init__(
        self, descriptors: Descriptors, kept: Kept, offset: int, length: int, intact: Callable[[], bool]
    ) -> None:
        self._descriptors = descriptors
        self._kept = kept
        self._intact = intact
        self.offset = offset
        self.length = length

    @property
    def fd(self) -> int:
        """Open for reading until ``release``."""
        return self._kept.fd

    def intact(self) -> bool:
        """Whether the file still is what was proved: ask after the bytes were sent, too."""
        return self._intact()

    def read(self) -> bytes:
        """The bytes. Shorter than ``length`` where the file ends early.

        Raises:
            OSError: the disk cannot read them.
        """
        return os.pread(self._kept.fd, self.length, self.offset)

    def release(self) -> None:
        """Let the file be closed."""
        self._descriptors.release(self._kept)


def locate(opened: OpenHome, digest: Digest) -> Located | None:
    """Where a chunk can be read now, None when nowhere. Takes tens of microseconds, so it may run in an event loop."""
    for incoming in tuple(opened.running.values()):
        located = incoming.locate(digest)
        if located is not None:
            return located
    return locate_installed(opened, digest) or opened.packs.locate(digest)


def read_proved(opened: OpenHome, digest: Digest) -> bytes | None:
    """The bytes of a chunk from wherever they prove. A file that holds others is withdrawn, and the next one read."""
    for spot in opened.index.spots(digest):
        kept = opened.borrow(spot.file)
        if kept is None:
            continue
        try:
            data = os.pread(kept.fd, spot.length, spot.offset)
        except OSError:
            data = b""
        finally:
            opened.descriptors.release(kept)
        if Digest.of(data) == digest:
            return data
        opened.withdrawn.add(spot.file.id)
    for incoming in tuple(opened.running.values()):
        located = incoming.locate(digest)
        if located is not None:
            try:
                data = located.read()
            finally:
                located.release()
            if Digest.of(data) == digest:
                return data
    return None


def locate_installed(opened: OpenHome, digest: Digest) -> Located | None:
    """Where a chunk stands in an installed file."""
    for spot in opened.index.spots(digest):
        kept = opened.borrow(spot.file)
        if kept is not None:
            return Located(
                opened.descriptors, kept, spot.offset, spot.length, partial(opened.still, spot.file, kept.fd)
            )
    return None


def read_installed(opened: OpenHome, digest: Digest) -> bytes | None:
    """The bytes of a chunk that an installed version has, proved; None where none has it whole.

    What is made of a base must be made of its true bytes: a delta from rotten ones would fit nobody's.
    """
    located = locate_installed(opened, digest)
    if located is None:
        return None
    try:
        data = located.read()
        return data if Digest.of(data) == digest else None
    finally:
        located.release()


def inventory(opened: OpenHome, root: Digest) -> bytes | None:
    """Which chunks of a version are here: a bit each, in the order of their numbers, lowest first.

    The bits of its encoded chunks follow those of its chunks. None when the version is unknown.
    """
    incoming = opened.running.get(root)
    recorded = opened.index.chunk_runs(root)
    if incoming is None and recorded is None:
        return None
    manifest = opened.manifests.get(root)
    if manifest is None:
        return None
    bits = bytearray((chunk_count(manifest) + manifest.encoded + 7) // 8)
    if incoming is not None:
        held = incoming.inventory()
        bits[: len(held)] = held
    for number, runs in recorded[1] if recorded else ():
        if number not in opened.withdrawn:
            for first, count in unpack_runs(runs):
                _set_run(bits, first, count)
    for number in opened.packs.numbers(root):
        bits[number >> 3] |= 1 << (number & 7)
    return bytes(bits)


def _set_run(bits: bytearray, first: int, count: int) -> None:
    """Set ``count`` bits from ``first``, whole bytes at once."""
    end = first + count
    while first < end and first & 7:
        bits[first >> 3] |= 1 << (first & 7)
        first += 1
    whole = (end - first) >> 3
    bits[first >> 3 : (first >> 3) + whole] = b"\xff" * whole
    for place in range(first + whole * 8, end):
        bits[place >> 3] |= 1 << (place & 7)
