"""The checks of the program, found in its source: every `if` that does nothing but refuse.

A check is named by its file, the function that it stands in, and its condition, so that a list of them survives what is
written above it. It can be switched off, or made to say when it refuses, by edits of the text where it stands.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edits_in_source import Edit, Places

# Rooms in which something from outside is refused.
ROOMS: Final = ("content", "codec", "manifest", "trust", "swarm", "transport", "store", "engine")


@dataclass(frozen=True, slots=True)
class Check:
    """``place`` and ``end`` are offsets of the condition in the file's text, ``refusal`` of the ``raise``."""

    id: str
    file: str
    place: int
    end: int
    refusal: int

    def off(self) -> tuple[Edit, ...]:
        """Switch this check off; the condition is still worked out, for what it binds."""
        return Edit(self.file, self.place, self.place, "("), Edit(self.file, self.end, self.end, ") and False")

    def told(self, number: int) -> tuple[Edit, ...]:
        """Have this check say its number when it refuses."""
        return (Edit(self.file, self.refusal, self.refusal, f"__import__('mutation_log').hit({number}); "),)


def checks(root: Path) -> Iterator[Check]:
    """Every check of the rooms, in the order of the files and of their lines."""
    for room in ROOMS:
        for path in sorted((root / "p2psync" / room).rglob("*.py")):
            yield from _in_file(path, str(path.relative_to(root)))


def _in_file(path: Path, file: str) -> Iterator[Check]:
    text = path.read_text()
    places = Places(text)
    seen: Counter[str] = Counter()
    for function, node in _refusals(ast.parse(text), ""):
        condition = " ".join(ast.unparse(node.test).split())
        name = f"{file}:{function}:{condition}"
        seen[name] += 1
        unique = name if seen[name] == 1 else f"{name} ({seen[name]})"
        yield Check(unique, file, *places.of(node.test), places.of(node.body[0])[0])


def _refusals(node: ast.AST, function: str) -> Iterator[tuple[str, ast.If]]:
    for child in ast.iter_child_nodes(node):
        inner = function
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{function}.{child.name}".lstrip(".")
        if isinstance(child, ast.If) and isinstance(child.body[0], ast.Raise):
            yield inner, child
        yield from _refusals(child, inner)
