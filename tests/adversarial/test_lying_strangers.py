"""A simulated site among nodes that lie (C 30, C 33 to C 37, C 46): it is done, and bans no honest node."""

from __future__ import annotations

import functools

import pytest

from p2psync.limits import LAN_LANES, MIB
from tests import liars
from tests.liars import Boaster
from tests.simulation.cases import together
from tests.simulation.site import Outcome

# The runs are shared.
pytestmark = pytest.mark.xdist_group("lying strangers")
KINDS = [liars.WrongBytes, liars.Empty, liars.Trickling, liars.Unspeaking, liars.Breaking]
NODES = 6


@functools.cache
def among(*kinds: type[Boaster]) -> tuple[Outcome, tuple[Boaster, ...]]:
    """Six nodes that want it all, and these. That no honest one is banned is looked at with every step."""
    site = together(1, NODES)
    strangers = tuple(kind(site.world, kind.__name__) for kind in kinds)
    for stranger in strangers:
        site.at(0.0, stranger.begin)
    return site.run(), strangers


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_one_liar_costs_a_site_little(kind: type[Boaster]) -> None:
    """Everybody has it all, hardly later than without the liar, and it came over the outside link about once."""
    outcome, (stranger,) = among(kind)
    alone, _ = among()
    assert outcome.last_s <= 1.25 * alone.last_s
    assert outcome.outside_bytes <= outcome.unique_bytes + 4 * MIB
    assert stranger.asked > 0


def test_c30_wrong_bytes_ban_after_the_second() -> None:
    """No node takes more wrong chunks of a liar than it had asked for when the second one did not prove."""
    outcome, (stranger,) = among(liars.WrongBytes)
    assert max(outcome.bad.values()) <= 1 + LAN_LANES
    assert stranger.asked <= NODES * 2 * LAN_LANES


def test_c34_what_is_not_there_is_asked_once() -> None:
    """No node asks the same neighbour twice for a chunk that it did not have."""
    outcome, (stranger,) = among(liars.Empty)
    assert stranger.asked <= NODES * len(stranger.world.table)
    assert outcome.outside <= 1.01


def test_c46_a_site_of_liars_falls_back_to_the_seed() -> None:
    """Among as many kinds of liars as there are, the nodes bring it from outside, once."""
    outcome, strangers = among(*KINDS)
    alone, _ = among()
    assert outcome.outside_bytes <= outcome.unique_bytes + 8 * MIB
    assert outcome.last_s <= 1.5 * alone.last_s
    assert all(stranger.asked for stranger in strangers)
