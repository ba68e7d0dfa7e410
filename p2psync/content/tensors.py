"""What the tensors of every format have in common: which names are sound, and how many bytes elements take."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from p2psync.limits import TENSOR_NAME_BYTES_MAX

# Bits of one element, by the names of the safetensors format.
DTYPE_BITS: Final[Mapping[str, int]] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}

# Control characters, marks that reorder or break a printed line, and halves of surrogate pairs.
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_EXTENT_BITS_MAX: Final = (1 << 63) * 8


def name_fault(name: str) -> str | None:
    """Why ``name`` is no sound name of a tensor, as the end of a sentence; None where it is one.

    Loaders turn these names into paths and print them, so a name must be neither able to leave a directory nor
    to hide what it is.
    """
    if not name:
        return "is empty"
    if name.startswith("/"):
        return "starts with /"
    if "\\" in name:
        return "contains a backslash"
    if _UNPRINTABLE.search(name):
        return "contains an unprintable character"
    if ".." in name and ".." in name.split("/"):
        return "contains a .. part"
    if len(name) * 4 > TENSOR_NAME_BYTES_MAX and len(name.encode()) > TENSOR_NAME_BYTES_MAX:
        return f"is longer than {TENSOR_NAME_BYTES_MAX} bytes"
    return None


def tensor_bits(shape: Iterable[int], bits: int) -> int | None:
    """Bits of a tensor whose elements take ``bits`` each; None where its extent overflows 63-bit byte counts.

    A dimension of 0 does not excuse the others: libraries multiply them before they see the 0.
    """
    total = extent = bits
    for dimension in shape:
        total *= dimension
        extent *= dimension or 1
        if extent >= _EXTENT_BITS_MAX:
            return None
    return total
