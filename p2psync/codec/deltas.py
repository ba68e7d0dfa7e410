"""Hides which of the delta forms a chunk takes: the smallest, unless a much faster one is nearly as small."""

from __future__ import annotations

from typing import Final

from p2psync.codec import difference, sparse, tight
from p2psync.codec.difference import Data
from p2psync.codec.form import HEAD_BYTES, Form
from p2psync.codec.layout import LAYOUTS, Layout
from p2psync.limits import CHUNK_BYTES

# A sparse delta is read several times faster than another, which must be smaller than this share of it.
_WORTH: Final = 0.95


def encode_delta(raw: Data, base: Data, dtype: str) -> bytes | None:
    """The delta form of ``raw`` against ``base``, or None where it is not shorter than ``raw``.

    Lengths that differ, that are no whole elements or no chunk's, and dtypes without a layout have no delta.
    """
    layout = LAYOUTS.get(dtype)
    if layout is None or len(raw) != len(base) or len(raw) > CHUNK_BYTES:
        return None
    form, body = _dense(raw, base, layout)
    if body is None:
        return None
    few = sparse.encode(raw, base, layout)
    if few is not None and len(few) * _WORTH <= len(body):
        form, body = Form.SPARSE, few
    return bytes((form, layout.code)) + body if len(body) + HEAD_BYTES < len(raw) else None


def _dense(raw: Data, base: Data, layout: Layout) -> tuple[Form, bytes | None]:
    """All differences, sorted where that promises to be worth its time; None where there is no whole element."""
    body = tight.encode(raw, base, layout)
    if body is not None:
        return Form.TIGHT, body
    return Form.DIFFERENCE, difference.encode(raw, base, layout)
