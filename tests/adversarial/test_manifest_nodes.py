"""Nodes from a publisher that lies, each with right digests all the way up: every one ends in a named error."""

import cbor2
import pytest

from p2psync.content import Digest
from p2psync.errors import MalformedError, UnsafePathError, UnsupportedVersionError
from p2psync.limits import (
    BLOBS_PER_VERSION_MAX,
    CHUNK_BYTES,
    CHUNKS_PER_BLOB_MAX,
    CHUNKS_PER_VERSION_MAX,
    FILE_BYTES_MAX,
    FILES_PER_VERSION_MAX,
    GROUP_BLOBS_MAX,
    NODE_BYTES_MAX,
    NODE_DEPTH_MAX,
    NODE_ITEMS_MAX,
    TENSOR_RANK_MAX,
)
from p2psync.manifest import TreeReader, build_tree, read_tree
from p2psync.manifest.nodes import decode_chunks, decode_root
from tests.manifests import Forge, digest_of

KEY = bytes(digest_of("w/0"))
TENSOR = [2, 6, bytes(digest_of("b")), "b", "BF16", [3]]
HEADER = [1, 100, bytes(digest_of("header"))]
INLINE = [[0, 5, bytes(digest_of("x"))]]


def row(**changed):
    """The row of a small plain file, with fields replaced by position."""
    values = ["a", 5, bytes(32), 0, INLINE]
    for place, value in changed.items():
        values[int(place[1:])] = value
    return values


def root(*rows, **fields):
    return {0: 0, 1: 1, 2: list(rows)} | {int(key[1:]): value for key, value in fields.items()}


def read(forge):
    digest = forge.build()
    return read_tree(digest, forge.nodes.get)


def test_honest_forgery_is_accepted():
    """The tree that the attacks below spoil is itself a good one."""
    manifest = read(Forge())
    assert [blob.name for blob in manifest.files[0].blobs] == ["", "w", "b"]
    assert build_tree(manifest).root == Forge().build()


# The encoding: what cbor2 or another reader would take is refused all the same.
ENCODINGS = {
    "empty": b"",
    "duplicate keys": b"\xa4\x00\x03\x01\x41x\x01\x41y\x02\x40",
    "duplicate keys of two spellings": b"\xa3\x00\x03\x01\x41x\x18\x01\x41y",
    "keys out of order": b"\xa2\x01\x40\x00\x03",
    "text keys": cbor2.dumps({"kind": 3}),
    "negative keys": cbor2.dumps({0: 3, -1: b""}),
    "truth as a key": b"\xa2\x00\x03\xf5\x40",
    "array as a key": b"\xa2\x00\x03\x80\x40",
    "depth of 200,000 arrays": b"\x81" * 200_000,
    "depth of 200,000 maps": b"\xa1\x00" * 200_000,
    "depth one past the limit": b"\x81" * (NODE_DEPTH_MAX + 1) + b"\x00",
    "integer longer than it must be": b"\xa2\x00\x18\x03\x01\x40",
    "length longer than it must be": b"\xa2\x00\x03\x01\x58\x01x",
    "count longer than it must be": b"\xb8\x02\x00\x03\x01\x40",
    "indefinite map": b"\xbf\x00\x03\x01\x40\xff",
    "indefinite array": b"\x9f\x00\xff",
    "indefinite bytes": b"\xa2\x00\x03\x01\x5f\x41x\xff",
    "break alone": b"\xff",
    "reserved length": b"\x1c",
    "tag of a date": cbor2.dumps(cbor2.CBORTag(1, 0)),
    "tag of a big number": cbor2.dumps(1 << 80),
    "tag of a reference": b"\xa2\x00\x03\x01\xd8\x1d\x00",
    "tag of a pattern": b"\xd8\x23\x65(a+)+",
    "tag unknown": b"\xa2\x00\x03\x01\xda\xff\xff\xff\xff\x40",
    "float": cbor2.dumps({0: 3, 1: 1.5}),
    "float that is whole": b"\xa1\x00\xf9\x42\x00",
    "not a number": cbor2.dumps({0: 3, 1: float("nan")}),
    "infinity": cbor2.dumps({0: 3, 1: float("inf")}),
    "undefined": b"\xa2\x00\x03\x01\xf7",
    "simple value": b"\xa2\x00\x03\x01\xf8\xff",
    "null": cbor2.dumps({0: 3, 1: None}),
    "trailing byte": cbor2.dumps({0: 3, 1: KEY * 2}) + b"\x00",
    "two values": cbor2.dumps({0: 3, 1: KEY * 2}) * 2,
    "cut short": cbor2.dumps({0: 3, 1: KEY * 2})[:-1],
    "bytes of 2**63": b"\xa2\x00\x03\x01\x5b\x7f\xff\xff\xff\xff\xff\xff\xff",
    "bytes of 2**64 - 1": b"\xa2\x00\x03\x01\x5b" + b"\xff" * 8,
    "array of 2**63": b"\x9b\x7f" + b"\xff" * 7,
    "map of 2**63": b"\xbb\x7f" + b"\xff" * 7,
    "text that is not UTF-8": b"\xa2\x00\x03\x01\x61\xff",
    "text with half a surrogate pair": b"\xa2\x00\x03\x01\x63\xed\xa0\x80",
    "no map": cbor2.dumps([0, 3]),
    "more values than a node may hold": b"\x9a" + (NODE_ITEMS_MAX + 1).to_bytes(4) + b"\x80" * (NODE_ITEMS_MAX + 1),
    "more bytes than a node may have": cbor2.dumps({0: 3, 1: bytes(NODE_BYTES_MAX)}),
    "no kind": cbor2.dumps({1: KEY * 2}),
    "kind that is a truth value": cbor2.dumps({0: True, 1: KEY * 2}),
    "kind of another node": cbor2.dumps({0: 2, 1: KEY * 2}),
    "kind unknown": cbor2.dumps({0: 4, 1: KEY * 2}),
    "unknown field": cbor2.dumps({0: 3, 1: KEY * 2, 9: 0}, canonical=True),
}


