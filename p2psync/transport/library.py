"""What a server serves from, as it sees it."""

from __future__ import annotations

from typing import Protocol

from p2psync.content import Digest
from p2psync.transport.sending import Located


class Library(Protocol):
    """What a server serves from. Its calls are quick; all but ``locate`` may wait for a disk."""

    def head(self, name: str, selector: str) -> bytes | None:
        """The signed head of a name by tag or by ``b3:`` digest."""

    def node(self, digest: Digest) -> bytes | None:
        """A manifest node."""

    def locate(self, digest: Digest) -> Located | None:
        """Where a chunk stands, with its file's identity compared now. Called in the event loop."""

    def inventory(self, root: Digest) -> bytes | None:
        """Which chunks of a version are here: a bitset, LSB first, manifest order."""
