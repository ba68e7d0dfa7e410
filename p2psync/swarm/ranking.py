"""An order of nodes and chunks that every node computes alike, from digests that all of them know (HRW hashing)."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from typing import Final

from p2psync.content import Digest
from p2psync.limits import BATCH_CHUNK_BYTES_MAX, CHUNK_BYTES
from p2psync.manifest import Chunk

_MASK: Final = (1 << 64) - 1
# Odd, from the golden ratio: multiplying by it spreads every bit of a product into its upper half (Fibonacci hashing).
_SPREAD: Final = 0x9E37_79B9_7F4A_7C15


def salt_of(node: str, root: Digest) -> int:
    """What stands for a node in the ranks of one version: no node is first everywhere."""
    return int.from_bytes(hashlib.blake2b(node.encode() + b"\0" + root, digest_size=8).digest(), "little")


def rank(salt: int, key: int) -> int:
    """How much a chunk belongs to a node, 0 to 2^64 - 1; the same on every node (rendezvous hashing, Thaler 1998)."""
    mixed = ((salt ^ key) * _SPREAD) & _MASK
    return ((mixed ^ (mixed >> 32)) * _SPREAD) & _MASK


class Keys:
    """The key of each chunk of a version, for ``rank``.

    Small chunks that follow each other share a key, so that they are claimed, and travel, together.
    """

    def __init__(self, table: Sequence[Chunk]) -> None:
        self._keys = array("Q")
        group_bytes = CHUNK_BYTES
        key = 0
        for chunk in table:
            if chunk.length >= BATCH_CHUNK_BYTES_MAX or group_bytes + chunk.length > CHUNK_BYTES:
                key = int.from_bytes(chunk.digest[:8], "little")
                group_bytes = 0
            group_bytes += chunk.length if chunk.length < BATCH_CHUNK_BYTES_MAX else CHUNK_BYTES
            self._keys.append(key)

    def __getitem__(self, index: int) -> int:
        return self._keys[index]

    def __len__(self) -> int:
        return len(self._keys)