@pytest.mark.parametrize("place", ["chunks", "group", "file", "root"])
@pytest.mark.parametrize("attack", ENCODINGS)
def test_encoding(attack, place):
    """Whatever is not the one encoding of a node of its kind is refused, wherever in the tree it stands."""
    with pytest.raises(MalformedError):
        read(Forge(**{place: ENCODINGS[attack]}))


CHUNK_LISTS = {
    "no digests": {0: 3, 1: b""},
    "one digest": {0: 3, 1: KEY},
    "three digests for two chunks": {0: 3, 1: b"".join(digest_of(str(i)) for i in range(3))},
    "half a digest": {0: 3, 1: KEY * 2 + b"x"},
    "digests in an array": {0: 3, 1: [KEY, KEY]},
    "more digests than a blob may have": {0: 3, 1: bytes(32 * (CHUNKS_PER_BLOB_MAX + 1))},
    "lengths on a tensor": {0: 3, 1: KEY * 2, 2: (1 << 19).to_bytes(4) + CHUNK_BYTES.to_bytes(4)},
    "lengths of the grid": {0: 3, 1: KEY * 2, 2: CHUNK_BYTES.to_bytes(4) + (1 << 19).to_bytes(4)},
    "empty lengths": {0: 3, 1: KEY * 2, 2: b""},
    "a length too few": {0: 3, 1: KEY * 2, 2: bytes(4)},
    "one chunk of two lengths": {0: 3, 1: KEY * 2},
}


@pytest.mark.parametrize("attack", CHUNK_LISTS)
def test_chunk_list(attack):
    """A chunk list that does not cut its blob exactly is refused."""
    with pytest.raises(MalformedError):
        read(Forge(chunks=CHUNK_LISTS[attack]))


# Lists of a plain file of 2 MiB and 5 bytes.
PLAIN_LISTS = {
    "sum too small": [CHUNK_BYTES, CHUNK_BYTES, 4],
    "sum too large": [CHUNK_BYTES, CHUNK_BYTES, 6],
    "an empty chunk": [CHUNK_BYTES, CHUNK_BYTES, 5, 0],
    "a chunk over 1 MiB": [CHUNK_BYTES + 5, CHUNK_BYTES],
    "a chunk of 4 GiB": [(1 << 32) - 1, 5],
    "the grid": [CHUNK_BYTES, CHUNK_BYTES, 5],
}


