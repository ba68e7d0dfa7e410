"""A minute of coverage-guided fuzzing for each reader of outside bytes; see tools/fuzz.py for more."""

import pytest

import fuzz
from tests.fuzz.targets import TARGETS

pytest.importorskip("atheris", reason="requirements/fuzz.txt is not installed")

SECONDS = 60


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_no_input_breaks_a_reader(name):
    """Thousands of inputs reach code, and none raises anything but errors of ours, or hangs, or takes a gigabyte."""
    report = fuzz.fuzz(name, SECONDS, keep=False)
    assert report.findings == ()
    assert report.executions > 1000
    assert report.edges > 0
