import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2psync.content import Digest
from p2psync.errors import MalformedError, NotFoundError, UnsafePathError, UnsupportedVersionError
from p2psync.limits import NODE_BYTES_MAX, NODE_DEPTH_MAX, NODE_ITEMS_MAX
from p2psync.manifest import build_tree, cbor, read_tree
from p2psync.manifest.nodes import decode_chunks, decode_file, decode_group, decode_root
from tests.manifests import digest_of, sample_manifest

SIMPLE = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 64), (1 << 64) - 1), st.text(max_size=8), st.binary(max_size=40)
)
VALUES = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.integers(0, (1 << 64) - 1), inner, max_size=4)
    ),
)


@given(VALUES)
@settings(deadline=None)
def test_values_round_trip(value):
    """Every value of the subset reads back as itself, and its encoding is its only one."""
    data = cbor.encode(value)
    again = cbor.decode(data)
    assert again == value
    cbor.require_same(cbor.encode(again), data)


@given(st.binary(max_size=200))
@settings(max_examples=500, deadline=None)
def test_garbage_is_read_or_refused(data):
    """Any bytes are a value or raise MalformedError, never anything else."""
    try:
        value = cbor.decode(data)
    except MalformedError:
        return
    assert value is None or isinstance(value, (bool, int, str, bytes, list, dict))


@given(VALUES, st.data())
@settings(max_examples=200, deadline=None)
def test_every_prefix_is_refused(value, data):
    """A node that was cut short is refused, and so is one with something behind it."""
    whole = cbor.encode(value)
    with pytest.raises(MalformedError):
        cbor.decode(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(MalformedError):
        cbor.decode(whole + b"\0")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x58" + bytes(NODE_BYTES_MAX), "more than 16777216$"),
        (b"\x81" * (NODE_DEPTH_MAX + 1) + b"\0", r"deeper than 16 \(at byte 16\)"),
        (b"\x9a" + (NODE_ITEMS_MAX + 1).to_bytes(4) + bytes(NODE_ITEMS_MAX + 1), "more than 1048576 values"),
        (b"\x82\0\xc1\0", r"a tag \(at byte 2\)"),
        (b"\x81\xf9\0\0", r"a float .* \(at byte 1\)"),
        (b"\x81\x9f\xff", r"an indefinite or reserved length \(at byte 1\)"),
        (b"\x81\x5b" + b"\xff" * 8, r"ends too early \(at byte 1\)"),
        (b"\x82\0", r"ends too early \(at byte 2\)"),
        (b"\0\0", r"behind its end \(at byte 1\)"),
        (b"\xa1\x20\0", "keys are not unsigned"),
        (b"\x81\xa1\x61a\0", "keys are not unsigned"),
        (b"\xa2\0\0\0\0", "Duplicate map key"),
        (b"\x61\xff", "not readable"),
    ],
)
def test_each_refusal_is_by_its_own_rule(data, why):
    """What is outside the subset is refused where it stands, before a value is made of it."""
    with pytest.raises(MalformedError, match=why):
        cbor.decode(data)


def test_deepest_node_is_read():
    """The bound of depth itself is inside."""
    assert cbor.encode(cbor.decode(b"\x81" * NODE_DEPTH_MAX + b"\0")) == b"\x81" * NODE_DEPTH_MAX + b"\0"


@pytest.mark.parametrize("value", [object(), {1}, 1j])
def test_what_cbor_has_no_form_for_is_not_written(value):
    """A value that no node can hold is refused, or, where CBOR has a tag for it, not read back."""
    with pytest.raises(MalformedError):
        cbor.decode(cbor.encode(value))


def test_refusal_names_the_byte():
    """What is not the shortest encoding is refused with the place of the first byte that differs."""
    with pytest.raises(MalformedError, match="at byte 2") as caught:
        cbor.require_same(cbor2.dumps([1, 2]), b"\x82\x01\x18\x02")
    assert caught.value.offset == 2


