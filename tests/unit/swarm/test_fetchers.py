from hypothesis import given
from hypothesis import strategies as st

from p2psync.swarm.fetchers import FETCHERS_MAX, Candidate, fit, share

nodes = st.lists(
    st.builds(
        Candidate,
        st.uuids().map(str),
        st.integers(0, 1 << 64),
        st.sampled_from([b"a", b"b", b"c"]),
        st.sampled_from([0.0, 1e4, 1.5e5, 1.6e5]),
        st.sampled_from([0.0, 2.5e5, 1.2e7, 1.2e8]),
    ),
    min_size=1,
    max_size=20,
    unique_by=lambda c: c.node,
)


@given(nodes, st.integers(1, 16), st.randoms())
def test_everybody_names_the_same_fetchers(candidates, connections, rng):
    """The choice depends on what is known, not on the order in which it was heard; all connections are given away."""
    chosen = share(candidates, connections)
    shuffled = list(candidates)
    rng.shuffle(shuffled)
    assert share(shuffled, connections) == chosen
    assert sum(chosen.values()) == connections
    assert 1 <= len(chosen) <= FETCHERS_MAX
    assert max(chosen.values()) - min(chosen.values()) <= 1
    assert min(chosen.values()) >= 1


def test_a_rate_excludes_and_never_orders():
    """Faster nodes are not preferred; one far slower outside, or with a port below the whole link, is left out."""
    even = [Candidate(str(i), i, b"", 1.5e5 + i, 1.2e7) for i in range(6)]
    assert list(share(even, 16)) == ["0", "1", "2", "3"]
    slow = Candidate("slow", -2, b"", 1.5e4, 1.2e7)
    narrow = Candidate("narrow", -1, b"", 1.5e5, 2.5e5)
    assert list(share([slow, narrow, *even], 16)) == ["0", "1", "2", "3"]
    unknown = Candidate("new", -1)
    assert next(iter(share([unknown, *even], 16))) == "new"


def test_somebody_fetches_even_if_nobody_is_fit():
    """Where every port is slower than the link, all are as good as another."""
    narrow = [Candidate(str(i), i, b"", 1e7, 1e6) for i in range(3)]
    assert fit(narrow, 16) == narrow
    assert len(share(narrow, 16)) == 3


def test_each_selection_has_fetchers_of_its_own():
    """A node fetches only what it wants itself, so no selection goes without."""
    mixed = [Candidate(f"a{i}", i, b"a") for i in range(6)] + [Candidate(f"b{i}", 10 + i, b"b") for i in range(6)]
    chosen = share(mixed, 16)
    assert sorted(chosen) == ["a0", "a1", "b0", "b1"]
