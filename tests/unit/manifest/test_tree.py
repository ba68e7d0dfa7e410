import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wan_shape
from p2psync.content import BlobKind, Digest, FileFormat, grid_lengths
from p2psync.errors import DigestMismatchError, MalformedError, NotFoundError, UnsafePathError
from p2psync.limits import CHUNK_BYTES, GIB, GROUP_BLOBS_MAX
from p2psync.manifest import (
    Blob,
    ChunkList,
    File,
    Manifest,
    TreeReader,
    Variant,
    build_tree,
    chunk_table,
    files_of,
    read_tree,
)
from tests.manifests import (
    blocks,
    chunks_of,
    digest_of,
    manifest_of,
    plain_file,
    sample_manifest,
    sha256_of,
    tensor,
    tensor_file,
)


def read_back(manifest):
    tree = build_tree(manifest)
    return read_tree(tree.root, tree.nodes.get)


def new_nodes(before, after):
    """The nodes that ``after`` has and ``before`` has not, by their kind."""
    old = build_tree(before).nodes
    new = [node for digest, node in build_tree(after).nodes.items() if digest not in old]
    return sorted(node[2] for node in new)


# Strategies -----------------------------------------------------------------------------------------------------------

WORDS = st.text("abcxyz019_-", min_size=1, max_size=6)
PATHS = st.lists(WORDS, min_size=1, max_size=3).map("/".join)
LENGTHS = st.one_of(st.integers(1, 50), st.sampled_from([CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 << 20]))


@st.composite
def chunk_lists(draw, length, *, free):
    """Chunks of a blob; an identity per length keeps digests and lengths consistent."""
    lengths = list(grid_lengths(length))
    if free and length > 1 and draw(st.booleans()):
        cuts = sorted(draw(st.sets(st.integers(1, min(length, 3000) - 1), max_size=4)) | {0, length})
        lengths = [part for a, b in pairwise(cuts) for part in grid_lengths(b - a)]
    digests = b"".join(digest_of(f"{n}/{draw(st.integers(0, 3))}") for n in lengths)
    return ChunkList(digests, () if lengths == list(grid_lengths(length)) else tuple(lengths))


@st.composite
def tensor_blobs(draw):
    blobs = []
    for name in draw(st.lists(PATHS, unique=True, max_size=12)):
        if draw(st.booleans()):
            gap = draw(LENGTHS)
            blobs.append(Blob(BlobKind.GAP, gap, draw(chunk_lists(gap, free=False))))
        length = draw(st.one_of(st.just(0), LENGTHS))
        shape = tuple(draw(st.lists(st.integers(0, 1 << 40), max_size=4)))
        blobs.append(Blob(BlobKind.TENSOR, length, draw(chunk_lists(length, free=False)), name, "BF16", shape))
    return tuple(blobs)


@st.composite
def manifests(draw):
    files = []
    for path in draw(st.sets(PATHS, min_size=1, max_size=5)):
        form = draw(st.sampled_from(FileFormat))
        if form is FileFormat.BYTES:
            length = draw(st.one_of(st.just(0), LENGTHS))
            blobs = (Blob(BlobKind.BYTES, length, draw(chunk_lists(length, free=True))),) if length else ()
        else:
            blobs = draw(tensor_blobs())
        size = sum(blob.length for blob in blobs)
        files.append(File(path, size, sha256_of(path), form, blobs, draw(st.booleans())))
    parents = {path.path.rsplit("/", depth)[0] for path in files for depth in (1, 2) if "/" in path.path}
    files = [file for file in files if file.path not in parents] or [plain_file("a", 1)]
    digests = st.one_of(st.none(), st.binary(min_size=32, max_size=32).map(Digest))
    simple = st.one_of(st.none(), st.booleans(), st.integers(-(1 << 63), 1 << 63), st.text(max_size=5), st.binary())
    values = st.recursive(simple, lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(st.integers(0, 300), v)))
    return manifest_of(
        *files,
        variants=tuple(
            Variant(name, tuple(sorted(draw(st.sets(st.integers(0, len(files) - 1))))), memory_bytes=draw(LENGTHS))
            for name in draw(st.sets(st.sampled_from(["int8", "fp16", "small"])))
        ),
        bases=tuple(draw(st.lists(st.binary(min_size=32, max_size=32).map(Digest), unique=True, max_size=3))),
        forms=draw(digests),
        recipe=draw(digests),
        probes=draw(digests),
        extra=draw(st.dictionaries(st.integers(17, 1 << 20), values, max_size=3)),
    )


