#!/usr/bin/env python3
"""Write the parts of the READMEs that follow from other files: numbers of benchmarks/*.json, layout, accuracy.

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

import accuracy_table
import codec_tables

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PACKAGE = ROOT / "p2psync"
_COLUMN = 26
_CODEC_FILES = ("codec.json", "delta.json")
# The rooms from the top down, as docs/architecture.md draws them.
_ROOMS = ("cli", "node", "store", "swarm", "transport", "trust", "manifest", "codec", "content")


def numbers(folder: Path = ROOT / "benchmarks") -> str:
    """One Markdown table per benchmark file, each with the command and the machine that made it.

    Those of codecs have tables of their own.
    """
    parts = []
    for path in sorted(path for path in folder.glob("*.json") if path.name not in _CODEC_FILES):
        benchmark: dict[str, Any] = json.loads(path.read_text())
        lines = ["| | beside it, in the same run | p2psync | must be | |", "|---|---|---|---|---|"]
        for row in (row for group in benchmark["groups"].values() for row in group["table"]):
            verdict = ("met" if row["met"] else "missed") if row["bound"] else "shown"
            lines.append(f"| {row['what']} | {row['beside']} | **{row['ours']}** | {row['bound']} | {verdict} |")
        parts.append("\n".join([*lines, "", _place(benchmark, path)]))
    return "\n\n".join(parts)


def _place(benchmark: dict[str, Any], path: Path) -> str:
    machine = benchmark["machine"]
    return (
        f"`{benchmark['command']}` on {machine['cores']} cores of {machine['cpu']}, {machine['filesystem']}, "
        f"Python {benchmark['versions']['python']}; medians, every run in `benchmarks/{path.name}`."
    )


def _codec_tables(name: str, tables: Callable[[dict[str, Any]], str]) -> str:
    path = ROOT / "benchmarks" / name
    benchmark: dict[str, Any] = json.loads(path.read_text())
    return f"{tables(benchmark)}\n\n{_place(benchmark, path)}"


def full_forms() -> str:
    """The tables of benchmarks/codec.json."""
    return _codec_tables("codec.json", codec_tables.full_forms)


def deltas() -> str:
    """The tables of benchmarks/delta.json."""
    return _codec_tables("delta.json", codec_tables.deltas)


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


_PARTS: dict[str, Callable[[], str]] = {
    "numbers": numbers,
    "full forms": full_forms,
    "deltas": deltas,
    "layout": layout,
}
_DOCUMENTS: dict[Path, dict[str, Callable[[], str]]] = {
    README: _PARTS,
    ROOT / "examples" / "wan_tiny" / "README.md": {
        "accuracy": accuracy_table.versions,
        "accuracy of variants": accuracy_table.variants,
    },
}


def updated(text: str, parts: dict[str, Callable[[], str]] = _PARTS) -> str:
    """``text`` of a README with every part present between its two markers.

    Raises:
        ValueError: a marker is missing.
    """
    for name, write in parts.items():
        begin, end = f"<!-- {name}: written by tools/readme.py -->", f"<!-- end of {name} -->"
        before, opened, rest = text.partition(begin)
        _old, closed, after = rest.partition(end)
        if not opened or not closed:
            raise ValueError(f"it must hold {begin} and {end}")
        text = f"{before}{begin}\n\n{write()}\n\n{end}{after}"
    return text


def stale() -> bool:
    """Whether a README differs from what the other files give."""
    return any(updated(text, parts) != text for text, parts in ((p.read_text(), of) for p, of in _DOCUMENTS.items()))


def main() -> int:
    """Rewrite the READMEs. Returns the exit code."""
    for path, parts in _DOCUMENTS.items():
        path.write_text(updated(path.read_text(), parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
