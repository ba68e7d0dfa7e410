"""The record of a full run of the tests says what pytest's own file says."""

from __future__ import annotations

import json
from pathlib import Path

import run_record

RESULTS = """<testsuites><testsuite>
<testcase classname="tests.unit.a" name="test_one" time="0.25"/>
<testcase classname="tests.unit.a" name="test_two[x]" time="1.5">
<failure message="assert 0&#10;more">trace</failure></testcase>
<testcase classname="tests.unit.b" name="test_three" time="0"><skipped message="no root"/></testcase>
<testcase classname="tests.unit.b" name="test_four" time="0.1"><error message="boom">trace</error></testcase>
</testsuite></testsuites>"""


def test_counts_and_slowest(tmp_path: Path) -> None:
    """Counts add up, the slowest comes first, and what did not pass is named with its reason."""
    results = tmp_path / "results.xml"
    results.write_text(RESULTS)
    found = run_record.summary(run_record.read(results), 1)
    assert {key: found[key] for key in ("tests", "passed", "failed", "errors", "skipped", "seconds", "exit_code")} == {
        "tests": 4,
        "passed": 1,
        "failed": 1,
        "errors": 1,
        "skipped": 1,
        "seconds": 1.9,
        "exit_code": 1,
    }
    assert [row["test"] for row in found["slowest"]][:2] == ["tests/unit/a::test_two[x]", "tests/unit/a::test_one"]
    assert [(row["end"], row["reason"]) for row in found["not_passed"]] == [
        ("failed", "assert 0"),
        ("skipped", "no root"),
        ("errors", "boom"),
    ]


def test_record_names_commit_and_machine(tmp_path: Path) -> None:
    """The file that is committed says what was run, of which commit, where and when."""
    results = tmp_path / "results.xml"
    results.write_text(RESULTS)
    run_record.write(tmp_path / "docs" / "full-tests.json", results, 1)
    record = json.loads((tmp_path / "docs" / "full-tests.json").read_text())
    assert record["command"] == "python3 tools/test.py --full"
    assert record["machine"]["cores"] >= 1
    assert record["date"].endswith("Z")
    assert isinstance(record["commit"], str)


def test_what_failed_runs_again_beside_its_record(tmp_path: Path) -> None:
    """What failed is named as pytest takes it; how it ended later stands apart from how it ended then."""
    record, results = tmp_path / "full-tests.json", tmp_path / "results.xml"
    assert run_record.failed(record) == []
    results.write_text(RESULTS)
    run_record.write(record, results, 1)
    assert run_record.failed(record) == ["tests/unit/a.py::test_two[x]", "tests/unit/b.py::test_four"]
    results.write_text('<testsuite><testcase classname="tests.unit.a" name="test_two[x]" time="1.0"/></testsuite>')
    run_record.write_again(record, results, 0)
    kept = json.loads(record.read_text())
    assert (kept["failed"], kept["exit_code"]) == (1, 1)
    assert kept["again"].items() >= {"tests": 1, "passed": 1, "failed": 0, "exit_code": 0}.items()
    assert isinstance(kept["again"]["commit"], str)
