"""``current`` and ``last-good`` always name an engine that ran, whatever happens between two writes."""

import pytest

from p2psync.engine.pointers import Pointers, Target
from p2psync.errors import IncompleteModelError, StoreError

ONE, TWO, THREE = (Target(f"/engines/{n}", f"demo/tiny:v{n}", f"b3:{n}", "int8", "ort-cpu") for n in (1, 2, 3))


@pytest.fixture
def pointers(tmp_path):
    return Pointers(tmp_path / "engines")


def test_first_switch(pointers):
    """Before the first switch there is nothing; after it there is no way back yet."""
    assert pointers.current() is None
    assert pointers.usable() is None
    pointers.switch(ONE)
    assert pointers.current() == ONE
    assert pointers.last_good() is None
    with pytest.raises(IncompleteModelError, match="go back"):
        pointers.go_back()


def test_switch_and_back(pointers):
    """A switch keeps what ran before, and going back needs nothing but the files here."""
    for target in (ONE, TWO, THREE):
        pointers.switch(target)
    assert (pointers.current(), pointers.last_good()) == (THREE, TWO)
    assert pointers.go_back() == TWO
    assert (pointers.current(), pointers.last_good()) == (TWO, TWO)
    pointers.switch(TWO)
    assert (pointers.current(), pointers.last_good()) == (TWO, TWO)


def test_switch_to_the_same_keeps_the_way_back(pointers):
    """Activating what already runs does not forget what ran before."""
    pointers.switch(ONE)
    pointers.switch(TWO)
    pointers.switch(TWO)
    assert pointers.last_good() == ONE


def test_survives_a_new_process(pointers, tmp_path):
    """The pointers are files."""
    pointers.switch(ONE)
    assert Pointers(tmp_path / "engines").current() == ONE


@pytest.mark.parametrize("text", [b"", b"{}", b"\x00" * 100, b'{"format": 2}', b"x" * 20_000])
def test_damaged_file_counts_as_none(pointers, tmp_path, text):
    """A damaged pointer is no pointer; the other one still stands."""
    pointers.switch(ONE)
    pointers.switch(TWO)
    (tmp_path / "engines" / "current").write_bytes(text)
    assert pointers.current() is None
    assert pointers.last_good() == ONE


def test_usable_is_what_is_there(pointers, tmp_path):
    """When the current engine's files are gone, the one before is usable."""
    engines = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "engine.json").write_text("{}")
        engines.append(Target(str(tmp_path / name), "r", "d", "v", ""))
        pointers.switch(engines[-1])
    assert pointers.usable() == engines[1]
    (tmp_path / "b" / "engine.json").unlink()
    assert pointers.usable() == engines[0]


def test_unwritable(pointers, tmp_path):
    """Where the directory cannot be, the error is of this disk."""
    (tmp_path / "engines").write_text("a file")
    with pytest.raises(StoreError) as caught:
        pointers.switch(ONE)
    assert caught.value.exit_code == 6


def test_nothing_is_left_behind(pointers, tmp_path):
    """No temporary file stays."""
    pointers.switch(ONE)
    pointers.switch(TWO)
    assert sorted(path.name for path in (tmp_path / "engines").iterdir()) == [".lock", "current", "last-good"]
