"""What this process may use and did use is read from the system, or is unknown."""

import subprocess
import sys

import pytest

from p2psync.engine import memory


@pytest.fixture
def group(tmp_path, monkeypatch):
    """A control group whose files a test writes."""
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    return lambda **files: [(tmp_path / name.replace("_", ".", 1)).write_text(text) for name, text in files.items()]


def test_available(group):
    """Without a limit it is what the machine has."""
    group(memory_max="max\n")
    free = memory.available_bytes()
    assert free == pytest.approx(memory._kib_field(memory.Path("/proc/meminfo"), "MemAvailable"), rel=0.2)


def test_limit_of_the_group(group):
    """A group's limit counts, less what is used, plus what is only cache."""
    group(memory_max="1000\n", memory_current="700\n", memory_stat="anon 1\ninactive_file 200\n")
    assert memory.available_bytes() == 500


@pytest.mark.parametrize(("quota", "count"), [("50000 100000", 1), ("100000 100000", 1), ("max 100000", None)])
def test_processors(group, quota, count):
    """A quota of processors counts, and there is always one."""
    group(cpu_max=quota)
    assert memory.processors() == (count or memory.processors())
    assert memory.processors() >= 1


def test_unknown(monkeypatch):
    """Where the system does not say, the answer is None or empty, and no error."""
    monkeypatch.setattr(memory, "_text", lambda path: "")
    assert memory.available_bytes() is None
    assert memory.peak_bytes() is None
    assert memory.processor_flags() == frozenset()


PEAK = """
import numpy as np
from p2psync.engine import memory

memory.reset_peak()
block = np.ones(40 << 20, np.uint8)
high = memory.peak_bytes()
del block
memory.reset_peak()
print(high - memory.peak_bytes())
"""


def test_peak_is_reset():
    """A peak that is over does not count for what comes after it. In a process of its own, whose memory is its own."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) > 30 << 20
    assert memory.anonymous_bytes() > 0
    assert len(memory.processor_flags()) > 5
