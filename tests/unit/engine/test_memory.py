"""What this process may use and did use is read from the system, or is unknown."""

import subprocess
import sys

import pytest

from p2psync.engine import memory
from p2psync.errors import BackendUnavailableError, MemoryShortError


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


@pytest.mark.parametrize(
    "refused",
    [
        MemoryError("Unable to allocate 9 GiB for an array"),
        ImportError("numpy/random/_mt19937.so: failed to map segment from shared object"),
        ImportError("libav.so: cannot allocate memory in static TLS block"),
    ],
)
def test_refused_memory_is_one_error(refused):
    """Whoever was refused it, a program learns that memory was short, and a person what to do."""
    said = "the clip cannot be made: not enough memory"
    with pytest.raises(MemoryShortError, match=said) as caught, memory.enough("the clip cannot be made"):
        raise refused
    assert str(refused) in caught.value.message
    assert (caught.value.needed_bytes, caught.value.available_bytes) == (None, memory.available_bytes())
    assert caught.value.hint
    assert caught.value.__cause__ is refused


def test_other_faults_keep_their_name():
    """A module that is not there is no lack of memory."""
    with pytest.raises(ImportError, match="No module"), memory.enough("the clip cannot be made"):
        raise ImportError("No module named 'av'")
    missing = memory.unloadable("av", ImportError("No module named 'av'"), "pip install")
    assert isinstance(missing, BackendUnavailableError)
    assert missing.message == "av is not installed: No module named 'av'"
    assert missing.hint == "pip install"


def test_a_library_that_does_not_fit_is_installed():
    """Installing it again would not help."""
    short = memory.unloadable("av", ImportError("av.so: failed to map segment from shared object"), "pip install")
    assert isinstance(short, MemoryShortError)
    assert short.message.startswith("av cannot be loaded: not enough memory (av.so")
