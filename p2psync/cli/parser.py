"""From the words on the line and the environment to one verb and its options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import p2psync
from p2psync.cli import values
from p2psync.cli.verbs import DEFAULT_HOME, FAMILIES, GLOBAL_FLAGS, VERBS, Flag, Verb
from p2psync.errors import UsageError

_HELP: Final = ("-h", "--help")
_VERSION: Final = "--version"
_REQUIRED: Final = re.compile(r"the following arguments are required: (.*)")
_ARGUMENT: Final = re.compile(r"argument (\S+): (.*)")
_NO_VALUE: Final = "expected one argument"


@dataclass(frozen=True, slots=True)
class Invocation:
    """What to do: run ``verb`` with ``options``, or where ``verb`` is None print ``text``."""

    verb: Verb | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""


class Parser(argparse.ArgumentParser):
    """Reads the words of one verb; what is wrong with them becomes a ``UsageError``."""

    def __init__(self, verb: Verb) -> None:
        super().__init__(
            prog=f"p2psync {verb.name}", add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
        )
        self._verb = verb
        for operand in verb.operands:
            self.add_argument(operand.dest, metavar=operand.name, nargs="?" if operand.optional else None)
        for flag in (*verb.flags, *GLOBAL_FLAGS):
            action = "store_true" if not flag.metavar else "append" if flag.many else "store"
            self.add_argument(*filter(None, (flag.short, flag.name)), dest=flag.dest, action=action)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in our words.

        Raises:
            UsageError: always.
        """
        if match := _REQUIRED.fullmatch(message):
            message = f"{self._verb.name} needs {match[1].replace(', ', ' and ')}"
        elif match := _ARGUMENT.fullmatch(message):
            flag = match[1].rpartition("/")[2]
            message = f"{flag} needs a value" if match[2] == _NO_VALUE else f"{flag} takes no value"
        raise UsageError(message, hint=_help_of(self._verb))


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Invocation:
    """Read a command line.

    Args:
        argv: The words after the program's name. Flags of all verbs may stand before or after the verb.
        environ: Where ``P2PSYNC_SOME_FLAG`` stands in for a flag that is not on the line.

    Raises:
        UsageError: an unknown verb or flag, whose nearest is named; a missing or a wrong value.
    """
    name, rest = _split(argv)
    words = list(_flags(rest))
    if _VERSION in words:
        return Invocation(text=f"p2psync {p2psync.__version__}")
    if any(word in _HELP or (word[1] != "-" and "h" in word) for word in words):
        return Invocation(text=_help_text(name))
    verb = VERBS.get(name)
    if verb is None:
        raise _no_verb(name)
    for word in words:
        _check_flag(verb, word)
    return Invocation(verb, _options(verb, rest, environ))


