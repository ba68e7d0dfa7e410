"""A session that wants other forms of chunks: what it asks for, when it goes back to the chunk, what it tells."""

from p2psync.limits import MIB
from p2psync.swarm import Fault, Hello, Inventory
from p2psync.swarm.messages import Have
from tests.unit.swarm.pieces import ROOT, bring, chunks, indexes, session

# Chunks 0 to 3; 4 to 7 are their encoded chunks.
COUNT = 4
SELECTION = bytes(8)


def wanting(*, have=(), wanted=(4, 5, 6, 7), **options):
    """A session that wants encoded chunks in the place of chunks."""
    instead = {number - COUNT: number for number in wanted if number >= COUNT}
    table = chunks(COUNT, MIB) + [chunk for chunk in chunks(2 * COUNT, 1000) if chunk.index >= COUNT]
    return session(table, have=have, wanted=wanted, instead=instead, **options)


def asked(pull, name, now_s=0.0):
    found = []
    while (ask := pull.next_ask(name, now_s)) is not None:
        found.append(ask)
    return found


def test_forms_are_asked_for_and_chunks_are_not():
    """The wanted numbers travel; nothing else does."""
    pull = wanting()
    pull.join("seed", outside=True, holds=None, now_s=0)
    asks = asked(pull, "seed")
    assert sorted(i for ask in asks for i in indexes(ask)) == [4, 5, 6, 7]
    for ask in asks:
        bring(pull, ask, 1)
    assert pull.done


def test_what_was_made_of_a_form_is_offered_too():
    """Peers hear of the form and of the chunk: who lacks the base can have the chunk."""
    pull = wanting(me="me", wanted=(4,))
    pull.meet("peer", 0)
    pull.hear("peer", Hello(ROOT, True, False, True, SELECTION, Inventory(8, ()), ()), 0)
    pull.join("seed", outside=True, holds=None, now_s=0)
    pull.take_outbox()
    for second in range(1, 4):
        for ask in asked(pull, "seed", second):
            bring(pull, ask, second)
            pull.made((0,), second)
        pull.tick(second + 0.9)
    told = {i for _, message in pull.take_outbox() if isinstance(message, Have) for i in message.indexes}
    assert told == {0, 4}


def test_a_peer_that_holds_the_chunk_itself_ends_the_wish_for_its_form():
    """The LAN is nearer than the outside link, whatever the form costs there."""
    pull = wanting()
    pull.join("peer", outside=False, holds=Inventory(8, (1,)), now_s=0)
    pull.join("seed", outside=True, holds=None, now_s=0)
    assert [indexes(ask) for ask in asked(pull, "peer")] == [[1]]
    assert sorted(i for ask in asked(pull, "seed") for i in indexes(ask)) == [4, 6, 7]


def test_a_peer_that_holds_both_gives_the_form():
    """It is smaller, and this node has its base."""
    pull = wanting()
    pull.join("peer", outside=False, holds=Inventory(8, (1, 5)), now_s=0)
    assert [indexes(ask) for ask in asked(pull, "peer")] == [[5]]


def test_what_is_on_its_way_is_not_changed_for_news():
    """A form that was asked for comes to its end, though a peer now has the chunk."""
    pull = wanting(me="me", wanted=(5,))
    pull.join("seed", outside=True, holds=None, now_s=0)
    pull.meet("peer", 0)
    pull.hear("peer", Hello(ROOT, True, False, True, SELECTION, Inventory(8, ()), ()), 0)
    (ask,) = [a for second in range(3) for a in asked(pull, "seed", second)]
    pull.hear("peer", Hello(ROOT, True, False, True, SELECTION, Inventory(8, (1,)), ()), 3)
    assert pull.misses(5)
    assert not pull.misses(1)
    bring(pull, ask, 4)
    assert pull.done


def test_a_form_that_nobody_holds_is_hopeless_until_it_is_swapped():
    """The caller sees that it will never come, and asks for the chunk itself."""
    pull = wanting(wanted=(4, 5))
    pull.join("seed", outside=True, holds=Inventory(8, (0, 1, 2, 3, 5)), now_s=0)
    assert [chunk.index for chunk in pull.hopeless()] == [4]
    assert pull.swap(4, 0)
    assert not pull.hopeless()
    assert {i for ask in asked(pull, "seed") for i in indexes(ask)} == {0}


def test_a_swap_stops_what_was_asked_and_gives_the_claim_back():
    """Its request ends, its bytes come to nothing, and the other number is asked for."""
    pull = wanting(wanted=(4,))
    pull.join("seed", outside=True, holds=None, now_s=0)
    (ask,) = asked(pull, "seed")
    assert pull.swap(4, 0)
    assert pull.take_stops() == [ask]
    pull.ended(ask, Fault.CANCELLED, 1)
    assert [chunk.index for chunk in pull.missing] == [0]
    assert [i for again in asked(pull, "seed", 9) for i in indexes(again)][:1] == [0]


def test_a_swap_of_what_is_here_or_never_was_wanted_changes_nothing():
    """False says so; what arrived stays arrived."""
    pull = wanting(wanted=(4, 5))
    pull.join("seed", outside=True, holds=None, now_s=0)
    for ask in asked(pull, "seed"):
        bring(pull, ask, 1)
    assert not pull.swap(4, 0)
    assert not pull.swap(7, 3)
    assert pull.done


def test_a_swap_for_a_chunk_that_came_otherwise_only_ends_the_wish():
    """A form whose chunk is here already is not fetched at all."""
    pull = wanting(have=(0,), wanted=(4,))
    assert pull.swap(4, 0)
    assert pull.done


def test_when_the_peer_with_the_chunk_goes_the_form_is_wanted_again():
    """A liar that announces every chunk, and is banned or leaves, costs the outside link no more than forms."""
    pull = wanting()
    pull.join("peer", outside=False, holds=Inventory(8, (0, 1, 2, 3)), now_s=0)
    pull.join("seed", outside=True, holds=None, now_s=0)
    assert {chunk.index for chunk in pull.missing} == {0, 1, 2, 3}
    pull.leave("peer", 1)
    assert {chunk.index for chunk in pull.missing} == {4, 5, 6, 7}
    assert sorted(i for ask in asked(pull, "seed", 9) for i in indexes(ask)) == [4, 5, 6, 7]


def test_a_chunk_that_is_on_its_way_stays_when_its_holder_goes():
    """What another peer already brings is not asked for in another form."""
    pull = wanting(wanted=(4, 5))
    for name in ("one", "two"):
        pull.join(name, outside=False, holds=Inventory(8, (0, 1)), now_s=0)
    (ask,) = asked(pull, "one")[:1]
    coming = set(indexes(ask))
    pull.leave("two", 1)
    assert coming <= {chunk.index for chunk in pull.missing}
