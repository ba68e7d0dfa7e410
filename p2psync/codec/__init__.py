"""How the bytes of a chunk shrink, exactly. Pure; numpy and the entropy coders load with the first chunk.

An encoded chunk is the number of its form, the code of its dtype's layout, and the body of the form. Whatever bytes a
decoder is given, it returns as many bytes as were asked for or refuses them, and never takes more memory than these ask
for; that they are the right bytes is for their digest to say.
"""

from __future__ import annotations

from collections.abc import Sequence

from p2psync.codec.form import BASES, HEAD_BYTES, NO_LAYOUT, Form
from p2psync.codec.layout import LAYOUTS, Layout
from p2psync.errors import MalformedError
from p2psync.limits import CHUNK_BYTES

__all__ = ["Form", "decode", "encode_delta", "encode_full", "encode_residual"]

Data = bytes | bytearray | memoryview
_LAYOUT_OF = {layout.code: layout for layout in LAYOUTS.values()}


def encode_full(raw: Data, dtype: str) -> bytes | None:
    """A chunk by itself; None where that is not shorter than ``raw``.

    Args:
        raw: 1 byte to 1 MiB of elements, little endian, which may end inside an element.
        dtype: As safetensors names it; one that has no layout of its own is taken as bytes.
    """
    from p2psync.codec import full

    return full.encode_full(raw, dtype)


def encode_delta(raw: Data, base: Data, dtype: str) -> bytes | None:
    """A chunk against the one that stood at its place; None where that is not shorter than ``raw``.

    Args:
        raw: As for ``encode_full``; no delta is made where it is no whole elements, or its dtype has no layout.
        base: As many bytes of the same dtype.
        dtype: Of both.
    """
    from p2psync.codec import deltas

    return deltas.encode_delta(raw, base, dtype)


def encode_residual(
    raw: Data, codes: Data, scales: Data, row_elements: int, first_element: int, dtype: str
) -> bytes | None:
    """A chunk of BF16 or F16 against its INT8 codes; None where that is not shorter than ``raw``.

    Args:
        raw: As for ``encode_full``.
        codes: One signed byte for each element of ``raw``.
        scales: F32, finite, each zero or normal: of element i that at ``(first_element + i) // row_elements``, modulo
            how many there are.
        row_elements: How many elements that follow each other share a scale: the length of a row where rows have scales
            of their own, 1 where columns have.
        first_element: Which element of the first row ``raw`` begins with.
        dtype: BF16 or F16.
    """
    from p2psync.codec import residual

    return residual.encode_residual(raw, codes, scales, row_elements, first_element, dtype)


def decode(encoded: Data, bases: Sequence[Data], raw_bytes: int) -> bytearray:
    """The chunk of ``raw_bytes`` bytes that ``encoded`` stands for.

    Args:
        encoded: What an encoder above returned.
        bases: Nothing for a full form, the base for a delta, codes and scales for a residual: as the encoder had them.
        raw_bytes: The length of the chunk.

    Raises:
        MalformedError: these are no bytes and bases of a chunk of this length.
    """
    if not 0 < raw_bytes <= CHUNK_BYTES or not HEAD_BYTES < len(encoded) < raw_bytes:
        raise MalformedError(f"{len(encoded)} bytes encode no chunk of {raw_bytes} bytes")
    number, code = encoded[0], encoded[1]
    if number not in list(Form):
        raise MalformedError(f"an encoded chunk of the unknown form {number}")
    form, layout = Form(number), _LAYOUT_OF.get(code)
    if layout is None and (code != NO_LAYOUT or form is not Form.PACKED):
        raise MalformedError(f"an encoded chunk of form {form.name} and the dtype {code}")
    if len(bases) != BASES[form]:
        raise MalformedError(f"an encoded chunk of form {form.name} and {len(bases)} bases")
    body = memoryview(encoded)[HEAD_BYTES:]
    if layout is None or form is Form.PACKED:
        from p2psync.codec import packed

        return packed.decode(body, raw_bytes)
    return _decode(form, body, bases, layout, raw_bytes)


def _decode(form: Form, body: memoryview, bases: Sequence[Data], layout: Layout, raw_bytes: int) -> bytearray:
    from p2psync.codec import difference, narrow, planes, residual, sparse, tight

    if form is Form.PLANES:
        return planes.decode(body, layout, raw_bytes)
    if form is Form.NARROW:
        return narrow.decode(body, layout, raw_bytes)
    if form is Form.RESIDUAL:
        return residual.decode(body, bases[0], bases[1], layout, raw_bytes)
    if len(bases[0]) != raw_bytes:
        raise MalformedError(f"a base of {len(bases[0])} bytes for a chunk of {raw_bytes}")
    if form is Form.SPARSE:
        return sparse.decode(body, bases[0], layout)
    if form is Form.DIFFERENCE:
        return difference.decode(body, bases[0], layout)
    return tight.decode(body, bases[0], layout)
