"""The rules of this project that no linter knows: how long a file and a function may be, and where coroutines live."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70

# Coroutines live where sockets and the terminal are. Everything else is plain code that a thread can run.
ASYNC_ROOMS = frozenset({"transport", "node", "cli"})

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Size:
    """How many lines something has. ``name`` is a path, with a line number and a name for a function."""

    name: str
    lines: int


def python_files(root: Path, *folders: str) -> list[Path]:
    """Every Python file below the folders of ``root``, sorted."""
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def file_sizes(root: Path, files: list[Path]) -> list[Size]:
    """The lines of each file, the longest first."""
    sizes = [Size(str(path.relative_to(root)), len(path.read_text().splitlines())) for path in files]
    return sorted(sizes, key=lambda size: -size.lines)


def function_sizes(root: Path, files: list[Path]) -> list[Size]:
    """The lines of each function with its docstring, without its decorators, the longest first."""
    sizes = [
        Size(f"{path.relative_to(root)}:{node.lineno} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for path in files
        for node in _functions(path)
    ]
    return sorted(sizes, key=lambda size: -size.lines)


def stray_coroutines(package: Path) -> list[str]:
    """Where a coroutine is defined in a room of ``package`` that must have none, as ``path:line name``."""
    return [
        f"{path.relative_to(package.parent)}:{node.lineno} {node.name}"
        for path in python_files(package.parent, package.name)
        for node in _functions(path)
        if isinstance(node, ast.AsyncFunctionDef) and path.relative_to(package).parts[0] not in ASYNC_ROOMS
    ]


def _functions(path: Path) -> Iterator[_Function]:
    tree = ast.parse(path.read_text(), filename=str(path))
    return (node for node in ast.walk(tree) if isinstance(node, _Function))
