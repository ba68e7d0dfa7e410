"""A session decides who is asked for what; these tests play the world around one node in virtual time."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2psync.limits import FIRST_CLAIM_WAIT_S, KIB, LAN_REQUESTS_MAX, MIB, PART_BYTES_MAX, PART_BYTES_MIN
from p2psync.swarm import Fault, Hello, Inventory, topic_of
from p2psync.swarm.messages import Beat, Have, Lost
from p2psync.swarm.requests import LATE_FLOOR_S
from p2psync.swarm.sources import NONSENSE_MAX, REST_FIRST_S, SLOW_WINDOW_S
from tests.unit.swarm.pieces import ROOT, bring, chunks, indexes, session

# Chunks of this size go over the outside link in one request each.
PART = PART_BYTES_MAX


def sourced(count, *names, length=PART, **options):
    """A session whose sources hold everything; one named ``seed`` is outside."""
    pull = session(chunks(count, length), **options)
    for name in names:
        pull.join(name, outside=name == "seed", holds=None, now_s=0)
    return pull


def thin(pull):
    """Nothing came for a moment, so the link is taken for one that needs many connections."""
    pull.tick(-1)
    pull.tick(0)
    return pull


def drain(pull, name, now_s=0.0):
    asks = []
    while (ask := pull.next_ask(name, now_s)) is not None:
        asks.append(ask)
    return asks


def test_two_sources_never_share_a_fresh_chunk():
    """Each chunk is asked from one source while there is other work."""
    pull = sourced(8, "a", "b", length=MIB)
    asked = []
    for turn in range(4):
        asks = [ask for name in "ab" for ask in drain(pull, name, turn)]
        asked += [i for ask in asks for i in indexes(ask)]
        for ask in asks:
            bring(pull, ask, turn + 0.9)
    assert sorted(asked) == list(range(8))


def test_a_quick_source_gets_more_at_once():
    """One request to a source that nobody knows, several to one that has shown that it is quick."""
    pull = sourced(64, "a", length=MIB)
    (first,) = drain(pull, "a")
    bring(pull, first, 0.02)
    asks = drain(pull, "a", 0.02)
    assert len(asks) == 4
    assert sum(len(ask.chunks) for ask in asks) == 16
    slow = sourced(64, "a", length=MIB)
    bring(slow, drain(slow, "a")[0], 2)
    assert len(drain(slow, "a", 2)) == 1


def test_lan_chunks_are_not_asked_outside():
    """A chunk that a fit LAN source holds is left to it; the outside link carries only the rest."""
    pull = sourced(6, "seed")
    pull.join("peer", outside=False, holds=Inventory(6, (0, 1, 2, 3)), now_s=0)
    assert [indexes(ask) for ask in drain(pull, "seed")] == [[4], [5]]


def test_outside_takes_over_when_the_peer_leaves():
    """What only a departed peer held is asked outside."""
    pull = thin(sourced(2, "peer", "seed", length=MIB))
    assert indexes(pull.next_ask("peer", 0)) == [0]
    assert pull.next_ask("seed", 0) is None
    pull.leave("peer", 0)
    asked = set()
    while asks := drain(pull, "seed"):
        asked.update(i for ask in asks for i in indexes(ask))
        for ask in asks:
            bring(pull, ask, 0)
    assert asked == {0, 1}
    assert pull.take_stops()[0].source == "peer"


def test_rival_may_leave_before_its_request_was_stopped():
    """A source that still has a request for a chunk that another one brought can leave like any other."""
    pull = sourced(1, "late", "quick", length=MIB)
    first = pull.next_ask("late", 0)
    later_s = LATE_FLOOR_S * 100
    second = pull.next_ask("quick", later_s)
    assert second.chunks == first.chunks
    bring(pull, second, later_s)
    assert pull.take_stops() == [first]
    assert pull.done
    pull.leave("late", later_s)
    assert pull.is_banned("late")
    pull.ended(first, Fault.CANCELLED, later_s)
    assert pull.done


def test_outside_takes_over_when_the_peer_is_silent():
    """A peer that owes chunks and says nothing is passed over, and trusted again once it delivers."""
    pull = sourced(6, "peer", "seed", length=MIB)
    owed = drain(pull, "peer")
    assert pull.next_ask("seed", 0) is None
    assert pull.tick(SLOW_WINDOW_S + 0.1) == ["peer"]
    assert pull.tick(SLOW_WINDOW_S + 0.2) == []
    begun = pull.next_ask("seed", SLOW_WINDOW_S + 0.2)
    assert indexes(begun) == [1]
    bring(pull, owed[0], SLOW_WINDOW_S + 1)
    assert {i for ask in drain(pull, "seed", SLOW_WINDOW_S + 1) for i in indexes(ask)} <= {1}


def test_silent_peers_that_take_turns_do_not_keep_a_chunk_from_the_seed():
    """What only a peer on trial is asked for is brought from outside, too, and not a third time."""
    pull = sourced(1, "peer", "seed")
    first = pull.next_ask("peer", 0)
    now_s = SLOW_WINDOW_S + 0.1
    assert pull.tick(now_s) == ["peer"]
    second = pull.next_ask("seed", now_s)
    assert indexes(second) == [0]
    assert drain(pull, "seed", now_s) == []
    bring(pull, second, now_s + 1)
    assert pull.take_stops() == [first]
    assert pull.done


def test_a_chunk_begun_outside_stays_claimed_when_a_peer_fails_to_give_it():
    """It was asked for nearby while the seed was away; the other nodes are not told that nobody brings it."""
    pull = sourced(1, "peer", "seed", length=MIB)
    pull.leave("peer", 0)
    ask = thin(pull).next_ask("seed", 0)
    pull.ended(ask, Fault.BROKEN, 0.1)
    assert list(pull.company.claims.mine) == [0]
    pull.join("peer", outside=False, holds=None, now_s=0.1)
    near = pull.next_ask("peer", 0.1)
    assert indexes(near) == [0]
    pull.ended(near, Fault.BROKEN, 0.2)
    assert list(pull.company.claims.mine) == [0]
    assert indexes(pull.next_ask("seed", 5.0)) == [0]


def test_late_chunk_is_doubled_once_and_the_loser_stopped():
    """An idle source asks once more for a late chunk; a third request is never made."""
    pull = sourced(1, "slow", "fast", "third", length=MIB)
    first = pull.next_ask("slow", 0)
    assert pull.next_ask("fast", LATE_FLOOR_S / 2) is None
    second = pull.next_ask("fast", LATE_FLOOR_S * 2)
    assert indexes(second) == [0]
    assert pull.next_ask("third", LATE_FLOOR_S * 9) is None
    bring(pull, second, LATE_FLOOR_S * 10)
    assert pull.take_stops() == [first]
    assert pull.take_stops() == []
    assert pull.done


def test_first_bad_chunk_costs_the_chunk_and_the_second_bans():
    """Blame is exact: one rotten chunk is not a lie yet."""
    pull = sourced(3, "a", length=MIB)
    pull.ended(pull.next_ask("a", 0), Fault.CORRUPT, 0)
    assert not pull.is_banned("a")
    assert [c.index for c in pull.hopeless()] == [0]
    second = pull.next_ask("a", 0)
    assert indexes(second) == [1]
    pull.ended(second, Fault.CORRUPT, 0)
    assert pull.is_banned("a")
    assert pull.next_ask("a", 100) is None
    assert [c.index for c in pull.hopeless()] == [0, 1, 2]


def test_one_bad_chunk_stops_what_else_the_liar_sends():
    """Two bad chunks are all that a liar costs, however many it was asked for before the first came."""
    pull = sourced(64, "a", length=MIB)
    bring(pull, drain(pull, "a")[0], 0.01)
    asks = drain(pull, "a", 0.01)
    pull.ended(asks[0], Fault.CORRUPT, 0.02)
    assert pull.take_stops() == asks[1:]
    for ask in asks[1:]:
        pull.ended(ask, Fault.CANCELLED, 0.02)
    (last,) = drain(pull, "a", 0.02)
    pull.ended(last, Fault.CORRUPT, 0.03)
    assert pull.is_banned("a")


def test_a_new_connection_is_no_new_reputation():
    """A liar that leaves and comes back may not lie twice more."""
    pull = sourced(4, "liar", length=MIB)
    pull.ended(pull.next_ask("liar", 0), Fault.CORRUPT, 0)
    pull.leave("liar", 1)
    pull.join("liar", outside=False, holds=None, now_s=2)
    ask = pull.next_ask("liar", 2)
    assert indexes(ask) == [1]
    pull.ended(ask, Fault.CORRUPT, 2)
    assert pull.is_banned("liar")
    pull.leave("liar", 3)
    pull.join("liar", outside=False, holds=None, now_s=4)
    assert pull.is_banned("liar")


def test_withdrawn_chunk_is_asked_elsewhere():
    """A source that no longer has a chunk keeps serving the others."""
    pull = sourced(2, "a", length=MIB)
    pull.ended(pull.next_ask("a", 0), Fault.WITHDRAWN, 0)
    bring(pull, pull.next_ask("a", 0), 0)
    assert pull.next_ask("a", 0) is None
    pull.join("b", outside=False, holds=None, now_s=0)
    assert indexes(pull.next_ask("b", 0)) == [0]


def test_broken_source_rests_longer_each_time_and_returns():
    """A restarted seed is asked again; one that stays down is asked ever more rarely, never forgotten."""
    pull = sourced(1, "seed")
    rests = []
    now_s = 0.0
    for _ in range(8):
        ask = pull.next_ask("seed", now_s)
        assert indexes(ask) == [0]
        pull.ended(ask, Fault.BROKEN, now_s)
        assert pull.next_ask("seed", now_s) is None
        rests.append(pull.rest_s("seed", now_s))
        now_s += rests[-1]
    assert rests[0] == REST_FIRST_S
    assert rests == sorted(rests)
    assert rests[-1] == rests[-2]
    assert not pull.is_banned("seed")


def test_nonsense_bans_after_three_and_success_forgives():
    """Answers outside the protocol ban a source only when nothing good stands between them."""
    pull = sourced(2 + NONSENSE_MAX, "a", length=MIB)
    now_s = 0.0
    for _ in range(NONSENSE_MAX - 1):
        now_s += 10
        pull.ended(pull.next_ask("a", now_s), Fault.NONSENSE, now_s)
    bring(pull, pull.next_ask("a", now_s + 10), now_s + 10)
    for _ in range(NONSENSE_MAX):
        now_s += 20
        assert not pull.is_banned("a")
        pull.ended(pull.next_ask("a", now_s), Fault.NONSENSE, now_s)
    assert pull.is_banned("a")


def test_small_chunks_travel_together():
    """A batch is bounded by bytes, so twenty thousand tiny tensors do not make as many requests."""
    pull = sourced(3000, "a", "seed", length=100)
    assert len(pull.next_ask("a", 0).chunks) == 1024
    pull.leave("a", 0)
    # Of little that is left, every connection outside has a share.
    assert len(pull.next_ask("seed", 0).chunks) == PART_BYTES_MIN // 100


def test_all_connections_work_on_the_oldest_chunk():
    """A large chunk comes in ranges, and is proved when the last one has landed."""
    pull = thin(sourced(30, "seed", length=MIB))
    asks = drain(pull, "seed")
    assert [ask.part.index for ask in asks] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    first = asks[:4]
    assert [pull.landed(ask, 1) for ask in first] == [False] * (len(first) - 1) + [True]
    pull.arrived(first[-1], first[-1].chunks[0], 1)
    assert not pull.misses(0)
    assert pull.missing_count == 29


def test_a_range_that_failed_is_asked_again_where_it_was_begun():
    """With one origin, what had landed of a chunk is kept while its rest is asked for again."""
    pull = thin(sourced(1, "seed", length=MIB))
    asks = drain(pull, "seed")
    assert sum(ask.part.length for ask in asks) == MIB
    pull.landed(asks[0], 1)
    pull.ended(asks[0], None, 1)
    pull.ended(asks[1], Fault.BROKEN, 1)
    again = pull.next_ask("seed", 2)
    assert (again.part.start, again.part.index) == (asks[1].part.start, 0)
    assert pull.expects(again)
    assert not pull.expects(asks[1])


def test_a_corrupt_chunk_of_parts_is_given_up_as_a_whole():
    """All ranges of a chunk come from one source, so that source is to blame, and none of them is kept."""
    pull = thin(sourced(2, "seed", length=PART * 2))
    pull.join("spare", outside=True, holds=None, now_s=0)
    mine = [ask for ask in drain(pull, "seed") if ask.part.index == 0]
    for ask in mine[:-1]:
        pull.landed(ask, 1)
        pull.ended(ask, None, 1)
    assert pull.landed(mine[-1], 1)
    pull.ended(mine[-1], Fault.CORRUPT, 1)
    assert not pull.brings(0)
    assert pull.misses(0)
    fresh = pull.next_ask("spare", 1)
    assert (fresh.part.index, fresh.part.start) == (0, 0)


def test_a_thick_link_takes_few_connections_and_whole_chunks():
    """Sixteen connections are for thin links: where four bring 32 MiB/s, four it stays, and no chunk is cut."""
    pull = sourced(2000, "seed", length=MIB)
    now_s = 0.0
    for _ in range(40):
        now_s += 0.05
        pull.tick(now_s)
        asks = drain(pull, "seed", now_s)
        assert len(asks) <= 4
        for ask in asks:
            bring(pull, ask, now_s + 0.02)
    assert asks
    assert all(ask.part is None for ask in asks)
    assert len(drain(thin(sourced(400, "seed", length=MIB)), "seed")) == 16


def test_nothing_is_claimed_before_the_others_have_spoken():
    """A node that was just met has a moment to say what it holds."""
    pull = sourced(2, "seed", me="me")
    pull.meet("peer", 5)
    assert pull.next_ask("seed", 5) is None
    assert pull.next_ask("seed", 5.1 + FIRST_CLAIM_WAIT_S) is not None


def test_hopeless_is_what_nobody_can_bring():
    """Chunks that are held, or that somebody who holds everything may have, are not hopeless."""
    pull = session(chunks(20))
    assert len(pull.hopeless()) == 20
    pull.join("half", outside=False, holds=Inventory(20, range(10)), now_s=0)
    assert [c.index for c in pull.hopeless()] == list(range(10, 20))
    pull.join("seed", outside=True, holds=None, now_s=0)
    assert pull.hopeless() == []


def test_the_missing_are_told_in_manifest_order():
    """What is wanted and not here, whatever order it was named in."""
    pull = session(chunks(6), have=(1,), wanted=[5, 3, 1, 0])
    assert [c.index for c in pull.missing] == [0, 3, 5]
    assert [pull.misses(i) for i in range(6)] == [True, False, False, True, False, True]


@pytest.mark.parametrize("kind", ["lan", "outside"])
def test_a_source_that_rejoins_owes_nothing(kind):
    """A request of before has no effect on the source that came back under the same name."""
    name = "seed" if kind == "outside" else "peer"
    pull = sourced(1, name)
    stale = pull.next_ask(name, 0)
    pull.leave(name, 1)
    assert pull.take_stops() == [stale]
    pull.join(name, outside=kind == "outside", holds=None, now_s=2)
    fresh = pull.next_ask(name, 2)
    pull.ended(stale, Fault.BROKEN, 3)
    assert pull.rest_s(name, 3) == 0
    bring(pull, fresh, 3)
    assert pull.done


def greeting(*held, count=8, wants=True):
    return Hello(ROOT, wants, False, True, bytes(8), Inventory(count, held))


def test_copies_are_counted_whatever_a_source_says_in_whatever_order():
    """An inventory that comes twice, from two sides, or late, leaves the numbers of copies true."""
    pull = session(chunks(8), me="me")
    topic = topic_of(ROOT)
    pull.meet("a", 0)
    pull.join("a", outside=False, holds=None, now_s=0)
    pull.hear("a", greeting(0, 1), 0)
    pull.hear("a", Have(topic, (1, 2)), 0, serves=False)
    pull.join("a", outside=False, holds=Inventory(8, (2, 3)), now_s=0)
    pull.hear("a", Have(topic, (0, 3)), 0)
    pull.hear("a", Lost(topic, (3, 7)), 0)
    ask = pull.next_ask("a", 0)
    assert indexes(ask) in ([0], [2])
    pull.ended(ask, Fault.WITHDRAWN, 0)
    (left,) = {0, 2} - set(indexes(ask))
    assert indexes(pull.next_ask("a", 0)) == [left]
    pull.part("a", 1)
    pull.meet("a", 2)
    pull.hear("a", greeting(5), 2)
    assert indexes(pull.next_ask("a", 2)) == [5]


def test_a_withdrawn_chunk_that_is_announced_again_is_asked_for_again():
    """A node that proved a chunk anew is believed; only bytes that did not prove are held against it."""
    pull = session(chunks(8), me="me")
    pull.meet("a", 0)
    pull.hear("a", greeting(4), 0)
    pull.ended(pull.next_ask("a", 0), Fault.WITHDRAWN, 0)
    assert pull.next_ask("a", 0) is None
    pull.hear("a", Have(topic_of(ROOT), (4,)), 1)
    assert indexes(pull.next_ask("a", 1)) == [4]


def test_a_node_that_lost_the_seed_goes_on_trying():
    """Where nobody reaches a source, each tries by itself: a seed that comes back is noticed."""
    pull = thin(sourced(8, "seed", length=MIB, me="me"))
    pull.meet("a", 0)
    pull.hear("a", Hello(ROOT, True, False, True, bytes(8), Inventory(8)), 0)
    now_s = 1.0
    for _ in range(6):
        for ask in drain(pull, "seed", now_s):
            pull.ended(ask, Fault.BROKEN, now_s)
        now_s += 5
        pull.tick(now_s)
    assert not pull.company.outside
    (probe,) = drain(pull, "seed", now_s)
    bring(pull, probe, now_s + 1)
    pull.tick(now_s + 2)
    assert len(drain(pull, "seed", now_s + 2)) > 1


def test_nodes_that_start_together_hear_of_each_other_first():
    """A node that has just found the seed says so, and waits until the others may have said the same."""
    pull = session(chunks(8), me="me")
    pull.meet("a", 0)
    pull.hear("a", greeting(), 0)
    pull.join("seed", outside=True, holds=None, now_s=1)
    assert pull.tell_at_s is not None
    assert pull.next_ask("seed", 1) is None
    pull.tick(1)
    assert any(isinstance(message, Beat) and message.outside for _, message in pull.take_outbox())
    assert pull.next_ask("seed", 1.1) is not None


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 60),
    liars=st.integers(0, 3),
    length=st.sampled_from([4 * KIB, PART, MIB]),
)
def test_converges_whenever_one_honest_source_holds_everything(seed, count, liars, length):
    """With one honest source and time every chunk arrives, no honest source is banned, none is asked by three."""
    rng = random.Random(seed)
    pull = session(chunks(count, length), start=rng.randrange(count))
    now_s = 0.0
    names = ["honest"] + [f"liar{i}" for i in range(liars)]
    for name in names:
        holds = None if name == "honest" else Inventory(count, [i for i in range(count) if rng.random() < 0.5])
        pull.join(name, outside=rng.random() < 0.5, holds=holds, now_s=0)
    flying = []
    for _ in range(5000):
        if pull.done:
            break
        now_s += 0.1
        pull.tick(now_s)
        for name in names:
            ask = pull.next_ask(name, now_s)
            if ask is not None:
                flying.append((now_s + rng.uniform(0.1, 6.0 if name != "honest" else 1.0), ask))
        whole = [c.index for _, ask in flying if ask.part is None for c in ask.chunks]
        assert all(whole.count(i) <= 2 for i in set(whole))
        due = [entry for entry in flying if entry[0] <= now_s]
        flying = [entry for entry in flying if entry[0] > now_s]
        for _, ask in due:
            if ask.source != "honest" and rng.random() < 0.5:
                pull.ended(ask, rng.choice([f for f in Fault if f is not Fault.CANCELLED]), now_s)
            else:
                bring(pull, ask, now_s)
        for ask in pull.take_stops():
            flying = [entry for entry in flying if entry[1] is not ask]
            pull.ended(ask, Fault.CANCELLED, now_s)
    assert pull.done
    assert not pull.is_banned("honest")
    assert not pull.missing


def test_a_reader_asks_outside_once_its_peers_bring_nothing():
    """A node that serves nobody leaves the outside to a peer, and looks for itself when nothing comes from there."""
    pull = sourced(8, "seed", me="reader", serves=False)
    pull.meet("peer", 0)
    pull.hear("peer", Hello(ROOT, True, True, True, bytes(8), Inventory(8)), 0)
    topic = topic_of(ROOT)
    for tenth in range(1, 30):
        pull.tick(tenth / 10)
        assert pull.next_ask("seed", tenth / 10) is None
        if tenth % 5 == 0:
            pull.hear("peer", Beat(topic, True, 0, 0, ()), tenth / 10)
    pull.tick(4.0)
    assert drain(pull, "seed", 4.0)


def test_records_of_those_that_left_are_bounded(monkeypatch):
    """Who was banned and comes back is banned still, unless so many have left since that nobody knows it any more."""
    monkeypatch.setattr("p2psync.swarm.session.RECORDS_KEPT_MAX", 2)
    pull = sourced(8, "a", "b", "c", length=MIB)
    now_s = 0.0
    for name in "abc":
        for _ in range(NONSENSE_MAX):
            now_s += 20
            pull.ended(pull.next_ask(name, now_s), Fault.NONSENSE, now_s)
        assert pull.is_banned(name)
        pull.leave(name, now_s)
    for name in "abc":
        pull.join(name, outside=False, holds=None, now_s=now_s)
    assert [pull.is_banned(name) for name in "abc"] == [False, True, True]


def test_requests_on_the_lan_are_bounded():
    """However many quick peers there are, a node has no more than its share of requests out, and no fewer."""
    names = [f"peer{number}" for number in range(LAN_REQUESTS_MAX + 8)]
    pull = sourced(1000, *names, length=MIB)
    out = []
    for turn in range(8):
        asks = [ask for name in names for ask in drain(pull, name, turn)]
        out.append(len(asks))
        for ask in asks:
            bring(pull, ask, turn + 0.02)
    assert max(out) == LAN_REQUESTS_MAX
