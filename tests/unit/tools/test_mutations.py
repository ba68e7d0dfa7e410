"""The list of checks is that of the source: one that moved, went or came is noticed by the ordinary tests."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest

import environment
from mutate import LIST, switches

SWITCHES = {switch.id for switch in switches(environment.ROOT)}
LISTED = {entry["check"]: entry for entry in json.loads(LIST.read_text())["checks"]}


def test_each_check_and_each_cap_is_listed():
    """Whoever writes a new refusal runs tools/mutate.py --find, and sees whether a test notices it."""
    assert sorted(SWITCHES ^ LISTED.keys()) == []


def test_each_test_that_is_named_exists():
    """By its file and its function; what stands in brackets behind it is made when tests are collected."""
    for entry in LISTED.values():
        file, _, name = entry["test"].partition("::")
        function = re.sub(r"\[.*", "", name).rpartition("::")[2]
        assert not file or re.search(rf"def {function}\(", (environment.ROOT / file).read_text()), entry["test"]


def test_each_is_noticed_by_a_test():
    """A check that can be switched off unnoticed is either not needed or not tested."""
    assert [name for name, entry in LISTED.items() if not entry["test"]] == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_each_is_noticed_still():
    """Each is switched off alone, and its test fails; in an environment with torch those that are reached there."""
    words = ["--torch"] if importlib.util.find_spec("torch") else []
    command = [sys.executable, "tools/mutate.py", *words]
    done = subprocess.run(command, cwd=environment.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
