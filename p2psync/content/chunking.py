"""Where the bytes of a blob are cut into chunks: on a grid, or where the content says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pyfastcdc import FastCDC

from p2psync.limits import CDC_AVG_BYTES, CDC_MAX_BYTES, CDC_MIN_BYTES, CHUNK_BYTES

# Frozen in docs/format.md: another level, or another table (a seed), cuts elsewhere.
_NORMALISATION: Final = 1
_SEED: Final = 0


def grid_lengths(length: int) -> Iterator[int]:
    """Lengths of the chunks of a blob that is cut every ``CHUNK_BYTES`` from its start. None for an empty blob."""
    while length > CHUNK_BYTES:
        yield CHUNK_BYTES
        length -= CHUNK_BYTES
    if length:
        yield length


class ContentCutter:
    """Cuts a stream where its content says so (FastCDC 2020), holding less than ``CDC_MAX_BYTES`` of it.

    The chunks of a stream do not depend on the sizes in which it was fed: a chunk is cut only when all bytes that
    it could have are known, or at the end.
    """

    def __init__(self) -> None:
        self._cdc = FastCDC(
            CDC_AVG_BYTES,
            min_size=CDC_MIN_BYTES,
            max_size=CDC_MAX_BYTES,
            normalized_chunking=_NORMALISATION,
            seed=_SEED,
        )
        self._tail = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> list[memoryview]:
        """Take the next bytes of the stream and return the chunks that are complete, in order.

        Most of what is returned are views of ``data``: use them before its buffer changes.
        """
        view = memoryview(data).cast("B")
        chunks: list[memoryview] = []
        while len(self._tail) + len(view) >= CDC_MAX_BYTES:
            kept = len(self._tail)
            if not kept:
                taken = self._cut(view, len(view), chunks)
                view = view[taken:]
                break
            # Chunks that start in what was kept are cut from a copy; from there on, from the data itself.
            head = memoryview(self._tail + view[:CDC_MAX_BYTES])
            taken = self._cut(head, kept, chunks)
            self._tail = bytearray(head[taken:kept])
            view = view[max(0, taken - kept) :]
            if self._tail:
                break
        self._tail += view
        return chunks

    def finish(self) -> list[memoryview]:
        """End the stream and return the rest of its chunks. The cutter is as new."""
        rest = memoryview(self._tail)
        self._tail = bytearray()
        return [rest[c.offset : c.offset + c.length] for c in self._cdc.cut_buf(rest)]

    def _cut(self, view: memoryview, starts_before: int, chunks: list[memoryview]) -> int:
        """Append the chunks of ``view`` that start before an offset and are certain; return where they end."""
        end = 0
        for chunk in self._cdc.cut_buf(view):
            if chunk.offset >= starts_before or len(view) - chunk.offset < CDC_MAX_BYTES:
                break
            end = chunk.offset + chunk.length
            chunks.append(view[chunk.offset : end])
        return end
