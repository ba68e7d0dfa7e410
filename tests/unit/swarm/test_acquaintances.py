"""Whom a node dials and which channel stays: bounded, alike on both ends, and never to the banned."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2psync import limits
from p2psync.errors import UsageError
from p2psync.swarm.acquaintances import Acquaintances, Objection, Verdict

ME = "5" * 64
A, B, C = ("a" * 64, "b" * 64, "c" * 64)
URL = "http://192.0.2.1:7000"
OTHER = "http://192.0.2.2:7000"


def anywhere(_url: str) -> bool:
    return True


def nowhere(_url: str) -> bool:
    return False


def test_the_operators_addresses_are_dialled_as_given_and_for_ever() -> None:
    """A static peer is dialled wherever it is, and again after any number of failures and any time."""
    known = Acquaintances(ME, [URL], 0.0)
    now_s = 0.0
    for _ in range(50):
        assert known.due(now_s, nowhere) == [URL]
        assert known.due(now_s, nowhere) == []
        known.failed(URL, now_s, 0.5)
        now_s = known.next_s(now_s) or 0.0
    assert known.due(1e6, nowhere) == [URL]


def test_learnt_addresses_are_dialled_inside_the_site_only() -> None:
    """What discovery and neighbours say is dialled only where the caller says that it is near."""
    known = Acquaintances(ME, [], 0.0)
    known.heard(A[:16], [URL], 0.0)
    known.told(C, B[:16], OTHER, 0.0)
    assert known.due(0.0, nowhere) == []
    assert sorted(known.due(0.0, anywhere)) == [URL, OTHER]


def test_backoff_doubles_to_a_limit_and_is_spread() -> None:
    """Failures wait 1, 2, 4 ... 60 s, times 0.5 to 1.5; who is none of ours waits 300 s."""
    for entropy in (0.0, 0.999):
        known = Acquaintances(ME, [URL], 0.0)
        waits = []
        for _ in range(9):
            known.due(1e9, anywhere)
            known.failed(URL, 0.0, entropy)
            waits.append(known.next_s(0.0))
        base = [1, 2, 4, 8, 16, 32, 60, 60, 60]
        assert waits == pytest.approx([wait * (0.5 + entropy) for wait in base])
        known.failed(URL, 0.0, entropy, settled=True)
        assert known.next_s(0.0) == pytest.approx(300 * (0.5 + entropy))


def test_a_nodes_addresses_are_tried_one_after_another() -> None:
    """The next address of a node is dialled when the one before was silent for a second, or has failed."""
    known = Acquaintances(ME, [], 0.0)
    known.heard(A[:16], [URL, OTHER], 0.0)
    (first,) = known.due(0.0, anywhere)
    assert known.due(0.5, anywhere) == []
    (second,) = known.due(1.0, anywhere)
    assert {first, second} == {URL, OTHER}
    known = Acquaintances(ME, [], 0.0)
    known.heard(A[:16], [URL, OTHER], 0.0)
    known.failed(*known.due(0.0, anywhere), 0.1, 0.5)
    assert known.due(0.1, anywhere) == [({URL, OTHER} - {first}).pop()]


def test_the_smaller_id_dials_first() -> None:
    """A node that can be dialled leaves a smaller id a moment to do so; one that only pulls does not wait."""
    low, high = "1" * 64, "9" * 64
    known = Acquaintances(ME, [], 0.0)
    known.heard(low[:16], [URL], 0.0)
    known.heard(high[:16], [OTHER], 0.0)
    assert known.due(0.0, anywhere) == [OTHER]
    assert known.due(limits.YIELD_S, anywhere) == [URL]
    pulling = Acquaintances(ME, [], 0.0, dialled=False)
    pulling.heard(low[:16], [URL], 0.0)
    assert pulling.due(0.0, anywhere) == [URL]


def test_an_address_that_leads_to_nothing_is_not_hammered() -> None:
    """Somebody who answers and parts at once is dialled again after a while, not in a circle."""
    known = Acquaintances(ME, [URL], 0.0)
    known.due(0.0, anywhere)
    known.reached(URL, A, 0.0)
    assert known.due(limits.REDIAL_MIN_S - 0.1, anywhere) == []
    assert known.due(limits.REDIAL_MIN_S, anywhere) == [URL]


def test_who_is_live_is_not_dialled_until_it_left() -> None:
    """A node with a channel is not dialled at any of its addresses; when the channel ends it is, soon."""
    known = Acquaintances(ME, [], 0.0)
    known.heard(A[:16], [URL, OTHER], 0.0)
    (url,) = known.due(0.0, anywhere)
    known.reached(url, A, 0.1)
    assert known.joined(A, url, 0.1, by_me=True) is Verdict.KEEP
    assert known.live == {A}
    assert known.due(100.0, anywhere) == []
    known.left(A, 100.0, 0.5)
    assert known.live == frozenset()
    assert known.next_s(100.0) == pytest.approx(101.0)
    assert known.due(101.0, anywhere) != []


def test_the_address_of_whoever_dialled_us_is_kept() -> None:
    """A node that we know only from its own dial is dialled when its channel is lost."""
    known = Acquaintances(ME, [], 0.0)
    known.joined(A, URL, 0.0, by_me=False)
    known.joined(B, None, 0.0, by_me=False)
    known.left(A, 1.0, 0.0)
    known.left(B, 1.0, 0.0)
    assert known.due(2.0, anywhere) == [URL]


def test_a_goodbye_forgets_what_discovery_said() -> None:
    """What was announced and taken back is not dialled, unless others speak for it; new addresses replace old."""
    known = Acquaintances(ME, [OTHER], 0.0)
    known.heard(A[:16], [URL, OTHER], 0.0)
    known.lost(A[:16])
    assert known.due(0.0, anywhere) == [OTHER]
    known.heard(B[:16], ["http://192.0.2.3:1", "http://192.0.2.4:1"], 0.0)
    known.heard(B[:16], ["http://192.0.2.4:1"], 0.0)
    assert known.due(0.0, anywhere) == ["http://192.0.2.4:1"]


def test_our_own_announcement_is_no_acquaintance() -> None:
    """A node does not learn its own addresses from others."""
    known = Acquaintances(ME, [], 0.0)
    known.heard(ME[:16], [URL], 0.0)
    known.told(A, ME[:16], OTHER, 0.0)
    assert len(known) == 0


def test_hearsay_does_not_change_what_is_known() -> None:
    """A neighbour cannot make a node's address pass for that of a live one, so that nobody dials it."""
    known = Acquaintances(ME, [], 0.0)
    known.joined(B, None, 0.0, by_me=False)
    known.heard(A[:16], [URL], 0.0)
    known.told(C, B[:16], URL, 0.0)
    assert known.due(0.0, anywhere) == [URL]


