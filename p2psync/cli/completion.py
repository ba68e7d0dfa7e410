"""The verb ``completion``: the verbs as the tree that shtab turns into a script."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, Final

from p2psync.cli.output import Output
from p2psync.cli.verbs import FAMILIES, GLOBAL_FLAGS, VERBS, Flag, Operand, Verb

_FAMILY_HELP: Final = {"key": "keys to sign with", "trust": "whose signature counts for which names"}


def completion(options: Mapping[str, Any], out: Output) -> int:
    """Print a completion script."""
    import shtab

    shell = options["shell"]
    script = shtab.complete(_tree(), shell=shell).rstrip("\n")
    out.result({"shell": shell, "script": script}, text=[script], ids=[script])
    return 0


def _tree() -> argparse.ArgumentParser:
    """Every verb with its flags as nested parsers. Nothing is ever parsed by them."""
    root = argparse.ArgumentParser(prog="p2psync", description="move model weights", add_help=False)
    _add_flags(root, ())
    root.add_argument("--version", action="store_true", help="the version")
    verbs = root.add_subparsers()
    families = {}
    for family in FAMILIES:
        parser = verbs.add_parser(family, help=_FAMILY_HELP[family], add_help=False)
        families[family] = parser.add_subparsers()
    for verb in VERBS.values():
        family, _, name = verb.name.rpartition(" ")
        _add_verb((families[family] if family else verbs).add_parser(name, help=verb.summary, add_help=False), verb)
    return root


def _add_verb(parser: argparse.ArgumentParser, verb: Verb) -> None:
    for operand in verb.operands:
        choices = list(operand.choices) or None
        _complete(parser.add_argument(operand.dest, metavar=operand.name, help=operand.help, choices=choices), operand)
    _add_flags(parser, verb.flags)


def _add_flags(parser: argparse.ArgumentParser, flags: tuple[Flag, ...]) -> None:
    for flag in (*flags, *GLOBAL_FLAGS):
        names = [name for name in (flag.short, flag.name) if name]
        if flag.metavar:
            _complete(parser.add_argument(*names, metavar=flag.metavar, help=flag.help), flag)
        else:
            parser.add_argument(*names, action="store_true", help=flag.help)
    parser.add_argument("-h", "--help", action="store_true", help="help")


def _complete(action: argparse.Action, wanted: Flag | Operand) -> None:
    import shtab

    if wanted.complete == "directory":
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
