"""What a fetch has brought, counted by where it came from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from p2psync.transport import SourceKind


@dataclass(slots=True)
class Counts:
    """Bytes of one fetch.

    ``lan`` and ``wan`` count bytes of chunks that proved, by the kind of their source, ``patched`` those that were made
    of bytes that were here, wherever the rest came from; ``by_source`` counts the former by the source's url.
    """

    lan: int = 0
    wan: int = 0
    patched: int = 0
    by_source: dict[str, int] = field(default_factory=dict)
    _taken: Counter[SourceKind] = field(default_factory=Counter)
    _used: Counter[SourceKind] = field(default_factory=Counter)

    def took(self, kind: SourceKind, received: int) -> None:
        """A request is over that has received so many bytes of chunks, whatever became of them."""
        self._taken[kind] += received

    def useful(self, url: str, kind: SourceKind, wire: int, length: int, *, patch: bool) -> None:
        """A chunk that was missing is on disk: ``length`` bytes, of which ``wire`` were sent."""
        self._used[kind] += wire
        if patch:
            self.patched += length
            return
        self.by_source[url] += length
        if kind is SourceKind.WAN:
            self.wan += length
        else:
            self.lan += length

    def surplus(self, kind: SourceKind) -> int:
        """Bytes of chunks that were received and not used: sent twice, wrong, or of requests that were stopped."""
        return max(0, self._taken[kind] - self._used[kind])
