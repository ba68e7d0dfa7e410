"""The accuracy of the example's versions and variants as tables, from examples/wan_tiny/results.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).resolve().parent.parent / "examples" / "wan_tiny" / "results.json"
_LANGUAGES: Final = ("en", "zh", "es", "ar", "de")
# What clips are sampled with unless a row says otherwise.
_SETTING: Final = {"steps": 8, "guidance": 1.5, "tokens": 32}
_HARDER: Final = ({"steps": 4}, {"guidance": 3.0})

Row = dict[str, Any]


def versions() -> str:
    """Per cent right by version, number of objects and language, of the weights as they are published."""
    rows = [row for row in _rows() if "variant" not in row and not (row["trained"] or row["euler"])]
    rows = [row for row in rows if row["setting"] == _SETTING]
    names = sorted({(row["version"], row["pink"], row["objects"]) for row in rows})
    lines = ["| | " + " | ".join(_LANGUAGES) + " |", "|---" * (1 + len(_LANGUAGES)) + "|"]
    for version, pink, objects in names:
        what = f"{version}, {'one object' if objects == 1 else 'two objects'}{', pink' if pink else ''}"
        found = [row for row in rows if (row["version"], row["pink"], row["objects"]) == (version, pink, objects)]
        lines.append(_line(what, found))
    return "\n".join(lines)


def variants() -> str:
    """The same of the smaller variants of v1 with one object, also where small damage shows, with SSIM."""
    rows = [row for row in _rows() if row["version"] == "v1" and row["objects"] == 1 and not row["pink"]]
    rows = [row for row in rows if not (row["trained"] or row["euler"])]
    lines = ["| | " + " | ".join(_LANGUAGES) + " | SSIM |", "|---" * (2 + len(_LANGUAGES)) + "|"]
    for setting in ({}, *_HARDER):
        wanted = {**_SETTING, **setting}
        added = "".join(f", {name} {value:g}" for name, value in setting.items())
        for variant in (None, "int8", "int8-pruned", "small"):
            found = [row for row in rows if row.get("variant") == variant and row["setting"] == wanted]
            if found:
                name = f"`{variant}`" if variant else "the bundle"
                lines.append(f"{_line(name + added, found)} {_likeness(variant, wanted)} |")
    return "\n".join(lines)


def _rows() -> Iterator[Row]:
    yield from json.loads(RESULTS.read_text())["rows"]


def _line(what: str, rows: list[Row]) -> str:
    by_language = {row["language"]: row["per_cent"]["right"] for row in rows}
    cells = [f"{by_language[one]:.1f}" if one in by_language else "not measured" for one in _LANGUAGES]
    return f"| {what} | {' | '.join(cells)} |"


def _likeness(variant: str | None, setting: dict[str, float]) -> str:
    if variant is None:
        return "1"
    for row in json.loads(RESULTS.read_text())["likeness"]:
        if row["variant"] == variant and all(row[name] == value for name, value in setting.items()):
            return f"{row['ssim']['mean']:.3f}"
    return "not measured"