@pytest.mark.parametrize("attack", PLAIN_LISTS)
def test_chunk_lengths(attack):
    """Lengths of content-defined chunks must add up to their blob, each within its bounds."""
    lengths = PLAIN_LISTS[attack]
    digests = b"".join(digest_of(str(i)) for i in range(len(lengths)))
    forge = Forge()
    listed = forge.put({0: 3, 1: digests, 2: b"".join(n.to_bytes(4) for n in lengths)})
    size = 2 * CHUNK_BYTES + 5
    forge.root = root(["a", size, bytes(32), 0, [[0, size, [bytes(listed)]]]])
    with pytest.raises(MalformedError):
        read(forge)


ROWS = {
    "unknown kind": [4, 100, KEY],
    "kind that is a truth value": [True, 100, KEY],
    "bytes in a tensor file": [0, 100, KEY],
    "no fields": [],
    "a header with a name": [1, 100, KEY, "b", "BF16", [3]],
    "a tensor without a name": [2, 100, KEY],
    "no array": {0: 1},
    "length of 2**63": [1, 1 << 63, [KEY]],
    "length of 2**64 - 1": [1, (1 << 64) - 1, [KEY]],
    "negative length": [1, -1, KEY],
    "length that is a truth value": [1, True, KEY],
    "empty header": [1, 0, b""],
    "empty tensor with a chunk": [2, 0, KEY, "t", "BF16", [0]],
    "empty tensor with a list": [2, 0, [KEY], "t", "BF16", [0]],
    "no reference": [1, 100, b""],
    "short reference": [1, 100, KEY[:31]],
    "long reference": [1, 100, KEY + b"x"],
    "reference that is null": [1, 100, None],
    "list of no digest": [1, 100, []],
    "list of two digests": [1, 100, [KEY, KEY]],
    "one chunk over 1 MiB": [1, CHUNK_BYTES + 1, KEY],
    "one chunk of 2 MiB": [1, 2 * CHUNK_BYTES, KEY],
    "name of another tensor": [2, 100, KEY, "b", "U8", [100]],
    "name with ..": [2, 100, KEY, "a/../../b", "U8", [100]],
    "name from the root": [2, 100, KEY, "/etc/x", "U8", [100]],
    "name with NUL": [2, 100, KEY, "a\0", "U8", [100]],
    "name with a backslash": [2, 100, KEY, "a\\b", "U8", [100]],
    "name that is empty": [2, 100, KEY, "", "U8", [100]],
    "name of 2 KB": [2, 100, KEY, "n" * 2048, "U8", [100]],
    "name that is bytes": [2, 100, KEY, b"n", "U8", [100]],
    "dtype that is empty": [2, 100, KEY, "n", "", [100]],
    "dtype that is long": [2, 100, KEY, "n", "U" * 33, [100]],
    "dtype with a newline": [2, 100, KEY, "n", "U8\n", [100]],
    "dimension of 2**63": [2, 100, KEY, "n", "U8", [1 << 63]],
    "negative dimension": [2, 100, KEY, "n", "U8", [-1]],
    "dimension that is a truth value": [2, 100, KEY, "n", "U8", [True]],
    "too many dimensions": [2, 100, KEY, "n", "U8", [1] * (TENSOR_RANK_MAX + 1)],
    "shape that is a number": [2, 100, KEY, "n", "U8", 100],
}


@pytest.mark.parametrize("attack", ROWS)
def test_blob(attack):
    """A blob whose fields are not what they must be is refused."""
    forge = Forge()
    forge.rows[0] = ROWS[attack]
    # What else there is adds up, so that only the blob is at fault.
    forge.row[1] = sum(r[1] for r in forge.rows if isinstance(r, list) and len(r) > 1)
    forge.row[1] = forge.row[1] if 0 <= forge.row[1] <= 1 << 46 else 5
    with pytest.raises(MalformedError):
        read(forge)


@pytest.mark.parametrize("length", [1, 99, 101, 1000])
def test_blobs_that_do_not_fill_their_file(length):
    """Lengths that add up to less or more than the file are refused."""
    forge = Forge()
    forge.rows[0] = [1, length, KEY]
    with pytest.raises(MalformedError, match="its blobs"):
        read(forge)


