"""Hides which of the delta forms a chunk takes: the smallest."""

from __future__ import annotations

from typing import Final

from p2psync.codec import difference, sparse, tight
from p2psync.codec.difference import Data
from p2psync.codec.form import Form
from p2psync.codec.layout import LAYOUTS

# A sparse delta is read several times faster than another, which must be smaller than this share of it.
_WORTH: Final = 0.95


def encode_delta(raw: Data, base: Data, dtype: str) -> bytes | None:
    """The smallest delta form of ``raw`` against ``base``, or None where none is shorter than ``raw``.

    Lengths that differ, that are no whole elements, or a dtype without a layout have no delta.
    """
    layout = LAYOUTS.get(dtype)
    if layout is None or len(raw) != len(base):
        return None
    sorted_or_plain, number = tight.encode(raw, base, layout), Form.TIGHT
    if sorted_or_plain is None:
        sorted_or_plain, number = difference.encode(raw, base, layout), Form.DIFFERENCE
    few = sparse.encode(raw, base, layout)
    if few is not None and sorted_or_plain is not None and len(few) * _WORTH <= len(sorted_or_plain):
        sorted_or_plain, number = few, Form.SPARSE
    if sorted_or_plain is None or len(sorted_or_plain) + 2 >= len(raw):
        return None
    return bytes((number, layout.code)) + sorted_or_plain
