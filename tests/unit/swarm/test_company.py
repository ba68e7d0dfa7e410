from p2psync.limits import CLAIM_LEASE_S, FIRST_CLAIM_WAIT_S
from p2psync.swarm import Inventory
from p2psync.swarm.company import Company
from p2psync.swarm.messages import Beat, Claim, Have, Hello, Job, Leave, Lost, Release, topic_of
from p2psync.swarm.ranking import Keys
from tests.unit.swarm.pieces import ROOT, chunks

TOPIC = topic_of(ROOT)


def company(*peers, serves=True, selection=bytes(8)):
    made = Company("me", ROOT, Keys(chunks(16)), selection, serves=serves)
    made.outside = True
    for peer in peers:
        made.meet(peer, 0)
        made.hear(peer, hello(), 0)
    return made


def hello(*held, wants=True, outside=True, selection=bytes(8), jobs=()):
    return Hello(ROOT, wants, outside, True, selection, Inventory(16, held), jobs)


def test_it_waits_for_what_the_others_hold_but_not_for_long():
    """A node that was met and said nothing yet holds up the first claim for a second."""
    known = company("a")
    assert known.settled(0)
    known.meet("b", 5)
    assert not known.settled(5.5)
    assert known.settled(5.1 + FIRST_CLAIM_WAIT_S)


def test_only_live_nodes_that_want_and_reach_the_source_fetch():
    """Who is done, cut off, silent or unknown to reach a source is no fetcher."""
    known = company("a", "b", "c", "d")
    known.hear("b", Leave(TOPIC), 4)
    known.hear("c", Beat(TOPIC, False, 0, 0, ()), 4)
    known.hear("d", Beat(TOPIC, True, 0, 0, ()), 4)
    known.choose(16, 0.1 + CLAIM_LEASE_S)
    assert set(known.fetchers) == {"me", "d"}
    assert sum(known.fetchers.values()) == 16


def test_a_reader_leaves_the_outside_to_the_others():
    """A node that nobody can ask fetches only when nobody else does."""
    known = company("a", serves=False)
    assert not known.offers
    known.choose(16, 0)
    assert set(known.fetchers) == {"a"}
    known.part("a")
    known.choose(16, 0)
    assert known.fetchers == {"me": 16}


def test_a_chunk_belongs_to_one_fetcher_that_wants_it():
    """Each chunk is the own one of exactly one fetcher of the same selection, and so is the second try."""
    nodes = ("a", "b", "c")
    views = {}
    for me in nodes:
        views[me] = Company(me, ROOT, Keys(chunks(16)), bytes(8))
        views[me].outside = True
        for peer in (*nodes, "other"):
            if peer != me:
                views[me].meet(peer, 0)
                views[me].hear(peer, hello(selection=b"others  " if peer == "other" else bytes(8)), 0)
        views[me].choose(16, 0)
    fetching = [me for me in nodes if me in views[me].fetchers]
    assert len(fetching) == 2
    for index in range(16):
        assert sum(views[me].own(index) for me in fetching) == 1
        seconds = [me for me in fetching if views[me].second(index, fetching[0])]
        assert seconds == [fetching[1]]


def test_what_was_said_changes_what_is_known():
    """Inventories grow by news and shrink by losses; who has a chunk has kept its promise of it."""
    known = company("a", "b")
    known.hear("a", Claim(TOPIC, True, False, (1, 2)), 0)
    known.hear("b", Claim(TOPIC, False, False, (3,)), 0)
    assert known.is_awaited(3, 1)
    assert known.hear("b", Have(TOPIC, (3,)), 1).fresh == [3]
    assert not known.is_awaited(3, 1)
    assert known.hear("a", Have(TOPIC, (1,)), 1).fresh == [1]
    assert set(known.claims.others) == {2}
    assert known.hear("a", Lost(TOPIC, (1, 9)), 1).gone == [1, 9]
    assert known.hear("a", Release(TOPIC, (2,)), 1).freed == [2]
    assert known.hear("stranger", Have(TOPIC, (5,)), 1).fresh == []


def test_who_only_says_that_it_has_a_chunk_undoes_nobodys_claim():
    """A boast of one node does not make others fetch what a third one is bringing."""
    known = company("a", "b")
    known.hear("a", Claim(TOPIC, True, False, (1,)), 0)
    known.hear("b", Have(TOPIC, (1,)), 1)
    known.hear("b", hello(*range(16)), 1)
    assert known.claims.taken(1, 1)


def test_a_greeting_starts_anew():
    """What a node promised before it greeted again is void, unless it says it again."""
    known = company("a")
    known.hear("a", Claim(TOPIC, True, False, (1, 2)), 0)
    news = known.hear("a", hello(4, jobs=(Job(2, 10, 500),)), 1)
    assert sorted(news.freed) == [1, 2]
    assert set(known.claims.others) == {2}
    assert list(news.have) == [4]


def test_leases_end_alike_for_both_kinds_of_claim():
    """Neither an outside claim nor the wait for an only copy outlives its silence."""
    known = company("a")
    known.hear("a", Claim(TOPIC, True, False, (1,)), 0)
    known.hear("a", Claim(TOPIC, False, False, (2,)), 0)
    known.hear("a", Beat(TOPIC, True, 0, 0, (Job(1, 5, 100), Job(2, 5, 100, outside=False))), 2)
    assert known.expire(1.9 + CLAIM_LEASE_S) == ([], [])
    assert known.expire(2.1 + CLAIM_LEASE_S) == ([1], [2])


def test_who_leaves_frees_what_it_promised():
    """Parting, like leaving, ends all claims of a node."""
    known = company("a", "b")
    for node, index in (("a", 1), ("b", 2)):
        known.hear(node, Claim(TOPIC, True, False, (index,)), 0)
        known.hear(node, Claim(TOPIC, False, False, (index + 4,)), 0)
    assert known.part("a") == [1, 5]
    assert known.hear("b", Leave(TOPIC), 0).freed == [2, 6]
    assert known.part("a") == []
    assert not known.helps_outside()
