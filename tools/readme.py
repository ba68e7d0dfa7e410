#!/usr/bin/env python3
"""Write the parts of the README that follow from other files: the numbers of benchmarks/*.json, the package's layout.

usage: tools/readme.py
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PACKAGE = ROOT / "p2psync"
_COLUMN = 26
# The rooms from the top down, as docs/architecture.md draws them.
_ROOMS = ("cli", "node", "store", "swarm", "transport", "trust", "manifest", "content")


def numbers(folder: Path = ROOT / "benchmarks") -> str:
    """One Markdown table per benchmark file, each with the command and the machine that made it."""
    parts = []
    for path in sorted(folder.glob("*.json")):
        benchmark: dict[str, Any] = json.loads(path.read_text())
        lines = ["| | beside it, in the same run | p2psync | must be | |", "|---|---|---|---|---|"]
        for row in (row for group in benchmark["groups"].values() for row in group["table"]):
            verdict = ("met" if row["met"] else "missed") if row["bound"] else "shown"
            lines.append(f"| {row['what']} | {row['beside']} | **{row['ours']}** | {row['bound']} | {verdict} |")
        machine = benchmark["machine"]
        place = (
            f"`{benchmark['command']}` on {machine['cores']} cores of {machine['cpu']}, {machine['filesystem']}, "
            f"Python {benchmark['versions']['python']}; medians, every run in `benchmarks/{path.name}`."
        )
        parts.append("\n".join([*lines, "", place]))
    return "\n\n".join(parts)


def layout() -> str:
    """The package as a tree, one line per file: its name and the first sentence of its docstring."""
    lines = ["p2psync/", *_files(PACKAGE, "  ")]
    for room in _ROOMS:
        lines.append(_entry(f"  {room}/", PACKAGE / room / "__init__.py"))
        lines += _files(PACKAGE / room, "    ")
    return "\n".join(["```", *lines, "```"])


def _files(folder: Path, indent: str) -> Iterator[str]:
    for path in sorted(folder.glob("*.py")):
        if path.name not in ("__init__.py", "__main__.py"):
            yield _entry(indent + path.name, path)


def _entry(name: str, path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    sentence = re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0]
    return f"{name:<{_COLUMN}} {sentence}".rstrip()


_PARTS: dict[str, Callable[[], str]] = {"numbers": numbers, "layout": layout}


def updated(text: str) -> str:
    """``text`` of a README with every part present between its two markers.

    Raises:
        ValueError: a marker is missing.
    """
    for name, write in _PARTS.items():
        begin, end = f"<!-- {name}: written by tools/readme.py -->", f"<!-- end of {name} -->"
        before, opened, rest = text.partition(begin)
        _old, closed, after = rest.partition(end)
        if not opened or not closed:
            raise ValueError(f"README.md must hold {begin} and {end}")
        text = f"{before}{begin}\n\n{write()}\n\n{end}{after}"
    return text


def stale() -> bool:
    """Whether the README differs from what the other files give."""
    text = README.read_text()
    return updated(text) != text


def main() -> int:
    """Rewrite the README. Returns the exit code."""
    README.write_text(updated(README.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
