"""Which chunks of a version somebody holds: a set over manifest order, small in memory and on the wire."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from p2psync.errors import MalformedError
from p2psync.swarm.varint import read_varint, varint

_RUNS, _BITS = 0, 1
_ONES: Final = re.compile("1+")


class Inventory:
    """A set of chunk numbers below ``count``. Bit i of byte i // 8, lowest first, as ``v1/have`` gives it."""

    __slots__ = ("_bits", "_held", "count")

    def __init__(self, count: int, members: Iterable[int] = ()) -> None:
        self.count = count
        self._bits = bytearray((count + 7) // 8)
        self._held = 0
        self.add(members)

    @classmethod
    def from_bits(cls, bits: bytes, count: int) -> Inventory:
        """Take a bitset of ``count`` bits, or of fewer bytes where nothing more is set."""
        made = cls(count)
        made._bits[: len(bits)] = bits[: len(made._bits)]
        if count % 8 and made._bits:
            made._bits[-1] &= (1 << count % 8) - 1
        made._held = int.from_bytes(made._bits, "little").bit_count()
        return made

    @classmethod
    def whole(cls, count: int) -> Inventory:
        """All chunks of a version."""
        return cls.from_bits(b"\xff" * ((count + 7) // 8), count)

    def to_bits(self) -> bytes:
        """The bitset."""
        return bytes(self._bits)

    def copy(self) -> Inventory:
        """The same set, on its own."""
        made = Inventory(0)
        made.count, made._bits, made._held = self.count, bytearray(self._bits), self._held
        return made

    def __contains__(self, index: int) -> bool:
        return 0 <= index < self.count and bool(self._bits[index >> 3] >> (index & 7) & 1)

    def __len__(self) -> int:
        return self._held

    def __iter__(self) -> Iterator[int]:
        for start, end in self.runs():
            yield from range(start, end)

    def runs(self) -> Iterator[tuple[int, int]]:
        """The members as ascending runs (start, end), as long as they can be."""
        if not self._held:
            return
        # Linear in C, which matters where a version has millions of chunks.
        digits = f"{int.from_bytes(self._bits, 'little'):b}"[::-1]
        yield from (found.span() for found in _ONES.finditer(digits))

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return self._held == self.count

    def add(self, members: Iterable[int]) -> list[int]:
        """Add chunk numbers; returns those that are new. Numbers that are no chunk are passed over."""
        fresh = []
        for index in members:
            if 0 <= index < self.count and not self._bits[index >> 3] >> (index & 7) & 1:
                self._bits[index >> 3] |= 1 << (index & 7)
                fresh.append(index)
        self._held += len(fresh)
        return fresh

    def discard(self, members: Iterable[int]) -> list[int]:
        """Take chunk numbers out; returns those that were in."""
        gone = []
        for index in members:
            if index in self:
                self._bits[index >> 3] &= ~(1 << (index & 7))
                gone.append(index)
        self._held -= len(gone)
        return gone

    def minus(self, *others: Inventory) -> Inventory:
        """What is in this set and in none of the others."""
        left = int.from_bytes(self._bits, "little")
        for other in others:
            left &= ~int.from_bytes(other.to_bits(), "little")
        return Inventory.from_bits(left.to_bytes(len(self._bits), "little"), self.count)

    def to_bytes(self) -> bytes:
        """For the wire: runs of members, or the bitset itself where that is shorter. See ``docs/protocol.md``."""
        runs = bytearray()
        written = 0
        for start, end in self.runs():
            runs += varint(start - written) + varint(end - start)
            written = end
            if len(runs) > len(self._bits):
                return bytes([_BITS]) + bytes(self._bits)
        return bytes([_RUNS]) + bytes(runs)

    @classmethod
    def from_wire(cls, data: bytes | memoryview, count: int) -> Inventory:
        """Read what ``to_bytes`` wrote.

        Raises:
            MalformedError: it is neither form, or speaks of chunks that the version does not have.
        """
        if not len(data):
            raise MalformedError("an inventory is empty")
        if data[0] == _BITS:
            bits = bytes(data[1:])
            if len(bits) != (count + 7) // 8 or (count % 8 and bits[-1] >> count % 8):
                raise MalformedError(f"an inventory of {len(bits)} bytes does not fit {count} chunks")
            return cls.from_bits(bits, count)
        if data[0] != _RUNS:
            raise MalformedError(f"an inventory of the unknown form {data[0]}")
        made = cls(count)
        for start, end in decode_runs(data[1:], count):
            made._fill(start, end)
        return made

    def _fill(self, start: int, end: int) -> None:
        """Add a run of numbers that are not in yet. Six bytes may speak of millions, so not one by one."""
        first, last = start >> 3, (end - 1) >> 3
        head, tail = 0xFF << (start & 7) & 0xFF, 0xFF >> (7 - (end - 1 & 7))
        if first == last:
            self._bits[first] |= head & tail
        else:
            self._bits[first] |= head
            self._bits[first + 1 : last] = b"\xff" * (last - first - 1)
            self._bits[last] |= tail
        self._held += end - start


def encode_runs(members: Iterable[int]) -> bytes:
    """Numbers as pairs of varints, ascending: how many are skipped, then how many follow."""
    parts = bytearray()
    start = end = written = 0  # The run that is open; what lies before ``written`` is told.
    for index in sorted(set(members)):
        if index == end and end > start:
            end += 1
            continue
        if end > start:
            parts += varint(start - written) + varint(end - start)
            written = end
        start, end = index, index + 1
    if end > start:
        parts += varint(start - written) + varint(end - start)
    return bytes(parts)


def decode_runs(data: bytes | memoryview, count: int) -> Iterator[tuple[int, int]]:
    """The runs (start, end) that ``encode_runs`` wrote, one at a time.

    Raises:
        MalformedError: a run is empty, touches the one before, or leaves the ``count`` chunks of the version.
    """
    place = at = 0
    while place < len(data):
        skipped, place = read_varint(data, place)
        length, place = read_varint(data, place)
        if not length or (at and not skipped) or skipped + length > count - at:
            raise MalformedError(f"an inventory has a run of {length} after {skipped} at chunk {at} of {count}")
        yield at + skipped, at + skipped + length
        at += skipped + length
