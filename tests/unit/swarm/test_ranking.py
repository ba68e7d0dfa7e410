from collections import Counter

from p2psync.limits import MIB
from p2psync.swarm.ranking import Keys, rank, salt_of
from tests.unit.swarm.pieces import ROOT, chunks


def test_nodes_share_the_chunks_evenly():
    """By rank, each of four nodes is first for about a quarter of the chunks."""
    keys = Keys(chunks(4000))
    salts = [salt_of(f"node {i}", ROOT) for i in range(4)]
    first = Counter(max(range(4), key=lambda node: rank(salts[node], keys[i])) for i in range(4000))
    assert all(900 < first[node] < 1100 for node in range(4))


def test_one_node_more_moves_only_its_own_chunks():
    """What a newcomer does not take stays where it was (rendezvous hashing)."""
    keys = Keys(chunks(1000))
    salts = [salt_of(f"node {i}", ROOT) for i in range(5)]
    for i in range(1000):
        before = max(range(4), key=lambda node: rank(salts[node], keys[i]))
        after = max(range(5), key=lambda node: rank(salts[node], keys[i]))
        assert after in (before, 4)


def test_small_neighbours_share_a_key_up_to_one_chunk_of_bytes():
    """What travels together is claimed together, in groups that stay small."""
    keys = Keys(chunks(40, MIB // 16))
    groups = Counter(keys[i] for i in range(40))
    assert sorted(groups.values()) == [8, 16, 16]
    assert len({Keys(chunks(40))[i] for i in range(40)}) == 40


def test_frozen_ranks():
    """Every implementation ranks alike."""
    assert salt_of("node", ROOT) == 0x50A1E4E90EF3BFF9
    assert rank(1, 2) == 0xA2F82BF51192428F
