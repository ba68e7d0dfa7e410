"""The journal: believed as a whole or not at all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2psync.content import Digest
from p2psync.store.home import Identity
from p2psync.store.journal import Journal, read_journal

ROOT, SELECTION = Digest(bytes(32)), Digest(bytes([1] * 32))
WHO = Identity(1, 2, 3, 4, -5)
NUMBERS = st.lists(st.integers(0, 2**32 - 1), max_size=20)


def written(path, batches, end):
    """A journal with these batches."""
    journal = Journal(path, ROOT, SELECTION, batches[0])
    for batch in batches[1:]:
        journal.add(batch)
    if end:
        journal.end([WHO])
    journal.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("journal") / "journal"


@settings(deadline=None, max_examples=50)
@given(batches=st.lists(NUMBERS, min_size=1, max_size=4), end=st.booleans())
def test_reads_what_was_written(path, batches, end):
    """All numbers come back; identities only after a clean end."""
    written(path, batches, end)
    state = read_journal(path, ROOT, SELECTION)
    assert state.chunks == {n for batch in batches for n in batch}
    assert state.identities == ((WHO,) if end else None)


@settings(deadline=None, max_examples=50)
@given(batches=st.lists(NUMBERS, min_size=1, max_size=4), data=st.data())
def test_harm_is_never_believed(path, batches, data):
    """A journal with any byte changed or any tail missing is not believed, and never raises."""
    whole = written(path, batches, end=True)
    cut = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        harmed = whole[:cut]
    else:
        harmed = whole[:cut] + bytes([whole[cut] ^ data.draw(st.integers(1, 255))]) + whole[cut + 1 :]
    path.write_bytes(harmed)
    state = read_journal(path, ROOT, SELECTION)
    assert state.identities is None
    assert state.chunks <= {n for batch in batches for n in batch}


def test_journal_of_something_else(path):
    """Another version, another selection of files, or no journal say nothing."""
    written(path, [[1, 2]], end=True)
    for root, selection in ((SELECTION, SELECTION), (ROOT, ROOT)):
        state = read_journal(path, root, selection)
        assert (state.chunks, state.identities) == (frozenset(), None)
    assert read_journal(path.with_name("absent"), ROOT, SELECTION).chunks == frozenset()


def test_new_journal_replaces_the_old(path):
    """Work that goes on is no longer cleanly ended."""
    written(path, [[1, 2]], end=True)
    Journal(path, ROOT, SELECTION, [7]).close()
    state = read_journal(path, ROOT, SELECTION)
    assert (state.chunks, state.identities) == (frozenset({7}), None)
