"""The secret keys of this home, one file each."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from p2psync.errors import NotFoundError, StoreError, UsageError
from p2psync.limits import KEY_NAME_CHARS_MAX
from p2psync.manifest import SEED_BYTES, SigningKey, VerifyKey
from p2psync.trust.private import alone_in, read_private, settle, write_private

_SUFFIX: Final = ".key"
_NAME: Final = re.compile(rf"[a-z0-9_][a-z0-9._-]{{0,{KEY_NAME_CHARS_MAX - 1}}}")
_CONTENT: Final = re.compile(rb"p2psync-secret-ed25519:([0-9a-f]{64})\n")


class Keyring:
    """Makes and reads the keys in ``folder``: 0600 files in a 0700 folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def new(self, name: str) -> VerifyKey:
        """Make a key and keep it durably.

        Raises:
            UsageError: ``name`` is no name for a key, or a key has it already. Nothing was written.
            StoreUnwritableError: the disk refused. Nothing was written.
        """
        path = self._path(name)
        key = SigningKey.generate(os.urandom(SEED_BYTES))
        with alone_in(self._folder):
            if os.path.lexists(path):
                settle(self._folder)
                raise UsageError(f"there is a key named {name}, and it stays", hint=f"p2psync key export {name}")
            write_private(path, b"p2psync-secret-ed25519:%s\n" % bytes(key).hex().encode(), new=True)
        return key.verify_key

    def names(self) -> list[str]:
        """The names of all keys, sorted.

        Raises:
            StoreError: the folder cannot be read.
        """
        try:
            entries = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"cannot read {self._folder}: {error.strerror or error}") from error
        names = (entry.removesuffix(_SUFFIX) for entry in entries if entry.endswith(_SUFFIX))
        return sorted(name for name in names if _NAME.fullmatch(name))

    def verify_key(self, name: str) -> VerifyKey:
        """The public half of a key. Raises what ``signing_key`` raises."""
        return self.signing_key(name).verify_key

    def signing_key(self, name: str) -> SigningKey:
        """The secret half of a key.

        Raises:
            UsageError: ``name`` is no name for a key.
            NotFoundError: there is no such key.
            StoreError: its file is garbled, cannot be read, or could be read or written by others.
        """
        path = self._path(name)
        data = read_private(path, secret=True)
        if data is None:
            raise NotFoundError(f"there is no key named {name}", hint=f"p2psync key new {name}")
        match = _CONTENT.fullmatch(data)
        if match is None:
            raise StoreError(f"{path} holds no key", hint="restore it from a copy; a new key must be trusted anew")
        return SigningKey.from_bytes(bytes.fromhex(match[1].decode()))

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            text = f"the key name {name[:80]!r} is not 1 to {KEY_NAME_CHARS_MAX} of a-z, 0-9, dot, underscore and dash"
            raise UsageError(text)
        return self._folder / f"{name}{_SUFFIX}"
