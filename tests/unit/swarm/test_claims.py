import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.limits import CLAIM_LEASE_S
from p2psync.swarm.claims import Claims, Held
from p2psync.swarm.ranking import Keys, rank, salt_of
from tests.unit.swarm.pieces import ROOT, chunks

KEYS = Keys(chunks(32))
LATE_S = CLAIM_LEASE_S + 0.1


def claims(me="me"):
    return Claims(me, KEYS, lambda node: salt_of(node, ROOT))


def told(holder, now_s, *, age_s=0.0, received=0):
    return Held(holder, now_s - age_s, now_s, received)


def ranks_higher(one, other, index):
    return rank(salt_of(one, ROOT), KEYS[index]) > rank(salt_of(other, ROOT), KEYS[index])


def test_a_lease_runs_while_bytes_rise():
    """A claim holds as long as its received bytes rise, and ends when they have not for a lease."""
    known = claims()
    known.hear(told("a", 0), 3)
    assert known.taken(3, CLAIM_LEASE_S)
    known.hear(told("a", 2, age_s=2, received=10), 3)
    assert known.taken(3, 2 + CLAIM_LEASE_S)
    known.hear(told("a", 4, age_s=4, received=10), 3)
    assert not known.taken(3, 2 + LATE_S)
    assert known.expire(2 + LATE_S) == [3]


def test_an_expired_claim_stops_nobody_however_often_it_is_told():
    """A stuck node that goes on beating neither blocks a chunk nor takes it back from who claims it then."""
    known = claims()
    known.hear(told("stuck", 0, received=5), 3)
    assert known.expire(LATE_S) == [3]
    assert not known.hear(told("stuck", LATE_S, age_s=LATE_S, received=5), 3)
    assert not known.taken(3, LATE_S)
    known.claim(3, LATE_S)
    assert not known.hear(told("stuck", LATE_S + 1, age_s=LATE_S + 1, received=5), 3)
    assert 3 in known.mine
    other = claims("third")
    other.hear(told("stuck", 0), 3)
    other.expire(LATE_S)
    other.hear(told("me", LATE_S), 3)
    other.hear(told("stuck", LATE_S + 1, age_s=LATE_S + 1), 3)
    assert other.others[3].holder == "me"


def test_a_stuck_holder_that_recovers_is_believed_again():
    """Bytes that rise make a lapsed claim worth something: it is the older one."""
    known = claims()
    known.hear(told("slow", 0, received=5), 3)
    known.expire(LATE_S)
    known.hear(told("slow", 5, age_s=5, received=6), 3)
    assert known.taken(3, 5)
    assert known.others[3].holder == "slow"


def test_a_node_that_is_stuck_yields_to_who_takes_over():
    """Its own claim has expired like any other: whoever claims then is not told off, nor asked beside."""
    known = claims()
    known.claim(3, 0)
    known.mine[3].got(100, 1)
    assert not known.hear(told("b", 1 + CLAIM_LEASE_S), 3)
    assert known.hear(told("b", 1 + LATE_S), 3)
    assert 3 not in known.mine


def test_who_claims_anew_and_never_brings_is_not_believed_for_ever():
    """A new claim after a lapsed one counts, a few times."""
    known = claims()
    believed = []
    for turn in range(6):
        now_s = turn * (LATE_S + 2)
        known.hear(told("a", now_s), 3)
        believed.append(known.taken(3, now_s))
        known.expire(now_s + LATE_S)
    assert believed == [True] * 3 + [False] * 3


def test_giving_up_and_claiming_again_is_a_new_claim():
    """What a node released it may claim anew, also after its lease had lapsed."""
    known = claims()
    known.hear(told("a", 0), 3)
    known.expire(LATE_S)
    known.end([3], "a")
    known.hear(told("a", 9), 3)
    assert known.taken(3, 9)


@pytest.mark.parametrize("index", range(8))
@pytest.mark.parametrize("ages", [(0.0, 0.0), (0.4, 0.0), (0.0, 0.9), (3.0, 0.0), (0.0, 3.0)])
def test_two_claims_are_settled_alike_by_both_and_by_a_third(index, ages):
    """The clearly older claim stays, else the one that ranks higher; whoever hears it, in whatever order."""
    now_s = 10.0
    clear = abs(ages[0] - ages[1]) > 1
    winner = "a" if (ages[0] > ages[1] if clear else ranks_higher("a", "b", index)) else "b"
    of = {"a": told("a", now_s, age_s=ages[0]), "b": told("b", now_s, age_s=ages[1])}
    for me, rival in (("a", "b"), ("b", "a")):
        known = claims(me)
        known.claim(index, of[me].since_s)
        assert known.hear(of[rival], index) == (winner == rival)
        assert (index in known.mine) == (winner == me)
    for first, second in (("a", "b"), ("b", "a")):
        known = claims("c")
        known.hear(of[first], index)
        known.hear(of[second], index)
        assert known.others[index].holder == winner