def wants_json(argv: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether errors are to be told as JSON too, even where the line cannot be read."""
    if "--json" in _flags(argv):
        return True
    try:
        return values.switch(environ.get("P2PSYNC_JSON", ""))
    except UsageError:
        return False


def _split(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The verb, of one word or two, and all other words in order. The verb is empty where there is none."""
    takes_value = {flag.name for flag in GLOBAL_FLAGS if flag.metavar}
    verb: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if word.startswith("-") and len(word) > 1:
            if not verb:
                _check_global_flag(word)
            rest.append(word)
            if word in takes_value:
                rest += [value for value in (next(words, None),) if value is not None]
            continue
        verb.append(word)
        if len(verb) == 2 or word not in FAMILIES:
            break
    return " ".join(verb), [*rest, *words]


def _flags(words: Iterable[str]) -> Iterable[str]:
    """The flags among ``words``, without their values."""
    for word in words:
        if word == "--":
            return
        if word.startswith("-") and len(word) > 1:
            yield word.partition("=")[0]


def _options(verb: Verb, rest: Sequence[str], environ: Mapping[str, str]) -> dict[str, Any]:
    found, extra = Parser(verb).parse_known_args(list(rest))
    if extra:
        star = verb.name.startswith("trust") and ("/" in extra[0] or extra[0].startswith("ed25519:"))
        hint = "quote the star, or the shell replaces it: 'acme/*'" if star else _help_of(verb)
        raise UsageError(f"{verb.name} takes no argument {extra[0]!r}", hint=hint)
    options: dict[str, Any] = {}
    for operand in verb.operands:
        value = options[operand.dest] = getattr(found, operand.dest, None)
        if operand.choices and value not in operand.choices:
            choices = ", ".join(operand.choices)
            raise UsageError(f"{operand.name} is one of {choices}, not {value!r}", hint=_help_of(verb))
    for flag in (*verb.flags, *GLOBAL_FLAGS):
        options[flag.dest] = _value(flag, getattr(found, flag.dest, None), environ)
        if flag.required and options[flag.dest] is None:
            raise UsageError(f"{verb.name} needs {flag.name} {flag.metavar}", hint=_help_of(verb))
    options["home"] = options["home"] or values.absolute_path(DEFAULT_HOME)
    return options


def _value(flag: Flag, given: Any, environ: Mapping[str, str]) -> Any:
    """What a flag is: from the line, else from its variable, else None, False or an empty list."""
    said = environ.get(flag.variable, "")
    if not flag.metavar:
        return True if given else _named(flag.variable, values.switch, said)
    if flag.many:
        texts, where = (given, flag.name) if given is not None else (said.split(), flag.variable)
        return [_named(where, flag.parse, text) for text in texts]
    if given is not None:
        return _named(flag.name, flag.parse, given)
    return _named(flag.variable, flag.parse, said) if said else None


def _named(where: str, parse_text: Callable[[str], Any], text: str) -> Any:
    try:
        return parse_text(text)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", hint=error.hint) from error


def _check_global_flag(word: str) -> None:
    """Before the verb only flags of all verbs can stand: those of a verb would be read as the verb's name."""
    name = word.partition("=")[0]
    known = {flag.name for flag in GLOBAL_FLAGS} | {*_HELP, _VERSION}
    if name in known or (name[1] != "-" and set(name[1:]) <= _short_letters(())):
        return
    if any(name in (flag.name, flag.short) for verb in VERBS.values() for flag in verb.flags):
        raise UsageError(f"{name} stands before the verb, and belongs to one", hint=f"p2psync VERB {name} ...")
    raise UsageError(f"there is no flag {name}", hint=_nearest(name, known) or "p2psync --help")


def _check_flag(verb: Verb, name: str) -> None:
    known = {flag.name for flag in (*verb.flags, *GLOBAL_FLAGS)}
    if name in known or (name[1] != "-" and set(name[1:]) <= _short_letters(verb.flags)):
        return
    raise UsageError(f"{verb.name} has no flag {name}", hint=_nearest(name, known) or _help_of(verb))


def _short_letters(flags: Iterable[Flag]) -> set[str]:
    return {flag.short[1] for flag in (*flags, *GLOBAL_FLAGS) if flag.short} | {"h"}


def _no_verb(name: str) -> UsageError:
    if name in FAMILIES:
        verbs = [known.partition(" ")[2] for known in VERBS if known.startswith(f"{name} ")]
        return UsageError(f"{name} needs a verb: {', '.join(verbs)}", hint=f"p2psync {name} --help")
    if not name:
        return UsageError("there is no verb on the line", hint="p2psync --help")
    near = _nearest(name, (*VERBS, *FAMILIES), "p2psync ")
    return UsageError(f"there is no verb {name!r}", hint=near or "p2psync --help")


def _nearest(word: str, known: Iterable[str], prefix: str = "") -> str | None:
    import difflib

    near = difflib.get_close_matches(word, sorted(known), n=1)
    return f"did you mean {prefix}{near[0]}?" if near else None


def _help_of(verb: Verb) -> str:
    return f"p2psync {verb.name} --help"


def _help_text(name: str) -> str:
    from p2psync.cli import help as texts

    if not name:
        return texts.program_help()
    if name in FAMILIES:
        return texts.family_help(name)
    if name in VERBS:
        return texts.verb_help(VERBS[name])
    raise _no_verb(name)
