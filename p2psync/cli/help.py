"""Help texts: the whole program's, a family's and one verb's, made for 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Final

from p2psync.cli.verbs import EXIT_CODES, FAMILIES, GLOBAL_FLAGS, GROUPS, VERBS, Flag, Verb

WIDTH: Final = 80
_INDENT: Final = "  "
_TITLE: Final = "Model weights, moved once per building instead of once per machine."
_EXAMPLES: Final = (
    "p2psync key new release",
    "p2psync publish ./llama acme/llama:v3 --key release",
    "p2psync serve --open",
    "p2psync pull acme/llama:v3 --from https://models.acme.example",
)
_PROGRAM_FLAGS: Final = (
    Flag("--help", "help of p2psync, or of the verb", short="-h"),
    Flag("--version", "the version"),
)


def program_help() -> str:
    """The help of ``p2psync --help``."""
    left = max(len(_call(verb)) for verb in VERBS.values())
    parts = ["usage: p2psync VERB [ARGUMENTS] [OPTIONS]", _TITLE]
    for title, verbs in GROUPS.items():
        parts.append(_section(title, [(_call(verb), verb.summary) for verb in verbs], left))
    parts += [_global_options(), _section_of_lines("examples", _EXAMPLES), _exit_codes(EXIT_CODES)]
    parts.append("p2psync VERB --help says more about a verb.")
    return "\n\n".join(parts)


def family_help(family: str) -> str:
    """The help of ``p2psync key --help``: its verbs, each with its first example."""
    verbs = [verb for verb in VERBS.values() if verb.name.startswith(f"{family} ")]
    rows = [(_call(verb), verb.summary) for verb in verbs]
    parts = [f"usage: p2psync {family} VERB [ARGUMENTS] [OPTIONS]", _section(family, rows)]
    parts += [_section_of_lines("examples", [verb.examples[0] for verb in verbs]), _global_options()]
    return "\n\n".join(parts)


def verb_help(verb: Verb) -> str:
    """The help of one verb: usage, meaning, arguments, options, two examples, exit codes."""
    parts = [usage(verb), textwrap.fill(verb.description, WIDTH)]
    if verb.operands:
        parts.append(_section("arguments", [(operand.name, operand.help) for operand in verb.operands]))
    if verb.flags:
        parts.append(_section("options", [(_spelling(flag), flag.help) for flag in verb.flags]))
    parts += [_global_options(), _section_of_lines("examples", verb.examples)]
    parts.append(_exit_codes({code: EXIT_CODES[code] for code in verb.exits}))
    return "\n\n".join(parts)


def usage(verb: Verb) -> str:
    """How a verb is called, in at most 80 columns."""
    words = [operand.name if not operand.optional else f"[{operand.name}]" for operand in verb.operands]
    for flag in verb.flags:
        text = f"{flag.short or flag.name} {flag.metavar}".rstrip()
        words.append(text if flag.required else f"[{text}]" + ("..." if flag.many else ""))
    head = f"usage: p2psync {verb.name} "
    # A flag and its value stay on one line.
    body = " ".join(word.replace(" ", "\0") for word in [*words, "[OPTIONS]"])
    lines = textwrap.wrap(body, WIDTH - len(head), break_long_words=False, break_on_hyphens=False)
    return (head + f"\n{' ' * len(head)}".join(lines)).replace("\0", " ")


def _call(verb: Verb) -> str:
    return " ".join([verb.name, *(o.name if not o.optional else f"[{o.name}]" for o in verb.operands)])


def _spelling(flag: Flag) -> str:
    spelled = f"{flag.short}, {flag.name}" if flag.short else flag.name
    return f"{spelled} {flag.metavar}".rstrip()


def _global_options() -> str:
    rows = [(_spelling(flag), flag.help) for flag in (*GLOBAL_FLAGS, *_PROGRAM_FLAGS)]
    title = "options of all verbs, before or after the verb"
    return _section(title, rows) + f"\n{_INDENT}Each --some-flag can also be set as P2PSYNC_SOME_FLAG."


def _section(title: str, rows: list[tuple[str, str]], left: int = 0) -> str:
    return "\n".join([f"{title}:", *_columns(rows, max(left, *(len(name) for name, _ in rows), 0) + 2)])


def _columns(rows: list[tuple[str, str]], left: int) -> Iterator[str]:
    for name, text in rows:
        lines = textwrap.wrap(text, WIDTH - len(_INDENT) - left, break_on_hyphens=False)
        yield f"{_INDENT}{name:<{left}}{lines[0]}"
        yield from (f"{_INDENT}{'':<{left}}{line}" for line in lines[1:])


def _section_of_lines(title: str, lines: Iterable[str]) -> str:
    return "\n".join([f"{title}:", *(f"{_INDENT}{line}" for line in lines)])


def _exit_codes(codes: dict[int, str]) -> str:
    text = ", ".join(f"{code} {meaning}".replace(" ", "\0") for code, meaning in codes.items())
    lines = textwrap.wrap(text, WIDTH - len(_INDENT), break_long_words=False)
    return _section_of_lines("exit codes", [line.replace("\0", " ") for line in lines])


def texts() -> dict[str, str]:
    """Every help text by what asks for it, as the reference in ``docs/cli.md`` prints them."""
    whole = {"": program_help()}
    families = {family: family_help(family) for family in FAMILIES}
    return whole | families | {name: verb_help(verb) for name, verb in VERBS.items()}
