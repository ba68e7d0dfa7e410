"""The name of bytes: a BLAKE3 digest of 32 bytes, printed as ``b3:`` and 64 hex digits."""

from __future__ import annotations

import re
from typing import Final, Self

from blake3 import blake3

from p2psync.errors import MalformedError

DIGEST_BYTES: Final = 32
_TEXT: Final = re.compile(r"b3:([0-9a-f]{64})")


class Digest(bytes):
    """32 bytes that name other bytes. Equal digests mean equal bytes (BLAKE3, https://github.com/BLAKE3-team)."""

    __slots__ = ()

    def __new__(cls, raw: bytes) -> Self:
        """Take 32 raw bytes.

        Raises:
            MalformedError: ``raw`` is not 32 bytes long.
        """
        if len(raw) != DIGEST_BYTES:
            raise MalformedError(f"a digest has {DIGEST_BYTES} bytes, not {len(raw)}")
        return super().__new__(cls, raw)

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview) -> Self:
        """Hash ``data``. A chunk of 1 MiB takes about 0.16 ms, so it may run inside an event loop."""
        return cls(blake3(data).digest())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``b3:`` and 64 lower-case hex digits.

        Raises:
            MalformedError: anything else.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise MalformedError(f"not a digest (b3: and 64 hex digits): {text[:80]!r}")
        return cls(bytes.fromhex(match[1]))

    def __str__(self) -> str:
        return f"b3:{self.hex()}"

    def __repr__(self) -> str:
        return f"<{str(self)[:15]}>"
