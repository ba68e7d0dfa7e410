"""What a process may have open, and the shares of those who keep files and connections."""

import json
import resource
import subprocess
import sys

import pytest

from p2psync import open_files
from p2psync.limits import CONNECTIONS_MAX, DESCRIPTORS_BUSY, DESCRIPTORS_OWN, OPEN_FILES_MAX, SHARE_MIN

RAISE = """
import json, resource, sys
from p2psync import open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
open_files.raise_limit()
print(json.dumps([resource.getrlimit(resource.RLIMIT_NOFILE)[0], open_files.share(512)]))
"""


@pytest.fixture
def limit(monkeypatch):
    """Sets what the system says."""

    def say(soft, hard=resource.RLIM_INFINITY):
        monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))

    return say


@pytest.mark.parametrize(
    ("soft", "hard", "left"),
    [(100, 4096, DESCRIPTORS_BUSY), (100, 500, 500), (100, 100, 100), (2000, 4096, 2000)],
    ids=["as far as is needed", "as far as is allowed", "not at all", "never lowered"],
)
def test_the_limit_is_raised(soft, hard, left):
    """A child does it, since root alone could take it back."""
    done = subprocess.run(
        [sys.executable, "-c", RAISE, str(soft), str(hard)], capture_output=True, text=True, check=True
    )
    raised, _ = json.loads(done.stdout)
    assert raised == left


def test_a_system_that_refuses_is_left_alone(monkeypatch, limit):
    """Then the limit is what it is, and so are the shares."""

    def refuse(*_):
        raise ValueError("current limit exceeds maximum limit")

    limit(256)
    monkeypatch.setattr(resource, "setrlimit", refuse)
    open_files.raise_limit()
    assert open_files.share(CONNECTIONS_MAX) < CONNECTIONS_MAX // 2


@pytest.mark.parametrize("soft", [8, DESCRIPTORS_OWN, 64, 256, 500, DESCRIPTORS_BUSY - 1])
def test_shares_leave_a_node_what_is_its_own(limit, soft):
    """What all keep together and what a node itself has stay within the limit, as long as that is possible at all."""
    limit(soft)
    shares = [open_files.share(most) for most in (OPEN_FILES_MAX, CONNECTIONS_MAX)]
    assert all(share >= SHARE_MIN for share in shares)
    assert sum(shares) <= max(2 * SHARE_MIN, soft - DESCRIPTORS_OWN)
    assert open_files.share(1) == 1


@pytest.mark.parametrize("soft", [DESCRIPTORS_BUSY, 2**20, resource.RLIM_INFINITY])
def test_enough_is_not_shared_out(limit, soft):
    """Where a busy node fits, caps are what limits say."""
    limit(soft)
    assert open_files.share(CONNECTIONS_MAX) == CONNECTIONS_MAX