KEY = bytes(digest_of("w/0"))
FILE = ["a", 5, bytes(32), 0, [[0, 5, KEY]]]
NODES = {
    "forms that nobody names": (decode_root, {0: 0, 1: 1, 2: [FILE], 16: 3}, "encoded chunks and names no forms"),
    "a file of an unknown format": (decode_root, {0: 0, 1: 1, 2: [[*FILE[:3], 9, KEY]]}, "has the unknown format 9"),
    "a group of nothing": (decode_group, {0: 2, 1: []}, "an empty group"),
    "a blob of an unknown kind": (decode_group, {0: 2, 1: [[4, 100, KEY]]}, "a blob of the unknown kind 4"),
    "chunks of an empty blob": (decode_group, {0: 2, 1: [[2, 0, KEY, "t", "BF16", [0]]]}, "an empty blob refers to"),
    "a reference that is short": (decode_group, {0: 2, 1: [[1, 9, KEY[1:]]]}, "chunk of a blob: no digest of 32"),
    "a reference that is text": (decode_group, {0: 2, 1: [[1, 9, "x" * 32]]}, "chunk of a blob: no digest of 32"),
    "a list of one chunk": (decode_chunks, {0: 3, 1: KEY}, "a chunk list of 32 bytes, not of 2 to"),
    "half a digest": (decode_chunks, {0: 3, 1: KEY * 2 + b"x"}, "a chunk list of 65 bytes, not of 2 to"),
    "a length too few": (decode_chunks, {0: 3, 1: KEY * 2, 2: (5).to_bytes(4)}, "2 digests with 4 bytes of lengths"),
    "an empty chunk": (decode_chunks, {0: 3, 1: KEY * 2, 2: bytes(4) + (5).to_bytes(4)}, "a chunk that is empty or"),
    "no map": (decode_chunks, [0, 3], "a node is not a map"),
    "a node of another kind": (decode_chunks, {0: 2, 1: KEY * 2}, r"kind 3 \(chunks\) is due, not of kind 2"),
    "a kind that is a truth value": (decode_file, {0: True, 1: KEY}, r"kind 1 \(file\) is due, not of kind True"),
}  # fmt: skip


@pytest.mark.parametrize("case", NODES)
def test_each_node_is_refused_by_its_own_rule(case):
    """A node that a publisher spoilt is refused by what is wrong with it, before a tree is made of it."""
    decode, node, why = NODES[case]
    with pytest.raises(MalformedError, match=why):
        decode(cbor.encode(node))


def spoilt_tree(tree, digest, data):
    """The tree with one node replaced and every digest above it made right again."""
    nodes = dict(tree.nodes)
    old, new = digest, data
    while True:
        fresh = Digest.of(new)
        nodes[fresh] = new
        parent = next((d for d, node in nodes.items() if old in node), None)
        if old == tree.root:
            return fresh, nodes
        assert parent is not None
        old, new = parent, nodes[parent].replace(old, fresh)


TREE = build_tree(sample_manifest())


@given(st.data())
@settings(max_examples=600, deadline=None)
def test_spoilt_node_is_refused_or_means_itself(data):
    """A tree in which any byte of any node was changed, and signed so, is refused by name, or writes to itself."""
    digest = data.draw(st.sampled_from(sorted(TREE.nodes)))
    node = bytearray(TREE.nodes[digest])
    for _ in range(data.draw(st.integers(1, 2))):
        node[data.draw(st.integers(0, len(node) - 1))] = data.draw(st.integers(0, 255))
    root, nodes = spoilt_tree(TREE, digest, bytes(node))
    try:
        manifest = read_tree(root, nodes.get)
    except (MalformedError, UnsafePathError, UnsupportedVersionError, NotFoundError):
        return  # Not found: another digest in a node is a node that nobody has.
    assert build_tree(manifest).root == root
