"""Encoded chunks: the form and the dtype in front, and what is refused in every form."""

from __future__ import annotations

from collections.abc import Sequence

from tests.reference.cursor import Cursor, require
from tests.reference.deltas import difference, sparse
from tests.reference.element import ELEMENTS
from tests.reference.packed import packed
from tests.reference.planes import narrow, planes
from tests.reference.residual import residual
from tests.reference.tight import tight

_CHUNK_MAX = 1 << 20
_BASES = {1: 0, 2: 0, 3: 0, 4: 1, 5: 1, 6: 1, 7: 2}
_DELTAS = {4: sparse, 5: difference, 6: tight}


def decode(encoded: bytes, bases: Sequence[bytes], raw_bytes: int) -> bytes:
    """The chunk of ``raw_bytes`` bytes that an encoded chunk and its bases give.

    Raises:
        RefusedError: They give none.
    """
    require(1 <= raw_bytes <= _CHUNK_MAX, "a length of the chunk")
    require(len(encoded) < raw_bytes, "an encoded chunk that is not shorter")
    cursor = Cursor(encoded)
    form, dtype = cursor.number(1), cursor.number(1)
    require(form in _BASES, "a form that is not known")
    require(dtype in ELEMENTS or (dtype == 0 and form == 2), "a dtype that is not known")
    require(cursor.left, "no body")
    require(len(bases) == _BASES[form], "another number of bases")
    found = _chunk(form, dtype, cursor.rest(), bases, raw_bytes)
    require(len(found) == raw_bytes, "another length than the chunk's")
    return found


def _chunk(form: int, dtype: int, body: bytes, bases: Sequence[bytes], raw_bytes: int) -> bytes:
    if form == 1:
        return planes(body, dtype, raw_bytes)
    if form == 2:
        return packed(body, raw_bytes)
    if form == 3:
        return narrow(body, dtype, raw_bytes)
    if form == 7:
        return residual(body, dtype, bases[0], bases[1], raw_bytes)
    require(len(bases[0]) == raw_bytes, "a base of another length")
    return _DELTAS[form](body, ELEMENTS[dtype], bases[0])