def test_addresses_that_nobody_speaks_of_are_forgotten() -> None:
    """A learnt address is forgotten after its time; being spoken of again keeps it."""
    known = Acquaintances(ME, [], 0.0)
    known.heard(A[:16], [URL], 0.0)
    known.told(C, B[:16], OTHER, 0.0)
    known.told(C, B[:16], OTHER, 600.0)
    assert known.due(limits.PLACE_KEEP_S + 1, anywhere) == [OTHER]
    assert len(known) == 1


def test_the_banned_are_not_spoken_with_until_their_time() -> None:
    """A banned node is neither dialled nor admitted, and both again when the ban has ended."""
    known = Acquaintances(ME, [], 0.0)
    known.heard(A[:16], [URL], 0.0)
    known.ban(A, "bad chunks", 50.0)
    assert [ban.reason for ban in known.bans(0.0)] == ["bad chunks"]
    assert known.due(0.0, anywhere) == []
    assert known.objection(A, 49.0) is Objection.BANNED
    assert known.objection(A, 50.0) is None
    assert known.due(50.0, anywhere) == [URL]
    assert known.bans(50.0) == []


def test_bans_are_bounded() -> None:
    """Of more bans than are kept, the one that ends first goes."""
    known = Acquaintances(ME, [], 0.0)
    for number in range(limits.BANS_MAX + 10):
        known.ban(f"{number:064x}", "", 1000.0 - number / 100)
    kept = known.bans(0.0)
    assert len(kept) == limits.BANS_MAX
    assert min(ban.until_s for ban in kept) > 1000.0 - (limits.BANS_MAX + 10) / 100 + 0.05