# Round trips ----------------------------------------------------------------------------------------------------------


@given(manifests())
@settings(max_examples=150, deadline=None)
def test_round_trip(manifest):
    """A manifest that was written reads back equal, and writes to the same nodes again."""
    tree = build_tree(manifest)
    again = read_tree(tree.root, tree.nodes.get)
    assert again == manifest
    assert build_tree(again) == tree


def test_round_trip_with_every_feature():
    """Variants, bases, reserved digests, unknown fields, external data, gaps and empty tensors survive."""
    assert read_back(sample_manifest()) == sample_manifest()


@given(st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_nodes_may_come_in_any_order(rng):
    """A reader wants exactly the nodes of the tree, each once, and takes them as they come."""
    tree = build_tree(sample_manifest())
    reader = TreeReader(tree.root)
    asked = []
    while wanted := reader.missing():
        digest = rng.choice(wanted)
        asked.append(digest)
        reader.feed(digest, tree.nodes[digest])
    assert sorted(asked) == sorted(tree.nodes)
    assert reader.manifest() == sample_manifest()
    assert reader.tree() == tree


def test_reader_asks_by_level():
    """Four rounds of questions read any tree: root, files, groups, chunk lists."""
    tree = build_tree(sample_manifest())
    reader = TreeReader(tree.root)
    rounds = 0
    while wanted := reader.missing():
        rounds += 1
        for digest in wanted:
            reader.feed(digest, tree.nodes[digest])
    assert rounds == 4


def test_wrong_node_is_the_senders_fault_and_still_wanted():
    """Bytes that are not the node are refused; the right ones are taken afterwards, and twice does no harm."""
    tree = build_tree(sample_manifest())
    reader = TreeReader(tree.root)
    with pytest.raises(DigestMismatchError):
        reader.feed(tree.root, tree.nodes[tree.root] + b"\0")
    assert reader.missing() == [tree.root]
    reader.feed(tree.root, tree.nodes[tree.root])
    wanted = reader.missing()
    reader.feed(tree.root, b"whatever")
    assert reader.missing() == wanted


def test_unwanted_node_is_refused():
    """A node that the tree does not name is not taken."""
    reader = TreeReader(digest_of("root"))
    with pytest.raises(MalformedError, match="not wanted"):
        reader.feed(Digest.of(b"other"), b"other")


def test_incomplete_tree_is_no_manifest():
    """Asking for the manifest too early is a mistake of the caller, not a half manifest."""
    with pytest.raises(ValueError, match="1 nodes are missing"):
        TreeReader(digest_of("root")).manifest()


def test_read_tree_says_which_node_is_not_there():
    """A place that lacks a node ends in an error that names it."""
    tree = build_tree(sample_manifest())
    gone = next(iter(tree.nodes))
    nodes = {digest: node for digest, node in tree.nodes.items() if digest != gone}
    with pytest.raises(NotFoundError, match=str(gone)):
        read_tree(tree.root, nodes.get)


# The shape of the tree ------------------------------------------------------------------------------------------------


def test_small_files_need_no_nodes_of_their_own():
    """A version of small files is one node; a file cut by its content adds one chunk list."""
    assert len(build_tree(manifest_of(plain_file("a", 10), plain_file("b"))).nodes) == 1
    assert len(build_tree(manifest_of(plain_file("a", 10, 20))).nodes) == 2


def test_grid_lengths_are_not_stored():
    """Lengths that say no more than the grid are dropped, so one blob has one encoding."""
    size = 2 * CHUNK_BYTES + 7
    blob = Blob(BlobKind.BYTES, size, chunks_of("a", size, (CHUNK_BYTES, CHUNK_BYTES, 7)))
    manifest = manifest_of(File("a", size, sha256_of("a"), FileFormat.BYTES, (blob,)))
    assert read_back(manifest).files[0].blobs[0].chunks.lengths == ()
    single = manifest_of(
        File("a", 9, sha256_of("a"), FileFormat.BYTES, (Blob(BlobKind.BYTES, 9, chunks_of("a", 9, (9,))),))
    )
    assert read_back(single).files[0].blobs[0].chunks.lengths == ()


def test_equal_parts_share_nodes():
    """Two files with the same tensors differ only in the root."""
    shared = tuple(blocks(6))
    one = build_tree(manifest_of(tensor_file("a.safetensors", *shared)))
    header = manifest_of(tensor_file("a.safetensors", *shared)).files[0].blobs[0]
    copy = replace(manifest_of(tensor_file("a.safetensors", *shared)).files[0], path="b.safetensors")
    two = build_tree(manifest_of(tensor_file("a.safetensors", *shared), copy))
    assert header in copy.blobs
    assert len(two.nodes) == len(one.nodes)


def test_changed_tensor_makes_only_its_path_new():
    """One tensor with other bytes: its chunk list, its group, its file node and the root are new, nothing else."""
    before = manifest_of(tensor_file("m.safetensors", *blocks(100)), tensor_file("n.safetensors", *blocks(9, "n")))
    tensors = [
        tensor(t.name, *t.shape, identity="new") if t.name == "blocks.50.ffn.down.weight" else t for t in blocks(100)
    ]
    after = manifest_of(tensor_file("m.safetensors", *tensors), tensor_file("n.safetensors", *blocks(9, "n")))
    assert new_nodes(before, after) == [0, 1, 2, 3]


def test_added_and_removed_tensor_moves_no_other_group():
    """A tensor that comes or goes makes at most two groups new: boundaries depend on names, not on places."""
    tensors = list(blocks(100))
    before = manifest_of(tensor_file("m.safetensors", *tensors))
    for place in (0, 177, 499):
        added = manifest_of(tensor_file("m.safetensors", *tensors[:place], tensor("adapter", 3), *tensors[place:]))
        removed = manifest_of(tensor_file("m.safetensors", *tensors[:place], *tensors[place + 1 :]))
        for after in (added, removed):
            kinds = new_nodes(before, after)
            assert kinds[:2] == [0, 1]
            assert 1 <= kinds.count(2) <= 2
            assert kinds.count(3) == 0


def test_group_is_bounded():
    """Tensors whose names would end no group are cut into groups of the greatest size."""
    names = [name for i in range(1400) if Digest.of((name := f"t{i}").encode())[0] >= 8]
    count = GROUP_BLOBS_MAX * 4
    tree = build_tree(manifest_of(tensor_file("m.safetensors", *(tensor(n, 1) for n in names[: count - 1]))))
    groups = [node for node in tree.nodes.values() if node[2] == 2]
    assert len(groups) == 4


def test_many_tensors_and_one_tiny_one():
    """20,000 tensors, and a model of one tensor of one byte, both round-trip."""
    many = manifest_of(tensor_file("m.safetensors", *(tensor(f"layers.{i}.w", 3) for i in range(20_000))))
    assert read_back(many) == many
    tiny = manifest_of(tensor_file("m.safetensors", tensor("x", 1, element_bytes=1)))
    assert read_back(tiny) == tiny


# The model of reference -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wan():
    return wan_shape.wan_manifest(1)


def test_wan_has_its_shape(wan):
    """The generated manifest has the parameters and tensors that Wan2.2's configuration gives."""
    tensors = [b for f in wan.files for b in f.blobs if b.kind is BlobKind.TENSOR]
    assert len(tensors) == 2 * wan_shape.TENSORS_PER_EXPERT
    assert sum(b.length for b in tensors) == 2 * 2 * wan_shape.PARAMETERS_PER_EXPERT
    assert wan_shape.wan_manifest(1) == wan != wan_shape.wan_manifest(2)


def test_wan_reads_back(wan):
    """The manifest of Wan2.2's shape is what its nodes say."""
    assert read_back(wan) == wan


def test_wan_keeps_the_budget(wan):
    """All nodes together take at most 37,000 B per GiB of tensors and 120 B per tensor."""
    tensors = [b for f in wan.files for b in f.blobs if b.kind is BlobKind.TENSOR]
    allowed = 37_000 * sum(b.length for b in tensors) / GIB + 120 * len(tensors)
    assert build_tree(wan).size <= allowed


def test_wan_with_one_tensor_changed(wan):
    """Of 869 nodes, four are new."""
    changed = wan_shape.wan_manifest(1, frozenset({"transformer_2/blocks.20.attn1.to_q.weight"}))
    assert new_nodes(wan, changed) == [0, 1, 2, 3]


# What cannot be written -----------------------------------------------------------------------------------------------

GOOD = tensor("w", 4)


def one_file(blob, *, size=None, form=FileFormat.SAFETENSORS):
    return manifest_of(File("m", blob.length if size is None else size, sha256_of("m"), form, (blob,)))


UNWRITABLE = {
    "no files": Manifest(()),
    "unsorted files": Manifest((plain_file("b", 1), plain_file("a", 1))),
    "two files of one path": Manifest((plain_file("a", 1), plain_file("a", 2))),
    "file size": one_file(GOOD, size=9),
    "hash length": replace(one_file(GOOD), files=(replace(one_file(GOOD).files[0], sha256=b"short"),)),
    "blob without chunks": one_file(Blob(BlobKind.TENSOR, 8, ChunkList(b""), "w", "F32", (2,))),
    "empty blob with a chunk": one_file(replace(GOOD, length=0)),
    "half a digest": one_file(replace(GOOD, chunks=ChunkList(GOOD.chunks.digests[:20]))),
    "a digest and a half": one_file(replace(GOOD, chunks=ChunkList(GOOD.chunks.digests * 2 + b"x"))),
    "too few chunks": one_file(replace(GOOD, length=CHUNK_BYTES + 1)),
    "a lost length": one_file(replace(GOOD, chunks=ChunkList(GOOD.chunks.digests, (5,)))),
    "lengths that do not add up": one_file(Blob(BlobKind.BYTES, 9, chunks_of("a", 9, (4, 4))), form=FileFormat.BYTES),
    "an empty chunk": one_file(Blob(BlobKind.BYTES, 9, chunks_of("a", 9, (9, 0))), form=FileFormat.BYTES),
    "a negative length": one_file(Blob(BlobKind.BYTES, 9, chunks_of("a", 9, (10, -1))), form=FileFormat.BYTES),
    "a chunk too long": one_file(
        Blob(BlobKind.BYTES, CHUNK_BYTES + 3, chunks_of("a", 9, (CHUNK_BYTES + 1, 2))), form=FileFormat.BYTES
    ),
    "a tensor off the grid": one_file(replace(GOOD, chunks=chunks_of("w", 8, (4, 4)))),
    "bytes in a tensor file": one_file(Blob(BlobKind.BYTES, 4, chunks_of("a", 4))),
    "a tensor in no tensor file": one_file(GOOD, form=FileFormat.BYTES),
    "an empty gap": one_file(Blob(BlobKind.GAP, 0, ChunkList(b""))),
    "a name on a gap": one_file(replace(GOOD, kind=BlobKind.GAP)),
    "a tensor without a name": one_file(replace(GOOD, name="")),
    "a tensor that is a path out": one_file(replace(GOOD, name="../../etc/x")),
    "a dtype with a space": one_file(replace(GOOD, dtype="BF 16")),
    "a negative dimension": one_file(replace(GOOD, shape=(-1,))),
    "a dimension of 2**63": one_file(replace(GOOD, shape=(1 << 63,))),
    "65 dimensions": one_file(replace(GOOD, shape=(1,) * 65)),
    "two tensors of one name": manifest_of(tensor_file("m", GOOD, GOOD)),
    "one chunk of two lengths": manifest_of(tensor_file("m", GOOD, tensor("v", 5, identity="w"))),
    "one chunk, full and short": manifest_of(
        tensor_file("m", tensor("v", CHUNK_BYTES, element_bytes=1), tensor("w", 5, identity="v"))
    ),
    "a base twice": manifest_of(plain_file("a", 1), bases=(digest_of("x"), digest_of("x"))),
    "65 bases": manifest_of(plain_file("a", 1), bases=tuple(digest_of(str(i)) for i in range(65))),
    "a field that is ours": manifest_of(plain_file("a", 1), extra={7: bytes(32)}),
    "a field past 32 bits": manifest_of(plain_file("a", 1), extra={1 << 32: 1}),
    "a negative field": manifest_of(plain_file("a", 1), extra={-1: 1}),
    "a float": manifest_of(plain_file("a", 1), extra={8: 1.5}),
    "a number past 64 bits": manifest_of(plain_file("a", 1), extra={8: 1 << 64}),
    "text keys": manifest_of(plain_file("a", 1), extra={8: {"a": 1}}),
    "an object": manifest_of(plain_file("a", 1), extra={8: object()}),
    "a variant of no file here": manifest_of(plain_file("a", 1), variants=(Variant("int8", (1,)),)),
    "a variant out of order": manifest_of(plain_file("a", 1), plain_file("b", 1), variants=(Variant("v", (1, 0)),)),
    "a variant with a file twice": manifest_of(plain_file("a", 1), variants=(Variant("v", (0, 0)),)),
    "two variants of one name": manifest_of(plain_file("a", 1), variants=(Variant("v", ()), Variant("v", (0,)))),
    "two defaults": manifest_of(
        plain_file("a", 1), variants=(Variant("v", (), default=True), Variant("w", (), default=True))
    ),
    "a variant with a bad name": manifest_of(plain_file("a", 1), variants=(Variant("in t8", ()),)),
    "a backend with a bad name": manifest_of(plain_file("a", 1), variants=(Variant("v", (), backend="../x"),)),
    "memory of 2**63": manifest_of(plain_file("a", 1), variants=(Variant("v", (), memory_bytes=1 << 63),)),
    "a probe that is no file": manifest_of(plain_file("a", 1), variants=(Variant("v", (), probe="b"),)),
    "a probe of another variant": manifest_of(
        plain_file("a", 1), plain_file("b", 1), variants=(Variant("v", (0,), probe="b"), Variant("w", (1,)))
    ),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_what_no_reader_accepts_is_not_written(case):
    """A manifest that readers would refuse never gets a root, so nobody can sign it."""
    with pytest.raises((MalformedError, UnsafePathError)):
        build_tree(UNWRITABLE[case])


def test_onnx_data_may_hold_two_tensors_of_one_name():
    """Two skeletons may keep tensors of the same name in one file."""
    blobs = (tensor("w", 2, identity="1"), tensor("w", 2, identity="2"))
    manifest = manifest_of(File("x.data", 8, sha256_of("x"), FileFormat.ONNX_DATA, blobs, external=True))
    assert read_back(manifest) == manifest


# The table of chunks --------------------------------------------------------------------------------------------------


def test_chunk_table_counts_each_chunk_once():
    """Chunks stand in the order of first appearance, each with all its places."""
    manifest = manifest_of(
        tensor_file("a", tensor("w", 4), tensor("v", 4, identity="w"), header_bytes=10), plain_file("b", 3)
    )
    table = chunk_table(manifest)
    assert [(c.index, c.length, [(p.file, p.offset) for p in c.places]) for c in table] == [
        (0, 10, [(0, 0)]),
        (1, 8, [(0, 10), (0, 18)]),
        (2, 3, [(1, 0)]),
    ]


def test_variant_takes_its_files_and_those_of_none():
    """Files that no variant names belong to all."""
    manifest = manifest_of(
        *(plain_file(name, 1) for name in "abcd"), variants=(Variant("v", (0,)), Variant("w", (0, 2)))
    )
    assert files_of(manifest, None) == (0, 1, 2, 3)
    assert files_of(manifest, manifest.variants[0]) == (0, 1, 3)
    assert files_of(manifest, manifest.variants[1]) == (0, 1, 2, 3)


def test_order_of_reading_does_not_matter_for_sharing():
    """A node that two files share is asked for once, whichever names it first."""
    shared = tuple(blocks(3))
    manifest = manifest_of(
        *(replace(tensor_file("a", *shared), path=path) for path in ("a", "b", "c")), plain_file("z", 5, 6)
    )
    tree = build_tree(manifest)
    reader = TreeReader(tree.root)
    rng = random.Random(3)
    count = 0
    while wanted := reader.missing():
        assert len(set(wanted)) == len(wanted)
        count += 1
        digest = rng.choice(wanted)
        reader.feed(digest, tree.nodes[digest])
    assert count == len(tree.nodes)
    assert reader.manifest() == manifest
