"""Which rows of docs/reliability.md the hostile benchmark runs, and when it calls a case kept."""

import re

import environment
from benchmarks.hostile_cases import Case, _row, listed

MIB = 1 << 20


def test_rows_with_a_number_or_a_numbered_test_are_cases():
    """Whatever else stands in the document; each test once."""
    text = """
| fault | what happens | test |
|---|---|---|
| C 39: a range behind the end | 416 | `tests/a/test_x.py::test_range`, `tests/a/test_x.py::test_range` |
| Wrong bytes | a ban | `tests/a/test_x.py::test_c30_wrong_bytes`, `tests/a/test_x.py::test_other[full]` |
| A full disk | exit 6 | `tests/a/test_disk.py::test_full` |
| 47: no case of this kind | nothing | `tests/a/test_x.py::test_none` |
"""
    assert listed(text) == [
        Case("C 39: C 39: a range behind the end", ("tests/a/test_x.py::test_range",)),
        Case("C 30: Wrong bytes", ("tests/a/test_x.py::test_c30_wrong_bytes", "tests/a/test_x.py::test_other[full]")),
    ]


def test_the_document_has_every_case_of_a_lying_peer():
    """From C 30 to C 46."""
    found = listed((environment.ROOT / "docs" / "reliability.md").read_text())
    numbers = {int(number) for case in found for number in re.findall(r"\d+", case.name.partition(":")[0])}
    assert numbers == set(range(30, 47))


def test_a_case_is_kept_by_all_of_its_runs():
    """Each as stated, within the memory, with nothing left behind."""
    good = {"case": "c", "test": "t", "exit_code": 0, "seconds": 1.0, "idle_bytes": 50 * MIB, "peak_bytes": 60 * MIB}
    good |= {"threads_left": 0, "fds_left": 0}
    case = Case("c", ("t",))
    assert _row(case, [good, good]).met
    for fault in ({"exit_code": 1}, {"peak_bytes": 151 * MIB}, {"threads_left": 1}, {"fds_left": 2}):
        assert not _row(case, [good, good | fault]).met
