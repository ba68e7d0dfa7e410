"""Every input that fuzzing kept is read without a fault, and what it once broke stays mended."""

import pytest

import environment
from tests.fuzz.targets import TARGETS

CORPUS = environment.ROOT / "tests" / "fuzz" / "corpus"


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_kept_inputs_are_read(name):
    """And what is cut off any of them, or changed in one bit."""
    inputs = sorted((CORPUS / name).iterdir())
    assert inputs
    for path in inputs:
        data = path.read_bytes()
        TARGETS[name](data)
        for end in range(0, len(data), max(1, len(data) // 40)):
            TARGETS[name](data[:end])
            TARGETS[name](data[:end] + bytes([data[end] ^ 1 << end % 8]) + data[end + 1 :])


def test_no_target_passes_by_refusing_everything():
    """At least one kept input of each target is taken: a reader that refuses all would never be broken."""
    from p2psync.errors import P2PSyncError

    refusing = []
    for name, run in TARGETS.items():
        function = run.__closure__[0].cell_contents
        taken = 0
        for path in (CORPUS / name).iterdir():
            try:
                function(path.read_bytes())
            except P2PSyncError:
                continue
            taken += 1
        if not taken:
            refusing.append(name)
    assert refusing == []
