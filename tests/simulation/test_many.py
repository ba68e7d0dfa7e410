"""Outcomes of many seeds are kept, and gone on from by the same code alone."""

import json

import pytest

from tests.simulation.chaos import SMALL
from tests.simulation.many import Kept, code, every, summary, told

SEEDS = (1, 2, 3)


def test_what_was_kept_is_read_again(tmp_path):
    """The same outcomes, in their order, and so the same summary."""
    found = [told(seed, SMALL) for seed in SEEDS]
    Kept(tmp_path / "kept").write(found)
    assert Kept(tmp_path / "kept").known == found
    assert summary(Kept(tmp_path / "kept").known) == summary(found)


def test_outcomes_of_other_code_are_refused(tmp_path):
    """A summary must not be of two programs."""
    kept = tmp_path / "kept"
    Kept(kept).write([])
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"code": code()[::-1]}))
    with pytest.raises(ValueError, match="other code"):
        Kept(kept)


def test_no_file_keeps_nothing():
    """Nothing is known, and writing does nothing."""
    kept = Kept(None)
    kept.write([told(1, SMALL)])
    assert kept.known == []


def test_no_seed_is_begun_after_the_deadline():
    """A run with a limit ends by itself."""
    assert list(every(SEEDS, 1, -1.0)) == []
