"""What a site must survive, and how well: each case beside one lone downloader on the same link, or its ideal."""

import functools
import statistics

import pytest

from p2psync.limits import MIB
from tests.simulation import cases
from tests.simulation.cases import CASES, FAST_ETHERNET, HELD, TABLE
from tests.simulation.site import Site, lone

# The outcomes of a case are shared by its tests.
pytestmark = pytest.mark.xdist_group("simulated cases")

SEEDS = (1, 2)


@pytest.fixture(scope="module")
def lone_s():
    return statistics.mean(lone(TABLE, seed) for seed in SEEDS)


@functools.cache
def outcomes(name):
    return [CASES[name](seed).run() for seed in SEEDS]


def last_s(found, *, but=()):
    return statistics.mean(max(s for n, s in outcome.done_s.items() if n not in but) for outcome in found)


@pytest.mark.parametrize("name", ["six", "twelve"])
def test_a_site_is_as_fast_as_one_and_asks_once(name, lone_s):
    """Each chunk comes over the outside link once, at the rate of one downloader with all connections."""
    found = outcomes(name)
    assert all(outcome.outside <= 1.005 for outcome in found)
    assert lone_s / last_s(found) >= 0.97
    assert all(outcome.control < 0.01 for outcome in found)


@pytest.mark.parametrize("name", ["fetcher killed at 30 %", "cable pulled at 60 %"])
def test_a_lost_fetcher_costs_what_it_had_in_flight(name):
    """What a dying fetcher had begun is fetched again, and nothing else; the rest is hardly later."""
    undisturbed_s = last_s(outcomes("six"))
    found = outcomes(name)
    assert all(outcome.outside_bytes <= outcome.unique_bytes * 1.005 + 2 * MIB for outcome in found)
    assert last_s(found) <= 1.05 * undisturbed_s


def test_a_narrow_port_is_found_out(lone_s):
    """A node that cannot pass on what it fetches stops fetching: the others do not wait behind its port."""
    found = outcomes("one port of 2 Mbit/s")
    assert all(outcome.outside <= 1.005 for outcome in found)
    assert lone_s / last_s(found, but=("n3",)) >= 0.95
    assert last_s(found) < 1.1 * TABLE[0].length * len(TABLE) / cases.SLOW_PORT


@pytest.mark.parametrize("seed", SEEDS)
def test_what_one_node_has_spreads_at_the_speed_of_its_port(seed):
    """Sixteen nodes, one holder: nobody is left behind, and hardly a byte travels twice to the same node."""
    outcome = cases.one_holder(seed).run()
    times = sorted(s for name, s in outcome.done_s.items() if name != "n0")
    assert times[-1] <= 1.3 * statistics.median(times)
    assert times[-1] <= 2.0 * HELD * MIB / FAST_ETHERNET
    assert outcome.duplicates < 0.01
    assert outcome.outside_bytes == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_who_comes_late_costs_the_link_nothing(seed):
    """A node that joins after the rest gets everything from them."""
    site = cases.late_joiner(seed)
    outcome = site.run()
    assert site.nodes["late"].tally.outside == 0
    assert outcome.outside <= 1.005
    assert outcome.done_s["late"] - 120 < 2


def test_who_comes_meanwhile_changes_little():
    """Nodes that join while others fetch take part at once."""
    assert all(outcome.outside <= 1.01 for outcome in outcomes("two join at 10 s, 20 s"))


@pytest.mark.parametrize(
    "name",
    [
        "liar, flipped bits",
        "liar, answers 404",
        "liar, claims all",
        "liar, claims all and beats",
        "peer at 10 KB/s",
        "peer at 50 KB/s",
        "silent peer",
        "peer that resets at 99 %",
    ],
)
def test_a_bad_peer_costs_little(name, lone_s):
    """Whatever one node says and does, the others end within 1.2 of the time, with two bad chunks each at most."""
    found = outcomes(name)
    assert last_s(found) <= 1.2 * last_s(outcomes("six"))
    assert all(bad <= 2 for outcome in found for bad in outcome.bad.values())
    assert all(outcome.outside <= 1.01 for outcome in found)


def test_a_cut_link_costs_its_time():
    """When the link is back after 20 s the site goes on by itself; what had landed is kept."""
    found = outcomes("link cut for 20 s")
    assert last_s(found) <= 20 + 1.05 * last_s(outcomes("six"))
    assert all(outcome.outside <= 1.05 for outcome in found)


def test_a_seed_that_restarts_is_found_again():
    """Nodes that all lost the seed try it again, each for itself, until it is back."""
    found = outcomes("seed restarts")
    assert last_s(found) <= 5 + 4 + 1.05 * last_s(outcomes("six"))
    assert all(outcome.outside <= 1.12 for outcome in found)


def test_with_the_link_gone_for_good_the_site_finishes_what_it_holds():
    """What the nodes hold together they give to each other; what is missing they all know."""
    site = Site(TABLE, 1)
    for number in range(4):
        site.add(f"n{number}", holds=range(number * 20, number * 20 + 20))
    site.cut()
    clock = site.world.clock
    while clock.now_s < 60 and clock.step():
        pass
    for node in site.nodes.values():
        assert [chunk.index for chunk in node.session.missing] == list(range(80, 96))


def test_a_divided_site_heals():
    """Two halves go on apart; together again they ask for nothing that either of them has."""
    short, long = outcomes("divided for 15 s"), outcomes("divided for 40 s")
    six_s = last_s(outcomes("six"))
    assert last_s(short) <= 1.1 * six_s
    assert last_s(long) <= 1.4 * six_s
    assert all(outcome.outside <= 1.1 for outcome in short)
    assert all(outcome.outside <= 1.45 for outcome in long)


def test_two_selections_share_what_both_want():
    """Nodes that want different variants ask once for what is in both."""
    assert all(outcome.outside <= 1.005 for outcome in outcomes("two selections"))


def test_small_chunks_travel_once_too():
    """Thousands of small chunks are claimed and fetched together."""
    outcome = CASES["small chunks"](1).run()
    assert outcome.outside <= 1.005
    assert outcome.control < 0.01
