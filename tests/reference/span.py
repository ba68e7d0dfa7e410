"""What a file is cut into, and what is refused of names and shapes in every format."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tests.reference import values
from tests.reference.cursor import require

BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}


@dataclass(frozen=True)
class Span:
    """A blob's place in a file; ``name``, ``dtype`` and ``shape`` are those of a tensor."""

    kind: str
    length: int
    name: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, order=True)
class Tensor:
    """Where a tensor says that it stands, in bytes from where its format counts."""

    offset: int
    length: int
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        """The byte behind it."""
        return self.offset + self.length

    @property
    def span(self) -> Span:
        """Its place in the file."""
        return Span("TENSOR", self.length, self.name, self.dtype, self.shape)


def bytes_of(shape: Sequence[int], block: int, block_bits: int) -> int:
    """Bytes of a tensor whose blocks of ``block`` elements have so many bits, the last byte filled up.

    Raises:
        RefusedError: It is a giant, or would be one with elements in every dimension.
    """
    require(len(shape) <= 64, "over 64 dimensions")
    require(all(0 <= side < 2**63 for side in shape), "a dimension of 2^63 or more")
    most = math.prod(side for side in shape if side)
    require(most * block_bits < 2**63 * 8 * block, "a tensor of 2^63 bytes or more")
    return -(-math.prod(shape) * block_bits // (8 * block))


def check_tensors(names: Sequence[str]) -> None:
    """Names that are allowed, each once.

    Raises:
        RefusedError: One is not.
    """
    require(len(names) <= 65_536, "over 65,536 tensors")
    for name in names:
        values.tensor_name(name)
    require(len(set(names)) == len(names), "two tensors of one name")