def test_two_blobs_in_a_file_of_no_format():
    """A file of no known format is one blob, however it is written."""
    forge = Forge(rows=[[0, 5, KEY], [0, 6, bytes(digest_of("b"))]])
    forge.row[1:4] = [11, bytes(32), 0]
    with pytest.raises(MalformedError, match="no known format"):
        read(forge)


GROUPS = {
    "no blobs": {0: 2, 1: []},
    "blobs in a map": {0: 2, 1: {0: HEADER}},
    "257 blobs": {0: 2, 1: [[3, 1, KEY]] * 257},
}


@pytest.mark.parametrize("attack", GROUPS)
def test_group(attack):
    """A group that holds no blobs, or too many, is refused."""
    with pytest.raises(MalformedError):
        read(Forge(group=GROUPS[attack]))


def test_blobs_grouped_otherwise():
    """Blobs that are cut into other groups than the rule gives are refused: one manifest, one tree."""
    forge = Forge()
    groups = [forge.put({0: 2, 1: [HEADER]}), forge.put({0: 2, 1: [TENSOR]})]
    forge.file = {0: 1, 1: b"".join(groups)}
    forge.row[1] = 106
    with pytest.raises(MalformedError, match="not grouped"):
        read(forge)


FILES = {
    "no groups": {0: 1, 1: b""},
    "half a digest": {0: 1, 1: KEY[:20]},
    "groups in an array": {0: 1, 1: [KEY]},
}


@pytest.mark.parametrize("attack", FILES)
def test_file(attack):
    """A file node without groups, or with something else, is refused."""
    with pytest.raises(MalformedError):
        read(Forge(file=FILES[attack]))


def test_file_node_for_one_blob():
    """A file of one blob has no node of its own: one manifest, one tree."""
    with pytest.raises(MalformedError, match="not grouped"):
        read(Forge(rows=[[...], TENSOR][1:], row=["a", 6, bytes(32), 1, ...]))


ROOTS = {
    "no files": root(),
    "files in a map": {0: 0, 1: 1, 2: {0: row()}},
    "no major version": {0: 0, 2: [row()]},
    "major version that is a truth value": {0: 0, 1: True, 2: [row()]},
    "negative major version": {0: 0, 1: -1, 2: [row()]},
    "files out of order": root(row(_0="b"), row(_0="a")),
    "file of four fields": root(row()[:4]),
    "file of seven fields": root([*row(), True, True]),
    "file that is not external": root([*row(), False]),
    "file that is external by number": root([*row(), 1]),
    "path that is bytes": root(row(_0=b"a")),
    "size of 2**63": root(row(_1=1 << 63)),
    "size of 2**46 + 1": root(row(_1=(1 << 46) + 1)),
    "negative size": root(row(_1=-5)),
    "size one too small": root(row(_1=4)),
    "size one too large": root(row(_1=6)),
    "size of an empty file": root(row(_1=0)),
    "bytes of no file": root(row(_4=[])),
    "short SHA-256": root(row(_2=bytes(31))),
    "SHA-256 that is text": root(row(_2="00" * 32)),
    "unknown format": root(row(_3=9)),
    "format of another kind of blob": root(row(_3=1)),
    "two blobs in the root": root(row(_1=10, _4=INLINE * 2)),
    "node that is text": root(row(_4="b3:")),
    "variants that are no array": root(row(), _3={0: "v"}),
    "no variants, but stated": root(row(), _3=[]),
    "variant that is an array": root(row(), _3=[["v", []]]),
    "variant whose default is a number": root(row(), _3=[{0: "v", 1: [], 2: 1}]),
    "variant without files": root(row(), _3=[{0: "v"}]),
    "variant of no file here": root(row(), _3=[{0: "v", 1: [1]}]),
    "variant with a file twice": root(row(), row(_0="b"), _3=[{0: "v", 1: [0, 0]}]),
    "variant with a negative file": root(row(), _3=[{0: "v", 1: [-1]}]),
    "variant with an unknown field": root(row(), _3=[{0: "v", 1: [], 7: 0}]),
    "variant that says no default": root(row(), _3=[{0: "v", 1: [], 2: False}]),
    "variant with an empty backend": root(row(), _3=[{0: "v", 1: [], 3: ""}]),
    "variant with a path for a name": root(row(), _3=[{0: "../v", 1: []}]),
    "variant with memory of 2**63": root(row(), _3=[{0: "v", 1: [], 5: 1 << 63}]),
    "variant with a probe that is no file": root(row(), _3=[{0: "v", 1: [], 6: "../probe"}]),
    "two variants of one name": root(row(), _3=[{0: "v", 1: []}, {0: "v", 1: [0]}]),
    "two defaults": root(row(), _3=[{0: "v", 1: [], 2: True}, {0: "w", 1: [], 2: True}]),
    "65 variants": root(row(), _3=[{0: f"v{i}", 1: []} for i in range(65)]),
    "no bases, but stated": root(row(), _4=b""),
    "half a base": root(row(), _4=KEY[:16]),
    "one base twice": root(row(), _4=KEY * 2),
    "65 bases": root(row(), _4=b"".join(digest_of(str(i)) for i in range(65))),
    "forms that are no digest": root(row(), _5=b"x"),
    "recipe that is null": root(row(), _6=None),
    "probes that are text": root(row(), _7="x"),
    "field past 32 bits": root(row()) | {1 << 32: 0},
}


