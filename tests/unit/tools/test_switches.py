"""Checks and caps are found in the source, and switched off and told by edits that leave a program."""

import ast

import pytest

import environment
from caps_in_source import LIMITS, caps
from checks_in_source import checks
from edits_in_source import Edit, Places, applied

CHECKS = list(checks(environment.ROOT))
CAPS = list(caps(environment.ROOT))


def edited(edits):
    """The text of each file after edits."""
    by_file = {}
    for edit in edits:
        by_file.setdefault(edit.file, []).append(edit)
    return {file: applied((environment.ROOT / file).read_text(), inside) for file, inside in by_file.items()}


def test_edits_are_made_where_they_were_meant_however_many_come_before():
    """Those at one place in the order in which they are given."""
    edits = [Edit("", 4, 4, "("), Edit("", 0, 0, ">"), Edit("", 4, 4, "["), Edit("", 5, 7, " ")]
    assert applied("if a > b:", edits) == ">if a([  b:"


def test_places_count_characters_where_the_tree_counts_bytes():
    """A name behind letters of more than one byte is found."""
    text = 'x = "ä€😀", name\n'
    name = ast.parse(text).body[0].value.elts[1]
    assert text[slice(*Places(text).of(name))] == "name"


@pytest.mark.parametrize("switch", [*CHECKS[::40], *CAPS[::12]], ids=lambda switch: switch.id)
def test_switching_off_and_telling_leave_a_program(switch):
    """And change nothing else: what is written between the edits is what was written before."""
    for edits in (switch.off(), switch.told(1)):
        for file, text in edited(edits).items():
            assert ast.dump(ast.parse(text)) != ast.dump(ast.parse((environment.ROOT / file).read_text()))


def test_everything_told_at_once_leaves_a_program():
    """As the first run of tools/mutate.py --find has it."""
    found = [*CHECKS, *CAPS]
    for text in edited([edit for number, switch in enumerate(found) for edit in switch.told(number)]).values():
        ast.parse(text)


def test_every_cap_of_a_name_that_says_so_is_found():
    """One that the program reads nowhere would bound nothing. Three stand in the patterns of names and nowhere else."""
    text = (environment.ROOT / LIMITS).read_text()
    written = {
        node.target.id
        for node in ast.parse(text).body
        if isinstance(node, ast.AnnAssign) and node.target.id.endswith("_MAX")
    }
    patterns = {"DTYPE_CHARS_MAX", "KEY_NAME_CHARS_MAX", "TAG_CHARS_MAX"}
    assert written - {cap.name for cap in CAPS} == patterns


def test_a_cap_that_is_off_is_read_as_a_bound_that_nobody_reaches():
    """In every place, and not in what a message says of it."""
    (cap,) = [cap for cap in CAPS if cap.name == "PROMPT_CHARS_MAX"]
    for text in edited(cap.off()).values():
        assert text.count("(PROMPT_CHARS_MAX * 2**32)") + text.count("(limits.PROMPT_CHARS_MAX * 2**32)") > 0
