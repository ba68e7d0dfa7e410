"""The text of ``diff``: what is equal, moved and changed, and what a pull would move, in all and layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from p2psync.cli.describe import ways
from p2psync.cli.text import duration, pairs, short_reference, size, table

Json = Mapping[str, Any]
_CHANGES: Final = ("changed", "added", "removed", "moved", "equal")


def difference(result: Json, layers_max: int | None) -> list[str]:
    """The whole text. Of the layers that are not equal, the ``layers_max`` largest; None shows all, equal ones too."""
    counted, tensors = result["bytes"], result["tensors"]
    changes = ", ".join(f"{tensors[name]} {name}" for name in ("equal", "moved", "changed", "added", "removed"))
    lines = pairs(
        [
            ("from", short_reference(result["a"])),
            ("to", short_reference(result["b"])),
            ("tensors", changes),
            ("missing", f"{size(counted['missing'])} of {size(counted['total'])}, {size(counted['reused'])} reused"),
            *_costs(result["forms"]),
        ]
    )
    files = [(file["change"], file["path"]) for file in result["files"] if file["change"] != "equal"]
    lines += ["", *table(("CHANGE", "FILE"), files)] if files else ["", "all files are equal"]
    layers = _layers(result, layers_max)
    return [*lines, "", *layers] if layers else lines


def _costs(forms: Json) -> list[tuple[str, str]]:
    """What a pull would move in each form, and as it would choose."""
    if not forms["pull"]["wire"]:
        return []
    rows = [(f"as {way['kind']}", f"{size(way['wire'])}, {duration(way['seconds'])}") for way in forms["ways"]]
    best = forms["pull"]
    link = f"on a link of {size(round(forms['link']))}/s"
    if forms["unread"]:
        rows.append(("unread", f"{forms['unread']:,} encoded chunks; what they tell is counted as it is"))
    return [*rows, ("a pull moves", f"{size(best['wire'])}{ways(forms)}, {duration(best['seconds'])} {link}")]


def _layers(result: Json, layers_max: int | None) -> list[str]:
    """A row for each layer, the largest first, one for those left out, and the sum, which is the version's."""
    told = [row for row in result["layers"] if layers_max is None or row["change"] != "equal"]
    told.sort(key=lambda row: (-row["pull"]["wire"], -row["bytes"]))
    if not told:
        return []
    kinds = [way["kind"] for way in result["forms"]["ways"]]
    shown = told[:layers_max]
    rows = [[row["name"], _change(row), *_cells(row, kinds)] for row in shown]
    left = [row for row in result["layers"] if row not in shown]
    if moving := [row for row in left if row["change"] != "equal"]:
        rows.append([f"{len(moving)} more", "", *_cells(_sum(moving, kinds), kinds)])
    if equal := len(left) - len(moving):
        rows.append([f"{equal} more", "equal", *[""] * (len(kinds) + 2)])
    rows.append(["all", "", *_cells(result["forms"], kinds)])
    return table(("LAYER", "CHANGE", *(f">{kind.upper()}" for kind in kinds), ">A PULL", ">TAKES"), rows)


def _change(row: Json) -> str:
    """What becomes of a layer's tensors, or of what is no tensor of a file."""
    return ", ".join(f"{row['tensors'][name]} {name}" for name in _CHANGES if row["tensors"][name]) or row["change"]


def _cells(costs: Json, kinds: Sequence[str]) -> list[str]:
    """Bytes in each form, bytes and time as a pull chooses; empty where nothing moves."""
    if not costs["pull"]["wire"]:
        return [""] * (len(kinds) + 2)
    wire = {way["kind"]: way["wire"] for way in costs["ways"]}
    return [*(size(wire[kind]) for kind in kinds), size(costs["pull"]["wire"]), duration(costs["pull"]["seconds"])]


def _sum(layers: Sequence[Json], kinds: Sequence[str]) -> Json:
    """The costs of several layers together."""
    wire = dict.fromkeys(kinds, 0)
    for layer in layers:
        for way in layer["ways"]:
            wire[way["kind"]] += way["wire"]
    pull = [layer["pull"] for layer in layers]
    return {
        "ways": [{"kind": kind, "wire": count} for kind, count in wire.items()],
        "pull": {"wire": sum(one["wire"] for one in pull), "seconds": sum(one["seconds"] for one in pull)},
    }
