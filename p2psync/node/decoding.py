"""Turn encoded chunks into the chunks that they stand for, with what is on this disk."""

from __future__ import annotations

from collections.abc import Mapping

from p2psync import codec
from p2psync.content import Digest
from p2psync.errors import IntegrityError, UndecodableError
from p2psync.manifest import Chunk, Encoded, Piece
from p2psync.store import Incoming, Store
from p2psync.swarm import Choice


class Decoder:
    """The encoded chunks that one pull may fetch, by number, and the way back to their chunks. Safe from any thread."""

    def __init__(self, store: Store, root: Digest, choices: Mapping[int, Choice]) -> None:
        self._store = store
        self._root = root
        self._choices = choices

    def rows(self) -> dict[int, Encoded]:
        """The encoded chunks, by number."""
        return {number: choice.row for number, choice in self._choices.items() if choice.row is not None}

    def chunk_of(self, number: int) -> Chunk | None:
        """The chunk that an encoded chunk stands for; None for a number that is a chunk itself."""
        choice = self._choices.get(number)
        return choice.chunk if choice is not None else None

    def is_patch(self, number: int) -> bool:
        """Whether this is an encoded chunk whose decoding needs bytes that are here."""
        choice = self._choices.get(number)
        return choice is not None and choice.row is not None and bool(choice.row.bases)

    def decode(self, number: int, data: memoryview) -> bytearray:
        """The bytes of the chunk, proved.

        Raises:
            UndecodableError: see there. A base whose bytes are wrong is withdrawn from use.
        """
        chunk, row = self._choices[number].chunk, self._row(number)
        if len(data) != row.length or data[0] != row.form:
            raise UndecodableError(f"an encoded chunk of {chunk.digest} is not of the form that was signed")
        bases = [self._read(piece) for piece in row.bases]
        try:
            raw = codec.decode(data, bases, chunk.length)
        except IntegrityError as error:
            raise UndecodableError(f"an encoded chunk of {chunk.digest} cannot be decoded: {error}") from error
        if Digest.of(raw) != chunk.digest:
            raise UndecodableError(f"an encoded chunk of {chunk.digest} gives other bytes")
        return raw

    def write(self, number: int, data: memoryview, incoming: Incoming) -> bool:
        """Decode, write, and keep the encoded chunk for others. Returns whether it can be given to them.

        Raises:
            UndecodableError: nothing was written.
            StoreError: this disk refused.
        """
        raw = self.decode(number, data)
        chunk = self._choices[number].chunk
        if not incoming.holds(chunk.index):
            incoming.write(chunk, memoryview(raw))
        return self._store.keep_encoded(self._root, number, self._row(number), data)

    def _row(self, number: int) -> Encoded:
        row = self._choices[number].row
        if row is None:
            raise ValueError(f"{number} is no encoded chunk")
        return row

    def _read(self, piece: Piece) -> bytes:
        """The bytes of a base, proved: what rots on a disk must not be taken for a publisher's mistake."""
        data = self._store.read_chunk(piece.digest)
        if data is None:
            raise UndecodableError(f"the base {piece.digest} is not here any more")
        return data if piece.is_whole else data[piece.offset : piece.offset + piece.length]


def bases_here(store: Store, row: Encoded) -> bool:
    """Whether everything that decoding needs is on this disk."""
    return all(store.has(piece.digest) for piece in row.bases)
