"""The verbs of models: publish, pull, ls, show, diff, tag, rm, prune, verify."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from p2psync.cli import describe, differences
from p2psync.cli.output import Output, told
from p2psync.errors import DamagedError, UsageError

Options = Mapping[str, Any]
Json = dict[str, Any]

_NETWORK: Final = ("http://", "https://")
# The layers that `diff` shows unless it is told how many.
_LAYERS_SHOWN: Final = 20


def publish(options: Options, out: Output) -> int:
    """Sign a directory as the next version of a model."""
    from p2psync.cli.running import operate

    reference = _reference(options["ref"])
    if "@" in reference:
        raise UsageError(f"{reference} names a version that is there already", hint="leave out @b3:DIGEST")
    from p2psync.cli.shrinking import gate

    gate(Path(options["dir"]).expanduser())
    args = {
        "dir": str(Path(options["dir"]).expanduser().absolute()),
        "reference": reference,
        "key": options["key"],
        "bases": [_reference(base) for base in options["base"]],
        "in_place": options["in_place"],
        "to": options["to"],
        "expires_s": options["expires"],
        "forms": not options["no_forms"],
        "snap": _snap(options),
        "snap_steps": options["snap_steps"],
    }
    result = operate("publish", args, options, out)
    _tell(out, describe.published(result))
    out.result(result, text=[result["reference"]], ids=[result["reference"]])
    return 0


def _snap(options: Options) -> float | None:
    """The threshold under which a change is left out; None leaves nothing out."""
    threshold: float | None = options["snap"]
    if threshold is None:
        if options["snap_steps"] is not None:
            raise UsageError("--snap-steps needs --snap THRESHOLD", hint="p2psync publish --help")
        return None
    if not 0 < threshold < 1:
        raise UsageError(f"--snap {threshold:g} is no share between 0 and 1", hint="--snap 1e-4")
    if not options["base"] or options["in_place"]:
        raise UsageError(
            "--snap changes a copy of the files, against a base",
            hint="name it with --base REF, and leave out --in-place",
        )
    return threshold


def pull(options: Options, out: Output) -> int:
    """Bring a version here and install it; with ``--watch`` each new one too."""
    from p2psync.cli.running import operate

    if options["link"] and not options["to"]:
        raise UsageError("--link needs --to DIR", hint=f"p2psync pull {options['ref']} --to DIR --link")
    if options["watch"] and options["dry_run"]:
        raise UsageError("--watch and --dry-run exclude each other", hint="p2psync pull --help")
    args = {
        "reference": _reference(options["ref"]),
        "sources": _sources(options, out),
        "to": options["to"],
        "link": options["link"],
        "variant": options["variant"],
        "watch": options["watch"],
        "dry_run": options["dry_run"],
        "offline": options["offline"],
    }

    def installed(event: Json) -> None:
        if event.get("event") == "result":
            _pulled(event["result"], out)

    result = operate("pull", args, options, out, on_event=installed)
    if options["dry_run"]:
        out.result(result, text=describe.pull_plan(result), ids=[result["digest"]])
    elif not options["watch"]:
        _pulled(result, out)
    return 0


def ls(options: Options, out: Output) -> int:
    """List what is here."""
    result = _inspect(options, "ls", {})
    models = result["models"]
    out.result(result, text=describe.models(models), ids=[row["reference"] for row in models])
    if not models and not out.as_json:
        out.note(f"no model is in {options['home']}")
    return 0


def show(options: Options, out: Output) -> int:
    """Describe one version."""
    result = _inspect(options, "show", {"reference": _reference(options["ref"])})
    out.result(result, text=describe.version(result), ids=[result["reference"]])
    return 0


def diff(options: Options, out: Output) -> int:
    """Compare two versions."""
    if options["all"] and options["layers"] is not None:
        raise UsageError("--layers and --all exclude each other", hint="p2psync diff --help")
    args = {"a": _reference(options["a"]), "b": _reference(options["b"]), "link": options["link"]}
    result = _inspect(options, "diff", args)
    differing = [file["path"] for file in result["files"] if file["change"] != "equal"]
    shown = _LAYERS_SHOWN if options["layers"] is None else options["layers"]
    out.result(result, text=differences.difference(result, None if options["all"] else shown), ids=differing)
    return 0


def tag(options: Options, out: Output) -> int:
    """Sign another tag for a version."""
    from p2psync.cli.running import operate

    args = {"reference": _reference(options["ref"]), "tag": options["tag"], "key": options["key"]}
    result = operate("tag", args, options, out)
    out.result(result, text=[result["reference"]], ids=[result["reference"]])
    return 0


def rm(options: Options, out: Output) -> int:
    """Remove a tag, and the version that no tag names then."""
    from p2psync.cli.running import operate

    args = {"reference": _reference(options["ref"]), "dry_run": options["dry_run"]}
    result = operate("rm", args, options, out)
    out.result(result, text=describe.removal(result), ids=[result["digest"]] if result["removed"] else [])
    return 0


def prune(options: Options, out: Output) -> int:
    """Free the bytes that no tag needs."""
    from p2psync.cli.running import operate

    result = operate("prune", {"dry_run": options["dry_run"]}, options, out)
    ids = [row["reference"] for row in result["removed"] if row["reference"]]
    out.result(result, text=describe.pruned(result), ids=ids)
    return 0


def verify(options: Options, out: Output) -> int:
    """Prove every byte again; what cannot be repaired is damage, exit code 5."""
    from p2psync.cli.running import operate

    repair = options["repair"]
    if options["run"] and not options["ref"]:
        raise UsageError("--run needs REF", hint="p2psync verify demo/wan-tiny:v1 --run")
    args = {
        "reference": _reference(options["ref"]) if options["ref"] else None,
        "repair": repair,
        "sources": _sources(options, out) if repair else [],
    }
    result = operate("verify", args, options, out)
    result["run"] = None
    damage = result["damage"]
    paths = [f"{row['reference']} {row['path']}" for row in damage]
    if not damage:
        if options["run"]:
            # Bytes first: an engine that is not what was signed is not worth an answer.
            from p2psync.cli.engines import answers_of

            result["run"] = answers_of(options)
        out.result(result, text=describe.verified(result), ids=paths)
        return 0
    error = told(_damaged(damage, options))
    out.result({**result, "error": error}, text=describe.verified(result), ids=paths)
    out.explain(error)
    return DamagedError.exit_code


def _damaged(damage: list[Json], options: Options) -> DamagedError:
    first = damage[0]
    more = f", and {len(damage) - 1} more" if len(damage) > 1 else ""
    which = f" {options['ref']}" if options["ref"] else ""
    return DamagedError(
        f"{first['path']} of {first['reference']} is damaged ({first['reason']}){more}",
        hint=f"p2psync verify{which} --repair --from URL",
    )


def _pulled(result: Json, out: Output) -> None:
    _tell(out, describe.pulled(result))
    out.result(result, text=[result["path"]], ids=[result["path"]])


def _tell(out: Output, lines: list[str]) -> None:
    """A summary for people beside the data; programs have it in their object."""
    if not out.as_json:
        for line in lines:
            out.note(line)


def _reference(text: str) -> str:
    """A reference that was checked, before anything is opened for it."""
    from p2psync.manifest import Reference

    return str(Reference.parse(text))


def _sources(options: Options, out: Output) -> list[dict[str, str]]:
    """What to ask: ``--from`` outside, ``--peer`` on this network; with ``--offline`` only files."""
    named = [{"url": url, "kind": "wan"} for url in options["from"]]
    named += [{"url": url, "kind": "lan"} for url in options["peer"]]
    if not options["offline"]:
        return named
    for source in named:
        if source["url"].startswith(_NETWORK):
            out.note(f"{source['url']} is not asked: --offline")
    return [source for source in named if not source["url"].startswith(_NETWORK)]


def _inspect(options: Options, verb: str, args: Json) -> Json:
    """A verb that only reads: it needs no owner of the home, and no event loop."""
    from p2psync.node.inspect import inspect

    result: Json = inspect(Path(options["home"]), verb, args)
    return result