def test_there_is_a_cap_on_channels() -> None:
    """With as many nodes live as may be, another is refused, and one of those may still replace its channel."""
    known = Acquaintances(ME, [], 0.0)
    for number in range(limits.CHANNELS_MAX):
        assert known.objection(f"{number:064x}", 0.0) is None
        known.joined(f"{number:064x}", None, 0.0, by_me=False)
    assert known.objection(A, 0.0) is Objection.FULL
    assert known.objection(f"{0:064x}", 0.0) is None


def test_dials_that_cross_are_turned_down_by_the_smaller_id() -> None:
    """A node makes no second channel to a live one; while its own dial is young it turns down a larger id's only."""
    known = Acquaintances(ME, [], 0.0)
    known.joined(C, None, 0.0, by_me=False)
    assert known.crosses(C, 0.0, by_me=True)
    assert not known.crosses(C, 0.0, by_me=False)
    for node, turned_down in ((A, True), ("1" * 64, False)):
        known = Acquaintances(ME, [], 0.0)
        known.heard(node[:16], [URL], 0.0)
        assert not known.crosses(node, 1.0, by_me=False)
        assert known.due(1.0, anywhere) == [URL]
        assert known.crosses(node, 1.0, by_me=False) is turned_down
        assert not known.crosses(node, 1.0, by_me=True)
        # A dial that hangs keeps nobody out: the other side's may be the only way.
        assert not known.crosses(node, 1.0 + limits.NEXT_ADDRESS_S, by_me=False)


def test_too_many_static_peers_are_refused() -> None:
    """An operator who names more peers than are kept is told so."""
    with pytest.raises(UsageError, match="256 is the most"):
        Acquaintances(ME, [str(number) for number in range(257)], 0.0)


@pytest.mark.parametrize("low_first", [True, False])
@pytest.mark.parametrize("orders", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_both_ends_keep_the_same_one_of_two_channels(low_first: bool, orders: tuple[int, int]) -> None:
    """When two nodes dial each other at once, both keep the channel that the smaller id dialled, in whatever order
    each end sees the two.
    """
    low, high = (A, B) if low_first else (B, A)
    smaller = min(low, high)
    ends = {low: Acquaintances(low, [], 0.0), high: Acquaintances(high, [], 0.0)}
    kept: dict[str, str] = {}
    for (me, known), order in zip(ends.items(), orders, strict=True):
        other = high if me == low else low
        dials = [low, high] if order == 0 else [high, low]
        for number, dialler in enumerate(dials):
            verdict = known.joined(other, None, 0.01 * number, by_me=dialler == me)
            if verdict is not Verdict.REFUSE:
                kept[me] = dialler
    assert kept == {low: smaller, high: smaller}


def test_a_later_channel_replaces_one_that_the_other_side_lost() -> None:
    """A node that dials although it has a channel lost it: after a crash its new channel stays, whoever is smaller."""
    for me in ("0" * 64, "f" * 64):
        for by_me in (True, False):
            known = Acquaintances(me, [], 0.0)
            known.joined(A, None, 0.0, by_me=by_me)
            assert known.joined(A, None, limits.HANDSHAKE_TIMEOUT_S, by_me=False) is Verdict.REPLACE
    known = Acquaintances(ME, [], 0.0)
    known.joined(A, None, 0.0, by_me=False)
    assert known.joined(A, None, 0.1, by_me=False) is Verdict.REPLACE


NODES = [f"{number:x}" * 64 for number in (1, 2, 10, 11)] + [ME]
ADDRESSES = [f"http://192.0.2.{number}:7000" for number in range(12)]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["heard", "lost", "told", "due", "failed", "settled", "reached", "joined", "left", "ban"]),
        st.sampled_from(NODES),
        st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=10),
        st.floats(0, 400),
        st.booleans(),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_what_holds_whatever_arrives(steps) -> None:
    """Tables stay bounded, nobody banned or live is dialled, nobody is live twice, and the operator's stay."""
    known = Acquaintances(ME, ADDRESSES[:2], 0.0)
    now_s = 0.0
    dialling: set[str] = set()
    for what, node, urls, pause_s, flag in steps:
        now_s += pause_s
        if what == "heard":
            known.heard(node[:16], urls, now_s)
        elif what == "lost":
            known.lost(node[:16])
        elif what == "told":
            known.told(NODES[0], node[:16], urls[0], now_s)
        elif what == "due":
            for url in known.due(now_s, anywhere):
                assert url not in dialling
                shunned = known.live | {ban.node for ban in known.bans(now_s)} | {ME}
                assert known._places[url].prefix not in {other[:16] for other in shunned}
                dialling.add(url)
        elif what in ("failed", "settled"):
            known.failed(urls[0], now_s, 0.5, settled=what == "settled")
            dialling.discard(urls[0])
        elif what == "reached" and urls[0] in dialling:
            known.reached(urls[0], node, now_s)
            dialling.discard(urls[0])
        elif what == "joined" and node != ME:
            was_live = node in known.live
            verdict = known.joined(node, urls[0] if flag else None, now_s, by_me=flag)
            assert (verdict is Verdict.KEEP) == (not was_live)
        elif what == "left":
            known.left(node, now_s, 0.5)
        elif what == "ban":
            known.ban(node, "", now_s + 100.0)
        assert len(known) <= len(ADDRESSES)
        labels = Counter(place.prefix for place in known._places.values() if place.prefix is not None)
        assert {prefix: len(urls) for prefix, urls in known._of_node.items()} == labels
        assert +known._said == Counter(place.teller for place in known._places.values() if not place.static)
        assert len(dialling) <= limits.DIALS_MAX
        next_s = known.next_s(now_s)
        assert next_s is None or next_s > now_s
    known.due(now_s + 1e6, anywhere)
    assert len(known) >= 2


