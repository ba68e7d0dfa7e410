"""Every test that docs/reliability.md names exists."""

import re

import environment

_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_TEXT = (environment.ROOT / "docs" / "reliability.md").read_text()


def test_tests_that_are_named_exist():
    """Each file, and in it each function."""
    named = _NAMED.findall(_TEXT)
    assert len(named) > 40
    missing = [
        f"{file}::{function}"
        for file, function in named
        if not (environment.ROOT / file).is_file()
        or not re.search(rf"^\s*(?:async )?def {function}\(", (environment.ROOT / file).read_text(), re.MULTILINE)
    ]
    assert missing == []


def test_slow_tests_are_called_slow():
    """A test that only the full run has is marked so in the table, and no other is."""
    for file, function, mark in re.findall(_NAMED.pattern + r"( \(\*slow\*\))?", _TEXT):
        source = (environment.ROOT / file).read_text()
        before = source[: re.search(rf"^(?:async )?def {function}\(", source, re.MULTILINE).start()]
        marks = before[before.rstrip().rfind("\n\n") :]
        assert ("@pytest.mark.slow" in marks) == bool(mark), f"{file}::{function}"
