"""The caps of the program: each bound in p2psync/limits.py, and every place that keeps to it.

A cap is switched off by making it four billion times as large wherever the program reads it. The tests read limits.py,
so they go on sending one more than the cap that is written there, and must notice that nobody minds.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edits_in_source import Edit, Places

LIMITS: Final = "p2psync/limits.py"
# What bounds something from outside, by the end of its name. The rest are sizes and rhythms of the program's own.
_ENDS: Final = ("_MAX", "_TIMEOUT_S", "_SILENCE_S", "_WINDOW_S", "_MIN_BYTES_PER_S")
_SHIFT: Final = 32


@dataclass(frozen=True, slots=True)
class Cap:
    """``uses`` are where the program reads it, ``inside`` the first statements of the functions that do."""

    id: str
    uses: tuple[tuple[str, int, int], ...]
    inside: tuple[tuple[str, int, int], ...]

    @property
    def name(self) -> str:
        """Its name in limits.py."""
        return self.id.rpartition(":")[2]

    def off(self) -> tuple[Edit, ...]:
        """Read as something that nobody reaches; a least rate as one that everybody keeps."""
        how = f" / 2**{_SHIFT})" if self.name.endswith("_PER_S") else f" * 2**{_SHIFT})"
        return tuple(
            edit
            for file, place, end in self.uses
            for edit in (Edit(file, place, place, "("), Edit(file, end, end, how))
        )

    def told(self, number: int) -> tuple[Edit, ...]:
        """The functions that read it say so when they begin."""
        return tuple(
            Edit(file, place, place, f"__import__('mutation_log').hit({number})\n{' ' * column}")
            for file, place, column in self.inside
        )


def caps(root: Path) -> Iterator[Cap]:
    """Every cap that the program reads, in the order of limits.py."""
    names = [
        node.target.id
        for node in ast.parse((root / LIMITS).read_text()).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id.endswith(_ENDS)
    ]
    uses: dict[str, list[tuple[str, int, int]]] = {name: [] for name in names}
    inside: dict[str, dict[tuple[str, int, int], None]] = {name: {} for name in names}
    for path in sorted((root / "p2psync").rglob("*.py")):
        file = str(path.relative_to(root))
        if file != LIMITS:
            _look(path.read_text(), file, uses, inside)
    for name in names:
        if uses[name]:
            yield Cap(f"{LIMITS}:{name}", tuple(uses[name]), tuple(inside[name]))


def _look(
    text: str,
    file: str,
    uses: dict[str, list[tuple[str, int, int]]],
    inside: dict[str, dict[tuple[str, int, int], None]],
) -> None:
    places = Places(text)
    for node, function in _reads(ast.parse(text), None):
        name = _limit(node)
        if name in uses:
            uses[name].append((file, *places.of(node)))
            if function is not None:
                first = _first_statement(function)
                inside[name][file, places.of(first)[0], first.col_offset] = None


_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _reads(node: ast.AST, function: _Function | None) -> Iterator[tuple[ast.expr, _Function | None]]:
    """Every expression, with the function in whose body it is worked out. What a message says is left as it is."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.JoinedStr):
            continue
        if isinstance(child, ast.expr):
            yield child, function
        if isinstance(child, _Function):
            # Defaults, annotations and decorators are read where the function is defined.
            for part in (child.args, *child.decorator_list):
                yield from _reads(part, function)
            for statement in child.body:
                yield from _reads(ast.Module([statement], []), child)
        else:
            yield from _reads(child, function)


def _limit(node: ast.expr) -> str:
    """The name of a limit that is read here: as it was imported, or as ``limits.NAME``."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "limits":
        return node.attr
    return ""


def _first_statement(function: _Function) -> ast.stmt:
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(function.body) > 1
    return function.body[1] if documented else first