def test_tables_stay_bounded_under_floods() -> None:
    """Made-up announcements and hearsay fill no more than their share, and what was proven outlives them."""
    known = Acquaintances(ME, [], 0.0)
    known.heard(A[:16], [URL], 0.0)
    known.reached(*known.due(0.0, anywhere), A, 0.0)
    known.joined(A, URL, 0.0, by_me=True)
    known.left(A, 0.0, 0.0)
    for number in range(600):
        known.told(C, f"{number:016x}", f"http://192.0.2.9:{number}", 1.0)
    assert len(known) <= 1 + limits.PLACES_PER_TELLER_MAX
    for number in range(3000):
        known.heard(f"{number:016x}", [f"http://10.0.{number % 250}.{k}:{number}" for k in range(12)], 2.0)
    assert limits.PLACES_MAX - 32 <= len(known) <= limits.PLACES_MAX
    seen: Counter[str] = Counter()
    now_s = 3.0
    while now_s < 600.0 and URL not in seen:
        for url in known.due(now_s, anywhere):
            seen[url] += 1
            known.failed(url, now_s, 0.5)
        now_s += 1.0
    assert URL in seen


def test_few_addresses_are_dialled_at_once() -> None:
    """The next ones wait until one of these has ended."""
    known = Acquaintances(ME, [f"http://192.0.2.{number}:7000" for number in range(1, 40)], 0.0)
    first = known.due(0.0, anywhere)
    assert len(first) == limits.DIALS_MAX
    assert known.due(0.0, anywhere) == []
    known.failed(first[0], 0.0, 0.5)
    assert len(known.due(0.0, anywhere)) == 1


def test_addresses_of_one_node_are_bounded() -> None:
    """A neighbour that makes up addresses of a node fills no more than that node's share."""
    known = Acquaintances(ME, [], 0.0)
    for number in range(40):
        known.told(C, A[:16], f"http://192.0.2.9:{7000 + number}", 1.0)
        assert len(known) <= limits.PLACES_PER_NODE_MAX
    assert len(known) == limits.PLACES_PER_NODE_MAX
