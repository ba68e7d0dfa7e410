"""Which encoded chunks exist of a version: the nodes that the root's forms name, and the numbers that they give.

An encoded chunk is the bytes of a chunk in another form. It has a digest and a length of its own, so it travels, is
claimed and is proved like any chunk, and it has a number: those of a version follow its chunks' numbers, in the order
of the sets and of their rows. ``docs/format.md`` has every byte.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Any, Final

from p2psync.content import Digest
from p2psync.errors import DigestMismatchError, MalformedError
from p2psync.limits import (
    CHUNK_BYTES,
    CHUNKS_PER_VERSION_MAX,
    FORM_BASES_MAX,
    FORM_NODE_ROWS_MAX,
    FORM_SETS_MAX,
    INTEGER_MAX,
)
from p2psync.manifest import cbor, typed

FORMS_KIND: Final = 4
ROWS_KIND: Final = 5
_WORD: Final = struct.Struct(">I")


class SetKind(IntEnum):
    """What the encoded chunks of a set need. The numbers are frozen in docs/format.md."""

    FULL = 0
    DELTA = 1
    RESIDUAL = 2


@dataclass(frozen=True, slots=True)
class FormSet:
    """Encoded chunks that need the same: nothing, chunks of the version ``base``, or of another variant of this one.

    ``count`` chunks of ``raw_bytes`` are ``encoded_bytes`` in this form. ``nodes`` hold the rows,
    ``FORM_NODE_ROWS_MAX`` in each but the last, and ``firsts`` has the number of the chunk that each begins with.
    """

    kind: SetKind
    base: Digest | None
    count: int
    raw_bytes: int
    encoded_bytes: int
    nodes: tuple[Digest, ...]
    firsts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a chunk that a decoder needs. A ``length`` of 0 means the whole chunk."""

    digest: Digest
    offset: int = 0
    length: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether the chunk is needed whole."""
        return not self.length


@dataclass(frozen=True, slots=True)
class Encoded:
    """One encoded chunk: of which chunk (its number), in which form, which bytes, and what decoding needs."""

    chunk: int
    form: int
    digest: Digest
    length: int
    bases: tuple[Piece, ...] = ()


def encode_forms(sets: Sequence[FormSet]) -> bytes:
    """Write the node that the root names."""
    return cbor.encode({0: FORMS_KIND, 1: [_set_value(s) for s in sets]})


def decode_forms(data: bytes, encoded: int) -> tuple[FormSet, ...]:
    """Read the node that the root names; ``encoded`` is how many encoded chunks the root speaks of.

    Raises:
        MalformedError: it is no such node, or its sets do not add up.
    """
    node = _node(data, FORMS_KIND)
    sets = tuple(_set(value) for value in typed.array(node.get(1), "the sets of forms", FORM_SETS_MAX))
    cbor.require_same(encode_forms(sets), data)
    if sum(s.count for s in sets) != encoded:
        raise MalformedError(f"forms of {sum(s.count for s in sets)} encoded chunks, and the root speaks of {encoded}")
    kinds = [(s.kind, s.base) for s in sets]
    if len(set(kinds)) != len(kinds):
        raise MalformedError("two sets of forms need the same")
    return sets


def encode_rows(rows: Sequence[Encoded]) -> bytes:
    """Write some rows of a set, ascending by chunk."""
    node: dict[int, Any] = {
        0: ROWS_KIND,
        1: b"".join(_WORD.pack(row.chunk) for row in rows),
        2: b"".join(row.digest for row in rows),
        3: b"".join(_WORD.pack(row.length) for row in rows),
        4: bytes(row.form for row in rows),
    }
    if all(len(row.bases) == 1 and row.bases[0].is_whole for row in rows):
        node[5] = b"".join(row.bases[0].digest for row in rows)
    elif any(row.bases for row in rows):
        node[6] = [[v for p in row.bases for v in (p.digest, p.offset, p.length)] for row in rows]
    return cbor.encode(node)


def decode_rows(data: bytes, chunks: int) -> tuple[Encoded, ...]:
    """Read some rows of a set of a version that has ``chunks`` chunks.

    Raises:
        MalformedError: it is no such node, or a row names what cannot be.
    """
    node = _node(data, ROWS_KIND)
    numbers = _words(node.get(1), "the chunks of a form")
    digests = typed.digests(node.get(2), "the digests of a form", FORM_NODE_ROWS_MAX)
    lengths = _words(node.get(3), "the lengths of a form")
    forms = typed.octets(node.get(4), "the forms of a set")
    if not 0 < len(numbers) <= FORM_NODE_ROWS_MAX or not len(numbers) == len(digests) == len(lengths) == len(forms):
        raise MalformedError("the columns of a set of forms are not equally long")
    if numbers[-1] >= chunks or any(a >= b for a, b in pairwise(numbers)):
        raise MalformedError(f"a set of forms names chunks that do not ascend, or past the {chunks} of the version")
    if not (min(lengths) > 0 and max(lengths) < CHUNK_BYTES):
        raise MalformedError("an encoded chunk is empty or not smaller than a chunk may be")
    bases = list(_bases(node, len(numbers)))
    rows = tuple(map(Encoded, numbers, forms, digests, lengths, bases))
    cbor.require_same(encode_rows(rows), data)
    return rows


def _bases(node: dict[int, Any], count: int) -> Iterator[tuple[Piece, ...]]:
    if 5 in node:
        digests = typed.digests(node[5], "the bases of a form", FORM_NODE_ROWS_MAX)
        if len(digests) != count:
            raise MalformedError("the columns of a set of forms are not equally long")
        return ((Piece(digest),) for digest in digests)
    if 6 not in node:
        return iter([()] * count)
    rows = typed.array(node[6], "the bases of a form", FORM_NODE_ROWS_MAX)
    if len(rows) != count:
        raise MalformedError("the columns of a set of forms are not equally long")
    return (_pieces(typed.array(row, "the bases of a chunk", 3 * FORM_BASES_MAX)) for row in rows)


def _pieces(values: list[Any]) -> tuple[Piece, ...]:
    if len(values) % 3:
        raise MalformedError("the bases of an encoded chunk are not whole pieces")
    return tuple(_piece(*values[i : i + 3]) for i in range(0, len(values), 3))


def _piece(digest: Any, offset: Any, length: Any) -> Piece:
    piece = Piece(
        typed.digest(digest, "the base of a chunk"),
        typed.integer(offset, "the offset in a base", CHUNK_BYTES),
        typed.integer(length, "the length in a base", CHUNK_BYTES),
    )
    if piece.offset + piece.length > CHUNK_BYTES or (piece.offset and not piece.length):
        raise MalformedError("a base ends past its chunk")
    return piece


class FormsReader:
    """Collects the nodes of the forms that somebody wants, from anybody, with no I/O of its own.

    Ask ``missing``, ``feed`` in any order, until ``missing`` is empty, like a ``TreeReader``; then ``rows``.
    """

    def __init__(
        self, forms: Digest, encoded: int, chunks: int, wants: Callable[[FormSet, int, int], bool] | None = None
    ) -> None:
        """Begin.

        Args:
            forms: What the root names.
            encoded: How many encoded chunks the root speaks of.
            chunks: How many chunks the version has.
            wants: Says of each node whether its rows are to be read, by its set, the number of its first chunk, and a
                number that all of its chunks are below. None wants all.
        """
        self._top = forms
        self._encoded = encoded
        self._chunks = chunks
        self._wants = wants
        self._wanted = {forms: None}
        self._nodes: dict[Digest, bytes] = {}
        self._rows: dict[Digest, tuple[Encoded, ...]] = {}
        self.sets: tuple[FormSet, ...] = ()

    def missing(self) -> list[Digest]:
        """The nodes that are wanted next."""
        return list(self._wanted)

    def feed(self, digest: Digest, data: bytes) -> None:
        """Take one wanted node.

        Raises:
            DigestMismatchError: ``data`` does not hash to ``digest``: whoever sent it is at fault. Still wanted.
            MalformedError: it is not what it must be; its publisher is at fault.
        """
        if digest not in self._wanted:
            return
        if Digest.of(data) != digest:
            raise DigestMismatchError(f"these {len(data)} bytes are not node {digest}")
        if digest == self._top:
            self.sets = decode_forms(data, self._encoded)
            self._look(self._wants)
        else:
            self._rows[digest] = decode_rows(data, self._chunks)
        del self._wanted[digest]
        self._nodes[digest] = bytes(data)

    def widen(self, wants: Callable[[FormSet, int, int], bool]) -> None:
        """Want these nodes too, as in the beginning. Feed them, then ask for ``rows`` again."""
        self._look(wants)

    def _look(self, wants: Callable[[FormSet, int, int], bool] | None) -> None:
        for one in self.sets:
            ends = (*one.firsts[1:], self._chunks)
            for node, first, end in zip(one.nodes, one.firsts, ends, strict=True):
                if node not in self._rows and (wants is None or wants(one, first, end)):
                    self._wanted[node] = None

    def nodes(self) -> dict[Digest, bytes]:
        """What was fed."""
        return dict(self._nodes)

    def rows(self) -> Iterator[tuple[int, FormSet, Encoded]]:
        """(number, set, encoded chunk) of every row that was read, in the order of their numbers.

        Raises:
            MalformedError: a node holds other rows than its set says.
        """
        start = self._chunks
        for one in self.sets:
            for place, node in enumerate(one.nodes):
                rows = self._rows.get(node)
                if rows is not None:
                    _check_rows(one, place, rows)
                    number = start + place * FORM_NODE_ROWS_MAX
                    yield from ((number + i, one, row) for i, row in enumerate(rows))
            start += one.count


def build_forms(
    sets: Iterable[tuple[SetKind, Digest | None, int, Sequence[Encoded]]],
) -> tuple[dict[Digest, bytes], Digest | None, int]:
    """Write the nodes of some sets, each (kind, base, raw bytes, rows); returns them, which is on top, and the count.

    Sets without rows are left out. None is on top where no set is left.
    """
    nodes: dict[Digest, bytes] = {}
    made = []
    for kind, base, raw_bytes, rows in sets:
        if not rows:
            continue
        parts = [encode_rows(rows[i : i + FORM_NODE_ROWS_MAX]) for i in range(0, len(rows), FORM_NODE_ROWS_MAX)]
        digests = tuple(Digest.of(part) for part in parts)
        nodes |= dict(zip(digests, parts, strict=True))
        firsts = tuple(row.chunk for row in rows[::FORM_NODE_ROWS_MAX])
        made.append(FormSet(kind, base, len(rows), raw_bytes, sum(row.length for row in rows), digests, firsts))
    if not made:
        return {}, None, 0
    top = encode_forms(made)
    nodes[Digest.of(top)] = top
    return nodes, Digest.of(top), sum(s.count for s in made)


def _check_rows(one: FormSet, place: int, rows: Sequence[Encoded]) -> None:
    """Demand that a node holds the rows that its set says stand there."""
    due = min(FORM_NODE_ROWS_MAX, one.count - place * FORM_NODE_ROWS_MAX)
    end = one.firsts[place + 1] if place + 1 < len(one.firsts) else None
    if len(rows) != due or rows[0].chunk != one.firsts[place] or (end is not None and rows[-1].chunk >= end):
        raise MalformedError(f"a set of {one.count} encoded chunks has a node with other rows than it says")
    if any(bool(row.bases) == (one.kind is SetKind.FULL) for row in rows):
        raise MalformedError("a set of forms needs other bases than its kind says")


def _set_value(one: FormSet) -> list[Any]:
    firsts = b"".join(map(_WORD.pack, one.firsts))
    return [one.kind, one.base or b"", one.count, one.raw_bytes, one.encoded_bytes, b"".join(one.nodes), firsts]


def _set(value: Any) -> FormSet:
    values = typed.array(value, "a set of forms", 7)
    if len(values) != 7:
        raise MalformedError(f"a set of forms of {len(values)} fields; 7 are due")
    kind = typed.integer(values[0], "the kind of a set of forms", len(SetKind) - 1)
    base = typed.digest(values[1], "the base of a set of forms") if values[1] != b"" else None
    if (kind == SetKind.DELTA) != (base is not None):
        raise MalformedError("a set of deltas names no base, or another set does")
    count = typed.integer(values[2], "the count of a set of forms", CHUNKS_PER_VERSION_MAX)
    nodes = typed.digests(values[5], "the nodes of a set of forms")
    if not count or len(nodes) != -(-count // FORM_NODE_ROWS_MAX) or len(set(nodes)) != len(nodes):
        raise MalformedError(f"a set of {count} encoded chunks in {len(nodes)} nodes")
    firsts = _words(values[6], "the first chunks of a set of forms")
    if len(firsts) != len(nodes) or any(a >= b for a, b in pairwise(firsts)):
        raise MalformedError("the first chunks of a set of forms do not ascend")
    raw_bytes = typed.integer(values[3], "the bytes of a set of forms", INTEGER_MAX)
    encoded_bytes = typed.integer(values[4], "the encoded bytes of a set", INTEGER_MAX)
    if not count <= encoded_bytes < raw_bytes:
        raise MalformedError(f"a set of forms in which {raw_bytes} bytes are {encoded_bytes} in {count} chunks")
    return FormSet(SetKind(kind), base, count, raw_bytes, encoded_bytes, nodes, firsts)


def _words(value: Any, what: str) -> tuple[int, ...]:
    packed = typed.octets(value, what)
    if len(packed) % _WORD.size:
        raise MalformedError(f"{what}: {len(packed)} bytes are no numbers")
    return tuple(number for (number,) in _WORD.iter_unpack(packed))


def _node(data: bytes, kind: int) -> dict[int, Any]:
    node = cbor.decode(data)
    if not isinstance(node, dict) or type(node.get(0)) is not int or node.pop(0) != kind:
        raise MalformedError(f"a node of kind {kind} is due")
    return node
