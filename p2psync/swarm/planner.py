"""In which form each missing chunk is fetched: whatever is here soonest, by the link, this node's CPU and its bases.

Shared by the fetcher, ``pull -n`` and ``diff``. A form costs its bytes on the link and then its decoding; the sum is an
upper bound, since the two overlap. A delta is a choice only where its base is here, and where it is smaller than the
chunk in full.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from p2psync.codec import Form
from p2psync.manifest import Chunk, Encoded, FormSet, SetKind

# Bytes of a chunk that one core decodes in a second: what tools/bench.py codec and delta measured, rounded down.
DECODE_BYTES_PER_S: Final = {
    Form.PLANES: 0.9e9,
    Form.PACKED: 0.7e9,
    Form.NARROW: 0.8e9,
    Form.SPARSE: 0.7e9,
    Form.DIFFERENCE: 0.5e9,
    Form.TIGHT: 0.2e9,
    Form.RESIDUAL: 0.1e9,
}
RAW: Final = "raw"
_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Choice:
    """How one chunk is fetched: ``number`` is asked for, ``row`` is that encoded chunk, None where it is the chunk."""

    chunk: Chunk
    number: int
    kind: str
    row: Encoded | None = None

    @property
    def wire_bytes(self) -> int:
        """What crosses the link."""
        return self.chunk.length if self.row is None else self.row.length

    @property
    def decode_s(self) -> float:
        """Seconds of one core."""
        return 0.0 if self.row is None else self.chunk.length / DECODE_BYTES_PER_S[Form(self.row.form)]


@dataclass(frozen=True, slots=True)
class Plan:
    """A choice for each missing chunk, at a link of ``link_bytes_per_s``."""

    choices: tuple[Choice, ...]
    link_bytes_per_s: float

    @property
    def raw_bytes(self) -> int:
        """Bytes of the chunks."""
        return sum(choice.chunk.length for choice in self.choices)

    @property
    def wire_bytes(self) -> int:
        """Bytes that cross the link."""
        return sum(choice.wire_bytes for choice in self.choices)

    @property
    def seconds(self) -> float:
        """How long it takes, when the link gives what it promises."""
        return self.wire_bytes / self.link_bytes_per_s + sum(choice.decode_s for choice in self.choices)

    def by_kind(self) -> dict[str, tuple[int, int, int]]:
        """(chunks, their bytes, bytes on the link) of each kind that was chosen: raw, full, delta, residual."""
        found: dict[str, tuple[int, int, int]] = {}
        for choice in self.choices:
            count, raw, wire = found.get(choice.kind, (0, 0, 0))
            found[choice.kind] = count + 1, raw + choice.chunk.length, wire + choice.wire_bytes
        return found

    def split(self, key: Callable[[Chunk], _Key]) -> dict[_Key, Plan]:
        """The choices by a key of their chunks, as plans that add up to this one."""
        found: dict[_Key, list[Choice]] = {}
        for choice in self.choices:
            found.setdefault(key(choice.chunk), []).append(choice)
        return {key: Plan(tuple(choices), self.link_bytes_per_s) for key, choices in found.items()}


def plan(
    missing: Sequence[Chunk],
    rows: Iterable[tuple[int, FormSet, Encoded]],
    has_base: Callable[[Encoded], bool],
    link_bytes_per_s: float,
) -> Plan:
    """Choose.

    Args:
        missing: The chunks that are wanted.
        rows: (number, set, encoded chunk) of the forms that are known.
        has_base: Whether everything that decoding a row needs is here.
        link_bytes_per_s: What the link gives.
    """
    wanted = {chunk.index: chunk for chunk in missing}
    best = {index: Choice(chunk, index, RAW) for index, chunk in wanted.items()}
    full: dict[int, int] = {}
    for number, one, row in rows:
        chunk = wanted.get(row.chunk)
        if chunk is None or not _is_known(row) or row.length >= chunk.length:
            continue
        if one.kind is SetKind.FULL:
            full[row.chunk] = row.length
        elif row.length >= full.get(row.chunk, chunk.length) or not has_base(row):
            continue
        choice = Choice(chunk, number, one.kind.name.lower(), row)
        if _seconds(choice, link_bytes_per_s) < _seconds(best[row.chunk], link_bytes_per_s):
            best[row.chunk] = choice
    return Plan(tuple(best[index] for index in sorted(best)), link_bytes_per_s)


def _is_known(row: Encoded) -> bool:
    """Whether this version of p2psync can decode it. A newer one may have more forms."""
    return row.form in DECODE_BYTES_PER_S


def _seconds(choice: Choice, link_bytes_per_s: float) -> float:
    return choice.wire_bytes / link_bytes_per_s + choice.decode_s
