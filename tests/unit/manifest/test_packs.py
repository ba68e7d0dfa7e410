import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2psync.content import Digest
from p2psync.errors import MalformedError, UnsupportedVersionError
from p2psync.limits import NODE_BYTES_MAX, PACK_BYTES_MAX
from p2psync.manifest import PACKS_PER_INDEX_MAX, Extent, Spot, decode_index, encode_index
from tests.manifests import digest_of

PACKS = [digest_of("pack 0"), digest_of("pack 1")]
NODES = {digest_of("root"): Extent(1, 0, 300), digest_of("group"): Extent(0, PACK_BYTES_MAX - 5, 5)}
SPOTS = [Spot(0, 0), Spot(0, 1 << 20), Spot(1, 300)]
GOOD = encode_index(PACKS, NODES, SPOTS)
DIGESTS = st.binary(min_size=32, max_size=32).map(Digest)


@st.composite
def indexes(draw):
    packs = draw(st.lists(DIGESTS, min_size=1, max_size=4, unique=True))
    number = st.integers(0, len(packs) - 1)
    extent = st.builds(Extent, number, st.integers(0, 1 << 25), st.integers(1, NODE_BYTES_MAX))
    spot = st.builds(Spot, number, st.integers(0, PACK_BYTES_MAX - 1))
    return packs, draw(st.dictionaries(DIGESTS, extent, max_size=5)), draw(st.lists(spot, max_size=9))


@given(indexes())
@settings(deadline=None)
def test_index_round_trips(index):
    """Every place of every node and chunk comes back, and nodes are sorted whatever their order was."""
    packs, nodes, spots = index
    data = encode_index(packs, nodes, spots)
    read = decode_index(data)
    assert read.packs == tuple(packs)
    assert read.nodes == nodes
    assert list(read) == spots
    assert [read.spot(i) for i in range(len(read))] == spots
    assert encode_index(packs, dict(reversed(nodes.items())), spots) == data


def test_places_past_the_end():
    """There is no chunk before the first or behind the last."""
    index = decode_index(GOOD)
    for number in (-1, 3):
        with pytest.raises(IndexError):
            index.spot(number)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_spoilt_index_is_refused_or_in_bounds(data):
    """With any byte changed or cut off, an index is refused by name, or every place in it is inside a pack."""
    spoilt = bytearray(GOOD[: data.draw(st.integers(0, len(GOOD)))])
    if spoilt:
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    try:
        index = decode_index(bytes(spoilt))
    except (MalformedError, UnsupportedVersionError):
        return
    assert all(pack < len(index.packs) and offset < PACK_BYTES_MAX for pack, offset in index)
    assert all(e.pack < len(index.packs) and e.offset + e.length <= PACK_BYTES_MAX for e in index.nodes.values())


def head(packs, nodes, chunks, version=1, magic=b"P2PX"):
    return struct.pack("<4sBIII", magic, version, packs, nodes, chunks)


LOW, HIGH = sorted(NODES)


def node(digest, pack, offset, length):
    return struct.pack("<32sHII", digest, pack, offset, length)


REFUSED = {
    "empty": b"",
    "magic": head(0, 0, 0, magic=b"P2PY"),
    "short head": head(0, 0, 0)[:-1],
    "trailing byte": GOOD + b"\0",
    "short": GOOD[:-1],
    "counts without bytes": head(2**32 - 1, 2**32 - 1, 2**32 - 1),
    "too many packs": head(PACKS_PER_INDEX_MAX + 1, 0, 0)
    + b"".join(i.to_bytes(32) for i in range(PACKS_PER_INDEX_MAX + 1)),
    "one pack twice": head(2, 0, 0) + PACKS[0] * 2,
    "node in no pack": head(1, 1, 0) + PACKS[0] + node(LOW, 1, 0, 5),
    "empty node": head(1, 1, 0) + PACKS[0] + node(LOW, 0, 0, 0),
    "node past its pack": head(1, 1, 0) + PACKS[0] + node(LOW, 0, PACK_BYTES_MAX - 4, 5),
    "node that overflows": head(1, 1, 0) + PACKS[0] + node(LOW, 0, 2**32 - 1, 2),
    "node too long": head(1, 1, 0) + PACKS[0] + node(LOW, 0, 0, NODE_BYTES_MAX + 1),
    "nodes unsorted": head(1, 2, 0) + PACKS[0] + node(HIGH, 0, 0, 5) + node(LOW, 0, 5, 5),
    "one node twice": head(1, 2, 0) + PACKS[0] + node(LOW, 0, 0, 5) + node(LOW, 0, 5, 5),
    "chunk in no pack": head(1, 0, 1) + PACKS[0] + struct.pack("<HI", 1, 0),
    "chunk past its pack": head(1, 0, 1) + PACKS[0] + struct.pack("<HI", 0, PACK_BYTES_MAX),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_index_is_refused(case):
    """Each way in which an index can lie about itself ends in MalformedError."""
    with pytest.raises(MalformedError):
        decode_index(REFUSED[case])


def test_index_that_is_too_long(monkeypatch):
    """An index of more bytes than any may have is refused before it is read."""
    monkeypatch.setattr("p2psync.manifest.packs.PACK_INDEX_BYTES_MAX", len(GOOD) - 1)
    with pytest.raises(MalformedError, match="more than"):
        decode_index(GOOD)


def test_index_of_another_version():
    """An index of a newer version says so."""
    with pytest.raises(UnsupportedVersionError, match="version 2"):
        decode_index(head(0, 0, 0, version=2))


@pytest.mark.parametrize(
    ("packs", "nodes", "spots"),
    [
        (PACKS, {}, [Spot(2, 0)]),
        (PACKS, {}, [Spot(0, PACK_BYTES_MAX)]),
        (PACKS, {}, [Spot(-1, 0)]),
        (PACKS, {}, [Spot(0, 1 << 32)]),
        (PACKS, {LOW: Extent(0, 0, 0)}, []),
        (PACKS * 2, {}, []),
    ],
)
def test_index_that_no_reader_accepts_is_not_written(packs, nodes, spots):
    """A place outside all packs is refused when the index is written."""
    with pytest.raises(MalformedError):
        encode_index(packs, nodes, spots)
