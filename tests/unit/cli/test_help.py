"""Help fits a terminal of 80 columns and says what a user needs."""

import itertools
import re
import shlex

import pytest

from p2psync.cli.help import program_help, texts, usage, verb_help
from p2psync.cli.parser import parse
from p2psync.cli.verbs import EXIT_CODES, GROUPS, VERBS


def test_lines_fit():
    """No line of any help is wider than 80 columns, and none ends in a space."""
    lines = [line for text in texts().values() for line in text.splitlines()]
    assert [line for line in lines if len(line) > 80 or line != line.rstrip()] == []


def test_program_help_has_one_line_per_verb():
    """The help of the program names each verb once, on one line, under its group."""
    lines = program_help().splitlines()
    for title, verbs in GROUPS.items():
        start = lines.index(f"{title}:") + 1
        block = lines[start : start + len(verbs)]
        assert [line.split("  ")[1].split()[0] for line in block] == [verb.name.split()[0] for verb in verbs]
        for line, verb in zip(block, verbs, strict=True):
            assert line.endswith(f"  {verb.summary}")


@pytest.mark.parametrize("verb", VERBS.values(), ids=lambda v: v.name)
def test_verb_help_is_whole(verb):
    """Each verb's help ends with two examples and its exit codes, and names every operand and flag."""
    text = verb_help(verb)
    *_, examples, codes = text.split("\n\n")
    assert examples.splitlines()[0] == "examples:"
    assert len(examples.splitlines()) == 3
    assert codes.splitlines()[0] == "exit codes:"
    for code in verb.exits:
        assert f"{code} {EXIT_CODES[code]}" in codes.replace("\n ", "")
    for flag in verb.flags:
        assert f"  {flag.short + ', ' if flag.short else ''}{flag.name}" in text
    for operand in verb.operands:
        assert f"  {operand.name} " in text


@pytest.mark.parametrize("verb", VERBS.values(), ids=lambda v: v.name)
def test_examples_can_be_typed(verb):
    """Each example is read as this verb, without an error."""
    for example in verb.examples:
        program, *words = typed(example)
        assert program == "p2psync"
        assert parse(words, {}).verb is verb


def typed(example):
    """The words of an example up to a pipe or a redirection; a substitution is one word."""
    words = shlex.split(re.sub(r"\$\(.*?\)", "ed25519:HEX", example))
    return itertools.takewhile(lambda word: word not in ("|", ">"), words)


def test_usage_breaks_between_flags():
    """A long usage is broken between flags, never between a flag and its value."""
    lines = usage(VERBS["pull"]).splitlines()
    assert len(lines) > 1
    assert all(line.count("[") == line.count("]") for line in lines)
