"""The checks of the program, found in its source: every `if` that does nothing but refuse.

A check is named by its file, the function that it stands in, and its condition, so that a list of them survives what is
written above it. It can be switched off, or made to say when it refuses, without a parser of our own: the text of the
condition is replaced where it stands.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Rooms in which something from outside is refused.
ROOMS: Final = ("content", "codec", "manifest", "trust", "swarm", "transport", "store", "engine")


@dataclass(frozen=True, slots=True)
class Check:
    """``place`` and ``end`` are offsets of the condition in the file's text, ``refusal`` of the ``raise``."""

    id: str
    file: str
    function: str
    condition: str
    place: int
    end: int
    refusal: int

    def off(self, text: str) -> str:
        """The file's text with this check switched off; the condition is still worked out, for what it binds."""
        return f"{text[: self.place]}({text[self.place : self.end]}) and False{text[self.end :]}"

    def told(self, text: str, number: int) -> str:
        """The file's text in which this check says its number when it refuses."""
        return f"{text[: self.refusal]}__import__('mutation_log').hit({number}); {text[self.refusal :]}"


def checks(root: Path) -> Iterator[Check]:
    """Every check of the rooms, in the order of the files and of their lines."""
    for room in ROOMS:
        for path in sorted((root / "p2psync" / room).rglob("*.py")):
            yield from _in_file(path, str(path.relative_to(root)))


def _in_file(path: Path, file: str) -> Iterator[Check]:
    text = path.read_text()
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    # Offsets of the syntax tree count bytes.
    data = text.encode()

    def at(line: int, column: int) -> int:
        return len(data[: starts[line - 1] + column].decode())

    seen: Counter[str] = Counter()
    for function, node in _refusals(ast.parse(text), ""):
        condition = " ".join(ast.unparse(node.test).split())
        name = f"{file}:{function}:{condition}"
        seen[name] += 1
        yield Check(
            name if seen[name] == 1 else f"{name} ({seen[name]})",
            file,
            function,
            condition,
            at(node.test.lineno, node.test.col_offset),
            at(node.test.end_lineno or 0, node.test.end_col_offset or 0),
            at(node.body[0].lineno, node.body[0].col_offset),
        )


def _refusals(node: ast.AST, function: str) -> Iterator[tuple[str, ast.If]]:
    for child in ast.iter_child_nodes(node):
        inner = function
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{function}.{child.name}".lstrip(".")
        if isinstance(child, ast.If) and isinstance(child.body[0], ast.Raise):
            yield inner, child
        yield from _refusals(child, inner)
