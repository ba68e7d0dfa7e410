"""Hides which of the full forms a chunk takes."""

from __future__ import annotations

from p2psync.codec import narrow, packed, planes
from p2psync.codec.difference import Data
from p2psync.codec.form import NO_LAYOUT, Form
from p2psync.codec.layout import LAYOUTS, Layout
from p2psync.limits import CHUNK_BYTES


def encode_full(raw: Data, dtype: str) -> bytes | None:
    """The full form of ``raw``, or None where it is not shorter than ``raw``, or where ``raw`` is no chunk."""
    if not 0 < len(raw) <= CHUNK_BYTES:
        return None
    layout = LAYOUTS.get(dtype)
    form, body = _body(raw, layout)
    if body is None or len(body) + 2 >= len(raw):
        return None
    return bytes((form, layout.code if layout is not None else NO_LAYOUT)) + body


def _body(raw: Data, layout: Layout | None) -> tuple[Form, bytes | None]:
    if layout is None or not planes.fits(len(raw), layout):
        return Form.PACKED, packed.encode(raw, layout)
    body = narrow.encode(raw, layout)
    if body is not None:
        return Form.NARROW, body
    return Form.PLANES, planes.encode(raw, layout)
