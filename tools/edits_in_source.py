"""Changes to the text of source files, by place, and where the nodes of a syntax tree stand in it."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edit:
    """``text`` in the place of what stands from ``place`` to ``end`` of a file, in characters."""

    file: str
    place: int
    end: int
    text: str


def applied(text: str, edits: Iterable[Edit]) -> str:
    """The text after edits that do not overlap; of several at one place the first given comes first."""
    # From the end, so that places before it still hold.
    for _, edit in sorted(enumerate(edits), key=lambda one: (one[1].place, one[0]), reverse=True):
        text = text[: edit.place] + edit.text + text[edit.end :]
    return text


class Places:
    """Finds where nodes stand: a syntax tree counts lines and bytes, a text characters."""

    def __init__(self, text: str) -> None:
        self._data = text.encode()
        self._starts = [0]
        for line in text.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line.encode()))

    def of(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Where a node begins and ends."""
        return self._at(node.lineno, node.col_offset), self._at(node.end_lineno or 0, node.end_col_offset or 0)

    def _at(self, line: int, column: int) -> int:
        return len(self._data[: self._starts[line - 1] + column].decode())
