"""The nodes of forms: what is written is read back, what does not add up is refused, and numbers are everybody's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.content import Digest
from p2psync.errors import DigestMismatchError, MalformedError
from p2psync.limits import BASES_MAX, CHUNK_BYTES, FORM_NODE_ROWS_MAX, FORM_SETS_MAX
from p2psync.manifest import Encoded, FormsReader, Piece, SetKind, build_forms, cbor
from p2psync.manifest.forms import decode_forms, decode_rows, encode_rows

CHUNKS = 5000
RAW = 10**9
BASE = Digest.of(b"base")
KEY = bytes(32)


def digest_of(number: int) -> Digest:
    return Digest.of(b"%d" % number)


def rows_of(chunks, *, bases=()):
    return [Encoded(chunk, 1, digest_of(chunk), 100 + chunk % 50, bases) for chunk in chunks]


def read(nodes, top, encoded, wants=None):
    reader = FormsReader(top, encoded, CHUNKS, wants)
    while wanted := reader.missing():
        for digest in wanted:
            reader.feed(digest, nodes[digest])
    return reader


def test_rows_keep_their_numbers_whatever_is_read_of_them():
    """Who reads one node numbers its rows like who reads all, or two nodes would not mean the same encoded chunk."""
    full = rows_of(range(FORM_NODE_ROWS_MAX * 2 + 5))
    deltas = rows_of(range(7, 3000, 3), bases=(Piece(BASE),))
    nodes, top, count = build_forms([(SetKind.FULL, None, RAW, full), (SetKind.DELTA, BASE, RAW, deltas)])
    every = {number: row for number, _, row in read(nodes, top, count).rows()}
    assert list(every) == list(range(CHUNKS, CHUNKS + count))
    assert list(every.values()) == full + deltas

    some = read(nodes, top, count, lambda one, first, end: first <= 1500 < end)
    found = {number: row for number, _, row in some.rows()}
    assert found
    assert len(some.nodes()) == 1 + 2
    assert found.items() <= every.items()
    assert {row.chunk for row in found.values()} >= {1500}


def test_unwanted_sets_are_not_asked_for():
    """A node without the base reads the list of sets and nothing of the deltas."""
    nodes, top, count = build_forms(
        [(SetKind.FULL, None, RAW, rows_of([1])), (SetKind.DELTA, BASE, RAW, rows_of([2], bases=(Piece(BASE),)))]
    )
    reader = read(nodes, top, count, lambda one, first, end: one.kind is SetKind.FULL)
    assert [row.chunk for _, _, row in reader.rows()] == [1]
    assert [one.kind for one in reader.sets] == [SetKind.FULL, SetKind.DELTA]


def test_empty_sets_make_no_forms():
    """A version of which nothing could be encoded names no forms at all."""
    assert build_forms([(SetKind.FULL, None, 0, []), (SetKind.DELTA, BASE, 0, [])]) == ({}, None, 0)


@st.composite
def sets_of_rows(draw):
    chunks = sorted(draw(st.sets(st.integers(0, CHUNKS - 1), min_size=1, max_size=40)))
    piece = st.builds(
        lambda n, o, s: Piece(digest_of(n), o if s else 0, s), st.integers(), *[st.integers(0, 1 << 19)] * 2
    )
    bases = draw(st.sampled_from(["none", "whole", "pieces"]))
    per_row = {
        "none": st.just(()),
        "whole": st.builds(lambda n: (Piece(digest_of(n)),), st.integers()),
        "pieces": st.lists(piece, min_size=1, max_size=4).map(tuple),
    }[bases]
    return [
        Encoded(c, draw(st.integers(0, 255)), digest_of(c), draw(st.integers(1, CHUNK_BYTES - 1)), draw(per_row))
        for c in chunks
    ]


@given(sets_of_rows())
def test_rows_are_read_as_they_were_written(rows):
    """Every column survives, with whole bases and with pieces of several."""
    assert list(decode_rows(encode_rows(rows), CHUNKS)) == rows


@given(st.data())
def test_a_changed_byte_is_refused_or_read_as_other_rows(data):
    """No change of a node of rows ends in anything but a named error or rows that write themselves the same."""
    written = bytearray(encode_rows(rows_of([3, 4, 90], bases=(Piece(BASE),))))
    place = data.draw(st.integers(0, len(written) - 1))
    written[place] ^= data.draw(st.integers(1, 255))
    try:
        rows = decode_rows(bytes(written), CHUNKS)
    except MalformedError:
        return
    assert encode_rows(rows) == bytes(written)


def column(**changes):
    node = {0: 5, 1: bytes(4), 2: bytes(32), 3: (9).to_bytes(4), 4: b"\x01"}
    return cbor.encode({**node, **{int(key[1:]): value for key, value in changes.items()}})


ROWS = {
    "no rows": column(_1=b"", _2=b"", _3=b"", _4=b""),
    "a column that is short": column(_4=b""),
    "half a number": column(_1=bytes(3)),
    "a chunk past the version": column(_1=CHUNKS.to_bytes(4)),
    "chunks that do not ascend": column(_1=bytes(8), _2=bytes(64), _3=(9).to_bytes(4) * 2, _4=b"\x01\x01"),
    "an empty encoded chunk": column(_3=bytes(4)),
    "one as long as a chunk": column(_3=CHUNK_BYTES.to_bytes(4)),
    "too few bases": column(_5=b""),
    "bases that are no array": column(_6=b""),
    "half a piece": column(_6=[[bytes(32), 0]]),
    "a piece past its chunk": column(_6=[[bytes(32), CHUNK_BYTES, 1]]),
    "an offset without a length": column(_6=[[bytes(32), 5, 0]]),
    "too many pieces": column(_6=[[bytes(32), 0, 1] * 5]),
    "whole bases written as pieces": column(_6=[[bytes(32), 0, 0]]),
    "a key of nobody": column(_9=1),
    "another kind": column(_0=4),
    "no map": cbor.encode([1]),
}


@pytest.mark.parametrize("what", ROWS)
def test_rows_that_do_not_hold_are_refused(what):
    """Each is a named error before anything is fetched by it."""
    with pytest.raises(MalformedError):
        decode_rows(ROWS[what], CHUNKS)


def one_set(**changes):
    fields = {"kind": 1, "base": bytes(32), "count": 1, "raw": 5, "encoded": 3, "nodes": bytes(32), "firsts": bytes(4)}
    return cbor.encode({0: 4, 1: [list({**fields, **changes}.values())]})


SETS = {
    "an unknown kind": one_set(kind=3),
    "deltas from nothing": one_set(base=b""),
    "full forms with a base": one_set(kind=0),
    "no rows": one_set(count=0, nodes=b"", firsts=b""),
    "more rows than nodes hold": one_set(count=FORM_NODE_ROWS_MAX + 1),
    "more nodes than rows need": one_set(nodes=bytes(32) + bytes([1] * 32), firsts=bytes(8)),
    "nodes without a first chunk": one_set(firsts=b""),
    "another count than the root's": one_set(count=2),
    "a count past every bound": one_set(count=1 << 40),
    "two sets of one base": cbor.encode(
        {0: 4, 1: [[1, bytes(32), 1, 5, 3, bytes([n] * 32), bytes(4)] for n in (0, 1)]}
    ),
    "nothing is gained": one_set(encoded=5),
    "no bytes": one_set(raw=0, encoded=0),
    "fewer bytes than chunks": one_set(count=4, encoded=3),
    "a field too few": cbor.encode({0: 4, 1: [[1, bytes(32), 1]]}),
}


@pytest.mark.parametrize("what", SETS)
def test_sets_that_do_not_hold_are_refused(what):
    """The list of sets is checked before a node of rows is asked for."""
    with pytest.raises(MalformedError):
        decode_forms(SETS[what], 2 if what == "two sets of one base" else 1)


RULES = {
    "another number of bases": (column(_5=b""), "columns of a set of forms are not equal"),
    "another number of rows": (
        column(_6=[[KEY, 0, 1]] * 2),
        "columns of a set of forms are not equally long",
    ),
    "a base that is short": (column(_6=[[KEY[1:], 0, 1]]), "the base of a chunk: no digest of 32 bytes"),
}


@pytest.mark.parametrize("case", RULES)
def test_bases_of_rows_are_refused_by_their_own_rule(case):
    """Bases stand in a column of their own, which is as long as the others and holds whole digests."""
    node, why = RULES[case]
    with pytest.raises(MalformedError, match=why):
        decode_rows(node, CHUNKS)


@pytest.mark.parametrize(
    ("count", "nodes"),
    [(0, b""), (FORM_NODE_ROWS_MAX + 1, KEY), (1, KEY + BASE), (FORM_NODE_ROWS_MAX + 1, KEY * 2)],
    ids=["no rows", "a node too few", "a node too many", "one node twice"],
)
def test_a_set_has_as_many_nodes_as_its_rows_fill(count, nodes):
    """A row has one place, and so one number: no node is left out, is more than is due, or stands twice."""
    firsts = b"".join(n.to_bytes(4) for n in range(len(nodes) // 32))
    node = one_set(count=count, nodes=nodes, firsts=firsts, raw=1 << 20, encoded=1 << 19)
    with pytest.raises(MalformedError, match=f"a set of {count} encoded chunks in {len(nodes) // 32} nodes"):
        decode_forms(node, count)


def test_the_number_of_sets_is_bounded():
    """The full forms, a set of deltas for every base that a version may name, and the residuals: no more."""
    sets = [[1, bytes(digest_of(n)), 1, 5, 3, bytes(digest_of(-n)), bytes(4)] for n in range(1, FORM_SETS_MAX + 2)]
    assert BASES_MAX + 2 == FORM_SETS_MAX
    assert len(decode_forms(cbor.encode({0: 4, 1: sets[:-1]}), FORM_SETS_MAX)) == FORM_SETS_MAX
    with pytest.raises(MalformedError, match=f"the sets of forms: {FORM_SETS_MAX + 1} values, more than"):
        decode_forms(cbor.encode({0: 4, 1: sets}), FORM_SETS_MAX + 1)


def test_who_sends_another_node_is_at_fault_and_who_signed_a_bad_one_is_another():
    """Wrong bytes are the source's, right bytes that do not hold the publisher's; a wanted node stays wanted."""
    nodes, top, count = build_forms([(SetKind.FULL, None, RAW, rows_of([1]))])
    reader = FormsReader(top, count, CHUNKS)
    with pytest.raises(DigestMismatchError):
        reader.feed(top, b"other")
    assert reader.missing() == [top]
    lying = FormsReader(top, count + 1, CHUNKS)
    with pytest.raises(MalformedError):
        lying.feed(top, nodes[top])


def test_a_node_with_other_rows_than_its_set_says_is_refused():
    """Numbers would shift otherwise: every encoded chunk after it would be taken for another."""
    nodes, top, count = build_forms([(SetKind.FULL, None, RAW, rows_of([1, 2]))])
    [(kind, base, _, raw, encoded, digests, firsts)] = cbor.decode(nodes[top])[1]
    fewer = encode_rows(rows_of([1]))
    lie = cbor.encode({0: 4, 1: [[kind, base, 2, raw, encoded, Digest.of(fewer), firsts]]})
    reader = read({Digest.of(lie): lie, Digest.of(fewer): fewer}, Digest.of(lie), 2)
    with pytest.raises(MalformedError):
        list(reader.rows())
    assert len(digests) == 32
    assert count == 2


@pytest.mark.parametrize(
    ("kind", "base", "bases"),
    [(SetKind.FULL, None, (Piece(BASE),)), (SetKind.DELTA, BASE, ())],
    ids=["a full form with a base", "a delta without one"],
)
def test_rows_need_what_the_kind_of_their_set_says(kind, base, bases):
    """Or a reader would ask for a base that nobody planned, or decode without one."""
    nodes, top, count = build_forms([(kind, base, RAW, rows_of([1, 2], bases=bases))])
    with pytest.raises(MalformedError, match="other bases than its kind says"):
        list(read(nodes, top, count).rows())
