"""Tests that say in a mark that they belong together run on one process; two labs at a time would slow each other."""

import subprocess
import sys

TESTS = """
import os
import time
import pytest

@pytest.mark.xdist_group("lab")
@pytest.mark.parametrize("number", range(8))
def test_one_of_a_group(number):
    time.sleep(0.1)
    print(f"ran by {os.getpid()} of lab")

@pytest.mark.parametrize("number", range(8))
def test_one_of_none(number):
    time.sleep(0.1)
    print(f"ran by {os.getpid()} of none")
"""


def test_a_group_stays_on_one_process(tmp_path):
    """As tools/test.py spreads them. What the mark does is up to two packages, which once stopped working together."""
    (tmp_path / "test_many.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rP", "-n", "2", "--dist", "loadgroup"]
    done = subprocess.run([*command, "."], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    ran = {kind: {line for line in done.stdout.splitlines() if line.endswith(f"of {kind}")} for kind in ("lab", "none")}
    assert len(ran["lab"]) == 1
    pids = {line.split()[2] for line in ran["lab"] | ran["none"]}
    assert len(pids) == 2