def test_a_second_request_settles_nothing():
    """One that is marked as made because the first is late beats nobody, and is not beaten."""
    known = claims()
    known.claim(1, 0)
    assert not known.hear(told("b", 9, age_s=9), 1, again=True)
    assert 1 in known.mine
    known.hear(told("b", 0), 2)
    known.claim(2, 9, again=True)
    assert not known.hear(told("b", 9, age_s=9), 2)
    assert 2 in known.mine
    known.hear(told("b", 0), 3)
    known.hear(told("c", 1), 3, again=True)
    assert known.others[3].holder == "b"


def test_leaving_frees_exactly_what_was_held():
    """Claims end with their holder and by its release; nobody else's do."""
    known = claims()
    for index, holder in enumerate("aab"):
        known.hear(told(holder, 0), index)
    assert known.end([0, 2], "a") == [0]
    assert known.leave("a") == [1]
    assert set(known.others) == {2}


def test_the_claim_that_lost_counts_where_the_winner_fails():
    """Its holder never heard of the winner, a liar on the far side of a division perhaps, and is at work."""
    known = claims()
    known.hear(told("liar", 0, received=5), 3)
    known.hear(told("b", CLAIM_LEASE_S - 1), 3)
    assert known.others[3].holder == "liar"
    assert known.expire(LATE_S) == []
    assert known.others[3].holder == "b"
    assert known.taken(3, LATE_S)
    assert known.expire(CLAIM_LEASE_S - 1 + LATE_S) == [3]


@pytest.mark.parametrize("winner", ["a", "c"])
def test_who_begins_anew_after_the_winner_failed_is_waited_for(winner):
    """It stopped for the winner without a word, and its second claim is not the first one told again."""
    known = claims()
    known.hear(told("b", 0), 3)
    known.hear(told(winner, 0.1, age_s=2), 3)
    assert known.others[3].holder == winner
    known.end([3], winner)
    known.hear(told("b", CLAIM_LEASE_S - 1), 3)
    assert known.taken(3, LATE_S)
    assert known.expire(LATE_S) == []
    known.hear(told("b", LATE_S, age_s=2), 3)
    assert known.expire(CLAIM_LEASE_S - 1 + LATE_S) == [3]


def test_beginning_anew_behind_another_claim_prolongs_it_no_more_than_twice():
    """Whoever brings nothing is found out there, too."""
    known = claims()
    for number in range(6):
        known.hear(told("a", 2 * number, age_s=2 * number, received=number), 3)
        known.hear(told("liar", 2 * number), 3)
    known.end([3], "a")
    assert not known.taken(3, 10)


def test_the_claim_that_lost_is_forgotten_with_its_holder_and_by_its_release():
    """A chunk that its holder gave up is free when the other's claim ends, too."""
    known = claims()
    for index in (1, 2, 3):
        known.hear(told("a", 0), index)
        known.hear(told("b", 2), index)
    assert known.end([1], "b") == []
    assert known.end([1], "a") == [1]
    assert known.leave("b") == []
    assert known.leave("a") == [2, 3]


def test_two_who_take_turns_and_bring_nothing_are_found_out():
    """Each claims what the other let lapse, before anybody looks at the time: neither is believed twice."""
    known = claims()
    beats = [("a", 0.5 * beat) for beat in range(20)] + [("b", 0.5 * beat + 0.1) for beat in range(20)]
    for holder, now_s in sorted(beats, key=lambda beat: beat[1]):
        known.hear(told(holder, now_s, age_s=now_s), 3)
    known.expire(10.0)
    assert not known.taken(3, 10.0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 8), st.booleans()), max_size=40))
def test_no_order_of_news_gives_a_chunk_two_holders(events):
    """Whatever is told, a chunk is this node's, or one other's, or both by a marked second request."""
    known = claims()
    for now_s, (holder, index, age_s, again) in enumerate(events):
        if holder == "c":
            if not known.taken(index, now_s):
                known.claim(index, now_s)
        else:
            lost = known.hear(told(holder, now_s, age_s=age_s), index, again=again)
            assert not (lost and index in known.mine)
        known.expire(now_s)
        assert all(held.holder in "ab" for held in known.others.values())
