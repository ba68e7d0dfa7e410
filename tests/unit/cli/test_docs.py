"""The page of the command line says what the program says. ``python tests/unit/cli/test_docs.py`` writes its help."""

import re
from pathlib import Path

from p2psync.cli.help import texts
from p2psync.cli.verbs import EXIT_CODES, GLOBAL_FLAGS

PAGE = Path(__file__).parents[3] / "docs" / "cli.md"
BEGIN, END = "<!-- help: begin -->\n", "<!-- help: end -->\n"
SHARED = "options of all verbs"


def reference():
    """The help of every verb as the page prints it; the options that all share stand there once."""
    shown = {"p2psync": texts()[""]}
    for name, text in texts().items():
        if name:
            shown[f"p2psync {name}"] = "\n\n".join(p for p in text.split("\n\n") if not p.startswith(SHARED))
    return "".join(f"\n### {title}\n\n```\n{text}\n```\n" for title, text in shown.items()) + "\n"


def parts():
    """The page before, within and after its generated part."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    within, _, after = rest.partition(END)
    return before, within, after


def test_help_on_the_page_is_current():
    """docs/cli.md has the help of every verb as the program prints it."""
    assert parts()[1] == reference()


def test_exit_codes_on_the_page():
    """The table of exit codes has every code, and no other."""
    table = PAGE.read_text().partition("**Exit codes.**")[2].partition("\n\nWhen several")[0]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == list(EXIT_CODES)


def test_flags_of_all_verbs_are_on_the_page():
    """The paragraph on flags names every flag that all verbs have."""
    paragraph = PAGE.read_text().partition("**Flags.**")[2].partition("\n\n")[0]
    assert [flag.name for flag in GLOBAL_FLAGS if flag.name not in paragraph] == []


if __name__ == "__main__":
    before, _, after = parts()
    PAGE.write_text(before + BEGIN + reference() + END + after)