@pytest.mark.parametrize("attack", ROOTS)
def test_root(attack):
    """A root whose fields are not what they must be is refused."""
    with pytest.raises(MalformedError):
        read(Forge(root=ROOTS[attack]))


@pytest.mark.parametrize(
    "path", ["../x", "/etc/x", "C:\\x", "C:x", "a//b", "a/./b", "a/", "~/x", "", "a\0b", "nul.txt", "a" * 2048]
)
def test_path_in_a_root(path):
    """A root with a path that leads out is refused before any other node is asked for."""
    with pytest.raises(UnsafePathError):
        read(Forge(root=root(row(_0=path))))


@pytest.mark.parametrize(("one", "other"), [("a", "a"), ("A", "a"), ("SS", "ß"), ("a", "a/b"), ("A", "a/b")])
def test_two_paths_that_are_one(one, other):
    """Two files that some system takes for one, or for a file and its directory, are refused."""
    rows = sorted((row(_0=one), row(_0=other)), key=lambda r: r[0].encode())
    with pytest.raises(UnsafePathError):
        read(Forge(root=root(*rows)))


@pytest.mark.parametrize("major", [0, 2, (1 << 63) - 1])
def test_unknown_major_version(major):
    """Another major version is refused as such, whatever else its root says."""
    with pytest.raises(UnsupportedVersionError, match=f"format {major}"):
        read(Forge(root={0: 0, 1: major, 2: "something new"}))


def test_unknown_minor_field():
    """A field that a newer minor version wrote survives, and a tree that is built again has the same root."""
    later = {8: {0: b"x", 1: [1, -5, None, True]}, 4_000_000_000: "text"}
    forge = Forge(root=root(row()) | later)
    digest = forge.build()
    manifest = read_tree(digest, forge.nodes.get)
    assert manifest.extra == later
    assert build_tree(manifest).root == digest


def test_one_node_in_two_places_of_different_kinds():
    """A node cannot be the file node of one file and the chunk list of another."""
    forge = Forge()
    shared = bytes(forge.put({0: 1, 1: KEY}))
    forge.root = root(row(_1=3 << 19, _4=[[0, 3 << 19, [shared]]]), row(_0="b", _3=1, _4=shared))
    with pytest.raises(MalformedError, match="two places"):
        read(forge)


def test_root_inside_its_own_tree():
    """A digest of a node of another kind is refused when that node comes."""
    forge = Forge()
    inner = forge.put(root(row()))
    forge.root = root(row(_3=1, _4=bytes(inner)))
    with pytest.raises(MalformedError, match="due"):
        read(forge)


