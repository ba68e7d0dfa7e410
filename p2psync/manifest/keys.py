"""Ed25519 keys: signing, verifying, and their text. The only part of this room that knows PyNaCl."""

from __future__ import annotations

import re
from typing import Final, Self

import nacl.exceptions
import nacl.signing

from p2psync.errors import BadSignatureError, UsageError

SEED_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_KEY_BYTES: Final = 32
_KEY_ID_CHARS: Final = 16
_TEXT: Final = re.compile(r"ed25519:([0-9a-f]{64})")


class VerifyKey:
    """A public key. Prints as ``ed25519:`` and 64 hex digits; equal keys are equal and hash alike."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        """Take 32 raw bytes.

        Raises:
            UsageError: ``raw`` is not 32 bytes long.
        """
        if len(raw) != _KEY_BYTES:
            raise UsageError(f"a public key has {_KEY_BYTES} bytes, not {len(raw)}")
        self._raw = bytes(raw)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``ed25519:`` and 64 lower-case hex digits.

        Raises:
            UsageError: anything else.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            hint = "p2psync key export NAME prints a key in this form"
            raise UsageError(f"not a public key (ed25519: and 64 hex digits): {text[:80]!r}", hint=hint)
        return cls(bytes.fromhex(match[1]))

    @property
    def key_id(self) -> str:
        """The first 16 hex digits: a hint by which people and programs find the key, never a proof."""
        return self._raw.hex()[:_KEY_ID_CHARS]

    def verify(self, message: bytes, signature: bytes) -> None:
        """Prove that the holder of the secret key signed ``message``.

        Raises:
            BadSignatureError: it did not, or the signature or this key is of a form that proves nothing.
        """
        try:
            nacl.signing.VerifyKey(self._raw).verify(message, signature)
        except (nacl.exceptions.CryptoError, ValueError, TypeError) as error:
            raise BadSignatureError(f"the signature does not verify under {self}") from error

    def __bytes__(self) -> bytes:
        return self._raw

    def __str__(self) -> str:
        return f"ed25519:{self._raw.hex()}"

    def __repr__(self) -> str:
        return f"<{str(self)[:24]}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerifyKey) and self._raw == other._raw

    def __hash__(self) -> int:
        return hash(self._raw)


class SigningKey:
    """A secret key. It never prints itself; ``bytes(key)`` are the 32 bytes to keep secret."""

    __slots__ = ("_seed", "verify_key")

    def __init__(self, seed: bytes) -> None:
        """Take the 32 secret bytes.

        Raises:
            UsageError: ``seed`` is not 32 bytes long.
        """
        if len(seed) != SEED_BYTES:
            raise UsageError(f"a secret key has {SEED_BYTES} bytes, not {len(seed)}")
        self._seed = bytes(seed)
        self.verify_key = VerifyKey(bytes(nacl.signing.SigningKey(self._seed).verify_key))

    @classmethod
    def generate(cls, seed: bytes) -> Self:
        """Make a new key from 32 bytes of entropy, which become the secret."""
        return cls(seed)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Take back what ``bytes(key)`` gave."""
        return cls(raw)

    def sign(self, message: bytes) -> bytes:
        """The signature of ``message``: 64 bytes, without the message."""
        return nacl.signing.SigningKey(self._seed).sign(message).signature

    def __bytes__(self) -> bytes:
        return self._seed

    def __repr__(self) -> str:
        return f"<SigningKey of {self.verify_key}>"
