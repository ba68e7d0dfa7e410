"""The two queues: of the LAN sources, and of the sources outside."""

from p2psync.limits import CHUNK_BYTES
from p2psync.swarm import Inventory
from p2psync.swarm.far import Far
from p2psync.swarm.near import Near
from p2psync.swarm.sources import Source
from tests.unit.swarm.pieces import chunks


def missing(count, length=CHUNK_BYTES):
    return {chunk.index: chunk for chunk in chunks(count, length)}


def holder(count, *held):
    return Source(outside=False, holds=Inventory(count, held))


def taken(batch):
    return [chunk.index for chunk in batch]


def yes(_index):
    return True


def test_the_rarest_of_the_first_few_comes_first():
    """What one node alone holds is taken before what many hold."""
    near = Near(4, missing(4))
    one, two = holder(4, 0, 1, 2, 3), holder(4, 0, 1, 3)
    near.join("one", one, range(4))
    near.join("two", two, range(4))
    assert [near.copies(i) for i in range(4)] == [2, 2, 1, 2]
    assert taken(near.take("one", one, yes)) == [2]
    near.leave("two", two)
    assert [near.copies(i) for i in range(4)] == [1, 1, 1, 1]


def test_what_is_put_aside_comes_back_once():
    """A chunk that may not be asked for yet is not looked at again until it is free."""
    near = Near(2, missing(2))
    one = holder(2, 0, 1)
    near.join("one", one, range(2))
    looked = []

    def verdict(index):
        looked.append(index)

    assert near.take("one", one, verdict) == []
    assert near.take("one", one, verdict) == []
    assert looked == [0, 1]
    near.free([1, 1])
    assert taken(near.take("one", one, yes)) == [1]
    assert near.take("one", one, yes) == []


def test_what_somebody_is_asked_for_comes_back_when_it_failed():
    """A chunk that is under way leaves the queues, and returns to those whose source has it."""
    near = Near(3, missing(3))
    one, two = holder(3, 0, 1), holder(3, 1, 2)
    near.join("one", one, range(3))
    near.join("two", two, range(3))
    assert near.take("one", one, lambda _: False) == []
    near.requeue({"one": one, "two": two}.__getitem__, [0, 1])
    assert taken(near.take("one", one, yes)) == [0]
    assert taken(near.take("one", one, yes)) == [1]
    assert taken(near.take("two", two, yes)) in ([1], [2])


def test_news_come_first():
    """A chunk that was just proved is asked for before what has been there for long."""
    near = Near(4, missing(4))
    one, two = holder(4, 0, 1), holder(4, 0, 1)
    near.join("one", one, range(4))
    near.join("two", two, range(4))
    one.holds.add([3])
    near.offer("one", [3])
    assert taken(near.take("one", one, yes)) == [3]


def test_small_chunks_share_a_request():
    """A request is bounded by bytes and by number."""
    near = Near(3000, missing(3000, 100))
    one = Source(outside=False, holds=None)
    near.join("one", one, range(3000))
    assert near.whole == 1
    assert len(near.take("one", one, yes)) == 1024
    near.leave("one", one)
    assert near.whole == 0


def test_own_chunks_come_first_and_then_any():
    """A rank orders; it never gives a chunk away."""
    far = Far(missing(6), range(6))
    seed = Source(outside=True, holds=None)

    def odd(index):
        return index % 2 == 1

    order = [taken(far.take(seed, yes, odd, budget=0))[0] for _ in range(6)]
    assert order == [1, 3, 5, 0, 2, 4]
    assert far.take(seed, yes, odd, budget=0) == []


def test_claimed_chunks_wait_until_they_are_free():
    """What others bring is put aside; freed, it is next. What an origin does not have stays for the others."""
    far = Far(missing(3), range(3))
    seed, half = Source(outside=True, holds=None), Source(outside=True, holds=Inventory(3, [2]))
    assert taken(far.take(half, lambda i: i != 1, yes, budget=0)) == [2]
    assert taken(far.take(seed, lambda i: i != 1, yes, budget=0)) == [0]
    assert far.take(seed, yes, yes, budget=0) == []
    far.free([1])
    assert taken(far.take(seed, yes, yes, budget=0)) == [1]


def test_another_choice_of_fetchers_ranks_anew():
    """When others fetch, what was passed over is looked at again."""
    far = Far(missing(4), range(4))
    seed = Source(outside=True, holds=None)
    assert taken(far.take(seed, yes, lambda i: i == 3, budget=0)) == [3]
    far.rank_anew()
    assert taken(far.take(seed, yes, lambda i: i == 1, budget=0)) == [1]
