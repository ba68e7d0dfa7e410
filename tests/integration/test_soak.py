"""A day of churn in twenty minutes, after which the nodes that served all the time are no larger than they were."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import pytest

from tests.integration import soak, soak_plan
from tests.integration.soak_record import Found, Sample, write

MINUTES = float(os.environ.get("P2PSYNC_SOAK_MINUTES", "20"))
# Where the record goes that is committed; nowhere unless it is said.
RECORD = os.environ.get("P2PSYNC_SOAK_JSON", "")
# Ends a run that hangs: each wait within it has a limit of its own.
HANGS_S = 1200.0


@pytest.mark.slow
@pytest.mark.timeout(60 * MINUTES + HANGS_S)
def test_a_day_of_churn_leaves_nodes_as_they_were(tmp_path: Path) -> None:
    """Anonymous memory of who served all day grew by less than a twentieth; descriptors and threads are flat.

    Everything that was pulled was what had been published, and every node ended in good order.
    """
    record = soak.run(tmp_path, MINUTES)
    write(Path(RECORD) if RECORD else None, record)
    assert {"joins", "left", "killed", "versions", "hangs", "versions pruned"} <= record["events"].keys()
    assert {name: grown for name, node in record["nodes"].items() if (grown := soak.grown(node))} == {}


def test_rounds_follow_from_their_seed() -> None:
    """The same seed gives the same day, another one another day."""
    one, same, other = (list(islice(soak_plan.rounds(seed), 50)) for seed in (1, 1, 2))
    assert one == same != other
    assert {round_.hangs for round_ in one} == {"", "seed", *soak_plan.LASTING}


def test_growth_is_between_the_ends_of_what_is_warm() -> None:
    """The warm-up does not count, nor does a peak that passes."""
    sizes = [10, 50, 100, 102, 300, 104, 100, 106, 104]
    found = Found.of([Sample(float(at), size, 20, 4) for at, size in enumerate(sizes)], warm_s=2.0)
    assert found.anonymous_bytes == (100, 104)
    assert found.growth == 0.04


def test_a_run_that_is_too_short_says_nothing() -> None:
    """One sample is no growth."""
    with pytest.raises(AssertionError, match="too short"):
        Found.of([Sample(9.0, 1, 1, 1)], warm_s=2.0)