def test_few_nodes_that_describe_without_end():
    """A file that names one group of many blobs thousands of times is refused before its blobs are made."""
    forge = Forge()
    group = forge.put({0: 2, 1: [[3, 1, bytes(digest_of("gap"))]] * GROUP_BLOBS_MAX})
    forge.file = {0: 1, 1: bytes(group) * (BLOBS_PER_VERSION_MAX // GROUP_BLOBS_MAX + 1)}
    with pytest.raises(MalformedError, match=f"more than {BLOBS_PER_VERSION_MAX} blobs"):
        read(forge)


def test_few_nodes_that_describe_endless_chunks():
    """Groups that name one long chunk list again and again are refused before a table of chunks is made."""
    forge = Forge()
    size = CHUNKS_PER_BLOB_MAX * CHUNK_BYTES
    listed = forge.put({0: 3, 1: KEY * CHUNKS_PER_BLOB_MAX})
    count = CHUNKS_PER_VERSION_MAX // CHUNKS_PER_BLOB_MAX + 1
    forge.file = {0: 1, 1: bytes(forge.put({0: 2, 1: [[3, size, [bytes(listed)]]] * count}))}
    with pytest.raises(MalformedError, match=f"more than {CHUNKS_PER_VERSION_MAX} chunks"):
        read(forge)


def test_a_chunk_list_is_bounded():
    """The longest is read, one digest more is refused by its count, whatever its blob says."""
    assert len(decode_chunks(cbor2.dumps({0: 3, 1: KEY * CHUNKS_PER_BLOB_MAX}))) == CHUNKS_PER_BLOB_MAX
    with pytest.raises(MalformedError, match=f"not of 2 to {CHUNKS_PER_BLOB_MAX} digests"):
        decode_chunks(cbor2.dumps({0: 3, 1: KEY * (CHUNKS_PER_BLOB_MAX + 1)}))


def test_the_files_of_a_version_are_bounded():
    """As many as the cap are read, one more is refused before a path of them is looked at."""
    rows = [[f"{number:06}", 5, bytes(32), 0, KEY] for number in range(FILES_PER_VERSION_MAX + 1)]
    assert len(decode_root(cbor2.dumps(root(*rows[1:]))).files) == FILES_PER_VERSION_MAX
    with pytest.raises(MalformedError, match=f"the files: {FILES_PER_VERSION_MAX + 1} values, more than"):
        decode_root(cbor2.dumps(root(*rows)))


@pytest.mark.parametrize(
    ("over", "what"),
    [
        (row(_1=FILE_BYTES_MAX + 1, _4=KEY), "the size of 'a'"),
        (row(_4=[[0, FILE_BYTES_MAX + 1, [KEY]]]), "the length of a blob"),
    ],
    ids=["a file", "a blob"],
)
def test_sizes_are_bounded(over, what):
    """A file of the largest size is read, one byte more is refused where it is said, and not where it does not fit."""
    assert decode_root(cbor2.dumps(root(row(_1=FILE_BYTES_MAX, _4=KEY)))).files[0].size == FILE_BYTES_MAX
    with pytest.raises(MalformedError, match=f"{what}: no integer from 0 to {FILE_BYTES_MAX}"):
        decode_root(cbor2.dumps(root(over)))


def test_nodes_without_end(monkeypatch):
    """More bytes of nodes than a version may have are refused as they come."""
    monkeypatch.setattr("p2psync.manifest.tree.MANIFEST_BYTES_MAX", 300)
    with pytest.raises(MalformedError, match="more than 300 bytes"):
        read(Forge())


def test_endless_nodes():
    """More nodes than a version may have are refused when they are named, not when they come."""
    forge = Forge()
    names = bytes(32 * 400_000)
    reader = TreeReader(forge.put(root(*(row(_0=str(i), _3=1, _4=bytes([i] * 32)) for i in range(3)))))
    reader.feed(reader.missing()[0], next(iter(forge.nodes.values())))
    assert len(reader.missing()) == 3
    many = [
        cbor2.dumps({0: 1, 1: b"".join((i * 400_000 + n).to_bytes(32) for n in range(len(names) // 32))})
        for i in range(3)
    ]
    root_digest = forge.put(root(*(row(_0=str(i), _3=1, _4=bytes(Digest.of(node))) for i, node in enumerate(many))))
    reader = TreeReader(root_digest)
    reader.feed(root_digest, forge.nodes[root_digest])
    reader.feed(Digest.of(many[0]), many[0])
    reader.feed(Digest.of(many[1]), many[1])
    with pytest.raises(MalformedError, match="more than 1048576 nodes"):
        reader.feed(Digest.of(many[2]), many[2])
