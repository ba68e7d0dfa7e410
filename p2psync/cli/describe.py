"""Answers as people read them: the text for each object that ``docs/cli.md`` describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from p2psync.cli.text import (
    day,
    duration,
    moment,
    pairs,
    plural,
    printable,
    short_digest,
    short_reference,
    size,
    table,
)

Json = Mapping[str, Any]


def published(result: Json) -> list[str]:
    """What a publish did."""
    scope = f"{plural(result['files'], 'file')}, {size(result['bytes'])}, {size(result['new_bytes'])} of it new"
    lines = [f"version {result['version']}: {scope}, in {duration(result['seconds'])}"]
    for one in result["forms"]:
        scope = f"deltas from {short_digest(one['base'])}" if one["base"] else f"{one['kind']} forms"
        lines.append(f"{scope}: {size(one['raw'])} as {size(one['encoded'])}")
    lines += _left_out(result["snapped"])
    if (origin := result["origin"]) is not None:
        lines.append(f"origin tree: {plural(origin['packs'], 'pack')} written, {size(origin['bytes'])}")
    return lines


def _left_out(snapped: list[Json]) -> list[str]:
    """What a snap left out: every tensor, with how much it would have changed."""
    if not snapped:
        return []
    left = sum(one["left_out"] for one in snapped)
    rows = [
        [
            "whole" if one["whole"] else f"{one['left_out']:,}",
            f"{one['relative']:.2g}",
            f"{one['largest']:.2g}",
            f"{one['tensor']} in {one['path']}",
        ]
        for one in snapped
    ]
    head = f"left out: {left:,} changes of elements in {plural(len(snapped), 'tensor')}"
    return [head, *table(["LEFT OUT", "MEAN SQUARE", "LARGEST", "TENSOR"], rows)]


def pulled(result: Json) -> list[str]:
    """What a pull did, and where its bytes came from."""
    counted = result["bytes"]
    name = f"version {result['version']} of {result['reference']} ({short_digest(result['digest'])})"
    if result["unchanged"]:
        return [f"{name} is here already"]
    fetched = counted["patched"] + counted["lan"] + counted["wan"]
    rows = [
        ("installed", f"{name}, {size(counted['total'])} in {duration(result['seconds'])}"),
        ("reused", size(counted["reused"]) if counted["reused"] else ""),
        ("patched", size(counted["patched"]) + " from deltas" if counted["patched"] else ""),
        ("lan", size(counted["lan"]) + " from peers" if counted["lan"] else ""),
        ("wan", size(counted["wan"]) + " from outside" if counted["wan"] else ""),
    ]
    moved = sum(result["wire"].values())
    rows.append(("moved", f"{size(moved)}, heads and all" if fetched else ""))
    rate = f"{size(round(fetched / result['seconds']))}/s" if fetched and result["seconds"] > 0 else ""
    return pairs([*rows, ("rate", rate)])


def pull_plan(result: Json) -> list[str]:
    """What a pull would move."""
    counted, disk = result["bytes"], result["disk"]
    return pairs(
        [
            ("version", f"{result['reference']}@{result['digest']}"),
            ("size", size(counted["total"])),
            ("reused", size(counted["reused"])),
            ("patched", size(counted["patched"]) if counted["patched"] else ""),
            ("missing", size(counted["missing"] + counted["patched"])),
            ("to move", f"{size(result['wire']['bytes'])}{ways(result['forms'])}"),
            ("takes", f"about {duration(result['wire']['seconds'])}" if result["wire"]["bytes"] else ""),
            ("bases", _bases(result["forms"])),
            ("disk", f"{size(disk['needed'])} needed, {size(disk['free'])} free"),
        ]
    )


def ways(forms: Json) -> str:
    """How the bytes to move are made up, where not all of them are raw."""
    chosen = {way["kind"]: way["wire"] for way in forms["chosen"]}
    if set(chosen) <= {"raw"}:
        return ""
    return " (" + ", ".join(f"{kind} {size(wire)}" for kind, wire in chosen.items()) + ")"


def _bases(forms: Json) -> str:
    """Whether a version that deltas exist from is here."""
    deltas = [one for one in forms["offered"] if one["base"] is not None]
    if not deltas:
        return ""
    here = [short_digest(one["base"]) for one in deltas if one["here"]]
    return ", ".join(here) + " here" if here else "none of those that deltas exist from is here"


def models(rows: Sequence[Json]) -> list[str]:
    """The table of ``ls``."""
    if not rows:
        return []
    head = ("REFERENCE", ">VER", "DIGEST", ">SIZE", ">ON DISK", "SIGNER", "CREATED", "NOTE")
    return table(
        head,
        [
            (
                short_reference(row["reference"]),
                str(row["version"]),
                short_digest(row["digest"]),
                size(row["size"]),
                size(row["disk_bytes"]),
                row["signer"][:8],
                day(row["created"]),
                _note(row),
            )
            for row in rows
        ],
    )


def version(result: Json) -> list[str]:
    """The text of ``show``."""
    expires = moment(result["expires"]) if result["expires"] is not None else "never"
    lines = [result["reference"], ""]
    lines += pairs(
        [
            ("version", str(result["version"])),
            ("signer", result["signer"]),
            ("created", moment(result["created"])),
            ("expires", expires),
            ("size", f"{size(result['size'])}, {size(result['disk_bytes'])} of it here"),
            ("path", result["path"] or ""),
            ("note", _note(result)),
            ("bases", " ".join(short_digest(base) for base in result["bases"])),
        ]
    )
    lines += ["", *_files(result["files"])]
    if result["variants"]:
        lines += ["", *_variants(result["variants"])]
    return lines


def removal(result: Json) -> list[str]:
    """What ``rm`` did."""
    gone = "would be removed" if result["dry_run"] else "removed"
    lines = [f"tag {tag} {gone}" for tag in result["tags"]]
    if result["removed"]:
        return [*lines, f"version {short_digest(result['digest'])} {gone}, {_freed(result)}"]
    return [*lines, f"version {short_digest(result['digest'])} stays: something still names it"]


def pruned(result: Json) -> list[str]:
    """What ``prune`` did."""
    rows = [(row["kind"], short_reference(row["reference"] or "-"), size(row["bytes"])) for row in result["removed"]]
    lines = table(("KIND", "REFERENCE", ">SIZE"), rows) if rows else []
    return [*lines, _freed(result)]


def verified(result: Json) -> list[str]:
    """One line per problem, then what was read."""
    lines = [
        printable(f"{row['reason']}  {row['path']}  {size(row['bytes'])}  {short_reference(row['reference'])}")
        for row in result["damage"]
    ]
    lines += [
        f"repaired  {short_reference(row['reference'])}, {size(row['fetched_bytes'])} fetched"
        for row in result["repaired"]
    ]
    checked = result["checked"]
    scope = f"{plural(checked['versions'], 'version')}, {plural(checked['files'], 'file')}, {size(checked['bytes'])}"
    lines.append(f"{'proved' if result['ok'] else 'read'} {scope} in {duration(result['seconds'])}")
    return [*lines, *(_answered(result["run"]) if result.get("run") else ())]


def _answered(run: Json) -> list[str]:
    """What an engine answered."""
    if not run["probe"]:
        return [f"{run['variant']} loads on {run['backend']}; its publisher signed no probe"]
    worst = max((s["distance"] / s["tolerance"] for s in run["stages"] if s["tolerance"]), default=0.0)
    who = f"{run['variant']} on {run['backend']}"
    return [f"{who} answers its probe within {worst:.0%} of the tolerance, in {duration(run['seconds'])}"]


def clip(result: Json) -> list[str]:
    """What a clip took."""
    return pairs(
        [
            ("variant", f"{result['variant']} on {result['backend']}"),
            ("clip", f"{result['frames']} frames of {result['width']} x {result['height']}, {result['codec']}"),
            ("seed", f"{result['seed']}, {result['steps']} steps, guidance {result['guidance']:g}"),
            ("time", f"{duration(result['seconds'])}, {result['seconds_per_step']:.3f} s a step"),
            ("memory", size(result["peak_memory_bytes"]) if result["peak_memory_bytes"] else ""),
            ("sheet", result["sheet"]),
            ("frames", result["frames_dir"] or ""),
        ]
    )


def compressed(rows: Sequence[Json]) -> list[str]:
    """The table of ``compress``."""
    head = ("VARIANT", ">SSIM", ">FLOOR", ">RIGHT", ">FLOOR", "WORST LAYER")
    body = [
        (
            row["variant"],
            f"{row['ssim']:.4f}",
            f"{row['ssim_floor']:g}",
            "" if row["accuracy"] is None else f"{row['accuracy']:.1%}",
            f"{row['accuracy_floor']:.0%}" if row["accuracy_floor"] else "",
            printable(row["layers"][0]["layer"]) if row["layers"] else "",
        )
        for row in rows
    ]
    return table(head, body) if body else []


def plan(result: Json) -> list[str]:
    """What a clip would take, as the engine estimates it."""
    rows = []
    for key, value in result.items():
        shown = size(value) if key.endswith("_bytes") and isinstance(value, int) else value
        rows.append((key.replace("_", " "), str(shown)))
    return pairs(rows)


def status(result: Json) -> list[str]:
    """The text of ``status``."""
    store = result["store"]
    node = f"{result['serving']} (pid {result['pid']})" if result["serving"] else "not running"
    if result["pid"] is not None and not result["serving"]:
        node = f"busy (pid {result['pid']})"
    lines = pairs(
        [
            ("home", result["home"]),
            ("serve", node),
            ("node", result["node"] or "none yet"),
            ("models", f"{plural(result['models'], 'version')}, {size(store['bytes'])}"),
            ("partial", size(store["partial_bytes"]) if store["partial_bytes"] else ""),
            ("forms", size(store["forms_bytes"]) if store["forms_bytes"] else ""),
            ("free", size(store["free"])),
            *(_site_rows(result) if result["links"] else ()),
        ]
    )
    running = [(row["reference"], _share(row), _amount(row)) for row in result["transfers"]]
    waiting = [(f"{row['name']}@{row['digest']}", _share(row), _amount(row)) for row in result["partials"]]
    for title, rows in (("PULLING", running), ("UNFINISHED", waiting)):
        if rows:
            lines += ["", *table((title, ">DONE", ">BYTES"), [(short_reference(n), s, a) for n, s, a in rows])]
    return lines


def _site_rows(result: Json) -> list[tuple[str, str]]:
    """What a running node says of its site and its links."""
    name = f"{result['site']!r}, " if result["site"] else ""
    links = [
        (link, f"{size(count['received'])} received, {size(count['sent'])} sent")
        for link, count in result["links"].items()
    ]
    limited = ", ".join(f"{name} {size(int(rate))}/s" for name, rate in result["limits"].items() if rate)
    quiet = result["discovery"] or ""
    return [
        ("site", f"{name}{plural(result['neighbours'], 'neighbour')}"),
        *links,
        ("limits", limited),
        ("discovery", quiet),
    ]


def peers(result: Json) -> list[str]:
    """The table of ``peers``, and whom this node refuses."""
    head = ("NODE", "URL", ">RTT", ">RECEIVED", ">SENT", ">CONTROL", "STATE")
    rows = [
        (
            row["node"][:12],
            row["url"] or row["address"],
            f"{row['rtt_ms']:.1f} ms",
            size(row["received_bytes"]),
            size(row["sent_bytes"]),
            size(row["control"]["received"] + row["control"]["sent"]),
            "; ".join(_holding(version) for version in row["versions"]) or "idle",
        )
        for row in result["peers"]
    ]
    lines = table(head, rows) if rows else []
    if result["banned"]:
        banned = [(b["node"][:12], duration(b["seconds"]), printable(b["reason"])) for b in result["banned"]]
        lines += ["", *table(("BANNED", ">FOR", "WHY"), banned)]
    return lines


def _holding(version: Json) -> str:
    """What a peer has to do with one version."""
    words = [f"{short_digest(version['digest'])} {version['holds']}/{version['chunks']}"]
    words += [word for word in ("fetches", "slow", "banned") if version[word]]
    if version["rate"]:
        words.append(f"{size(version['rate'])}/s")
    return " ".join(words)


def limits(result: Json) -> list[str]:
    """One line per limit."""
    return pairs([(name, f"{size(int(rate))}/s" if rate else "none") for name, rate in result.items()])


def keys(rows: Sequence[Json], first: str, name: str) -> list[str]:
    """The table of ``key ls`` and ``trust ls``."""
    return table((first, "KEY"), [(row[name], row["key"]) for row in rows]) if rows else []


def _files(files: Sequence[Json]) -> list[str]:
    head = ("FILE", ">SIZE", "FORMAT", ">TENSORS", ">CHUNKS", "NOTE")
    return table(
        head,
        [
            (
                file["path"],
                size(file["size"]),
                file["format"],
                str(file["tensors"]) if file["tensors"] else "",
                str(file["chunks"]),
                "" if file["installed"] else "not here",
            )
            for file in files
        ],
    )


def _variants(variants: Sequence[Json]) -> list[str]:
    head = ("VARIANT", ">FILES", ">SIZE", "BACKEND", "PRECISION", ">MEMORY", "NOTE")
    return table(
        head,
        [
            (
                variant["name"],
                str(variant["files"]),
                size(variant["size"]),
                variant["backend"],
                variant["precision"],
                size(variant["memory_bytes"]) if variant["memory_bytes"] else "",
                ", ".join(["default"] * variant["default"] + ["not here"] * (not variant["installed"])),
            )
            for variant in variants
        ],
    )


def _note(row: Json) -> str:
    return ", ".join(["unfinished"] * (not row["installed"]) + ["fragile"] * row["fragile"])


def _freed(result: Json) -> str:
    return f"{size(result['freed_bytes'])} {'would be freed' if result['dry_run'] else 'freed'}"


def _share(row: Json) -> str:
    return f"{row['done'] / row['total']:.0%}" if row["total"] else ""


def _amount(row: Json) -> str:
    return f"{size(row['done'])} of {size(row['total'])}"
