"""Which encoded chunks a version has, and what each needs: nodes of kinds 4 and 5."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tests.reference import values
from tests.reference.cursor import require
from tests.reference.nodes import Fetch, Nodes
from tests.reference.version import Version

_SETS_MAX = 66
_ROWS = 1024
_PIECES_MAX = 4
_ENCODED_MAX = (1 << 20) - 1


@dataclass(frozen=True)
class Piece:
    """Bytes of a chunk that a form needs; offset and length 0 mean all of it."""

    digest: bytes
    offset: int = 0
    length: int = 0


@dataclass(frozen=True)
class Row:
    """An encoded chunk: ``number`` is that of the chunk that it gives."""

    kind: int
    base: bytes
    number: int
    form: int
    digest: bytes
    length: int
    needs: tuple[Piece, ...]


def read_forms(version: Version, fetch: Fetch) -> list[Row]:
    """All encoded chunks of a version, in the order of their numbers.

    Raises:
        RefusedError: The nodes break a rule of the page.
    """
    if version.forms is None:
        return []
    nodes = Nodes(fetch)
    sets = values.listed(nodes.get(version.forms, 4, {1}).get(1))
    require(1 <= len(sets) <= _SETS_MAX, "1 to 66 sets")
    rows = []
    seen = set()
    for row in sets:
        found = values.listed(row)
        require(len(found) == 7, "a set of 7 values")
        kind = values.whole(found[0], 2)
        require(isinstance(found[1], bytes) and len(found[1]) == (32 if kind == 1 else 0), "the base of a set")
        require((kind, found[1]) not in seen, "two sets of one kind and base")
        seen.add((kind, found[1]))
        rows += _set(nodes, found, version)
    require(len(rows) == version.encoded, "another count than the root's")
    return rows


def _set(nodes: Nodes, found: list[Any], version: Version) -> list[Row]:
    count = values.whole(found[2], 1 << 22, 1)
    parts, firsts = values.digests(found[5]), values.numbers(found[6])
    require(len(set(parts)) == len(parts) == len(firsts) == -(-count // _ROWS), "the nodes of a set")
    require(count <= values.whole(found[4], 2**63 - 1) < values.whole(found[3], 2**63 - 1), "the bytes of a set")
    rows: list[Row] = []
    for part, first in zip(parts, firsts, strict=True):
        due = min(_ROWS, count - len(rows))
        new = _rows(nodes, part, found[0], found[1])
        require(len(new) == due and new[0].number == first, "rows of a node")
        rows += new
    require(all(low.number < high.number for low, high in pairwise(rows)), "rows that do not ascend")
    require(rows[-1].number < len(version.chunks()), "a row of a chunk that is not there")
    return rows


def _rows(nodes: Nodes, digest: bytes, kind: int, base: bytes) -> list[Row]:
    node = nodes.get(digest, 5, range(1, 7))
    numbers, names, lengths = values.numbers(node.get(1)), values.digests(node.get(2)), values.numbers(node.get(3))
    forms = node.get(4)
    require(isinstance(forms, bytes), "forms")
    require(len(numbers) == len(names) == len(lengths) == len(forms or b""), "columns of several lengths")
    require(all(1 <= length <= _ENCODED_MAX for length in lengths), "the length of an encoded chunk")
    needs = _needs(node, len(numbers))
    require(all(bool(pieces) == (kind != 0) for pieces in needs), "what rows of this kind need")
    columns = zip(numbers, forms or b"", names, lengths, needs, strict=True)
    return [Row(kind, base, *row) for row in columns]


def _needs(node: dict[int, Any], count: int) -> list[tuple[Piece, ...]]:
    require(not {5, 6} <= set(node), "keys 5 and 6")
    if 5 in node:
        wholes = values.digests(node[5])
        require(len(wholes) == count, "another number of bases")
        return [(Piece(digest),) for digest in wholes]
    if 6 not in node:
        return [()] * count
    found = [_pieces(values.listed(row)) for row in values.listed(node[6])]
    require(len(found) == count, "another number of needs")
    plain = all(len(pieces) == 1 and pieces[0].length == 0 for pieces in found)
    require(not plain, "rows that key 5 would tell")
    return found


def _pieces(flat: list[Any]) -> tuple[Piece, ...]:
    require(len(flat) % 3 == 0 and 1 <= len(flat) // 3 <= _PIECES_MAX, "up to four pieces")
    found = []
    for at in range(0, len(flat), 3):
        offset, length = values.whole(flat[at + 1], 1 << 20), values.whole(flat[at + 2], 1 << 20)
        require(length or not offset, "an empty piece")
        require(offset + length <= 1 << 20, "a piece behind the end of a chunk")
        found.append(Piece(values.digest(flat[at]), offset, length))
    return tuple(found)
