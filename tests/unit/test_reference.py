"""The page of the format is enough: readers that were written from it alone read what p2psync writes, and its vectors.

Of hostile texts both say the same: one that one reader takes and another refuses is how two nodes come to differ.
"""

import ast
import json
from functools import partial
from pathlib import Path

import blake3
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2psync import codec
from p2psync.codec import Form, tight
from p2psync.codec.layout import LAYOUTS
from p2psync.codec.tight_context import Context
from p2psync.content import Digest, file_layout
from p2psync.content import external_tensors as our_external_tensors
from p2psync.errors import P2PSyncError
from p2psync.manifest import Reference, decode_index, open_head, read_tree
from p2psync.store import Store
from tests.manifests import PUBLISHER, STRANGER, Forge, digest_of, payload_of, signed
from tests.reference import cutting
from tests.reference.cursor import RefusedError
from tests.reference.ed25519 import verifies
from tests.reference.encoded import decode
from tests.reference.head import read_head
from tests.reference.onnx import external_tensors
from tests.reference.origin import OriginTree
from tests.reference.pack_index import read_index
from tests.reference.samples import ODD, WIDTHS, elements, moved, trained, write_experts
from tests.reference.spoiling import spoil
from tests.reference.vectors import built, cut
from tests.reference.version import read_version
from tests.stores import KEY, NAME, make_model, publish

TESTS = Path(__file__).parents[1]
VECTORS = TESTS / "vectors"


def load(room, name):
    return json.loads((VECTORS / room / f"{name}.json").read_text())


def named(vectors):
    return pytest.mark.parametrize("vector", vectors, ids=lambda vector: vector.get("name") or vector["about"])


def test_the_reference_imports_nothing_of_p2psync():
    """Else it would prove nothing."""
    files = list((TESTS / "reference").glob("*.py"))
    assert len(files) > 10
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in modules if name.startswith(("p2psync", "tests.")) and "reference" not in name]


@named(load("forms", "full") + load("forms", "residual"))
def test_full_and_residual_vectors(vector):
    """Each frozen encoded chunk gives its chunk."""
    raw = bytes.fromhex(vector["raw"])
    assert decode(bytes.fromhex(vector["encoded"]), [bytes.fromhex(base) for base in vector["bases"]], len(raw)) == raw


@named(load("forms", "deltas"))
def test_delta_vectors(vector):
    """Each frozen delta gives the chunk of its digest."""
    base = blake3.blake3(vector["base"]["blake3"].encode()).digest(length=vector["base"]["length"])
    found = decode(bytes.fromhex(vector["encoded"]), [base], len(base))
    assert f"b3:{blake3.blake3(found).hexdigest()}" == vector["digest"]


@named(load("forms", "refused"))
def test_refused_vectors(vector):
    """What must be refused is."""
    with pytest.raises(RefusedError):
        decode(bytes.fromhex(vector["encoded"]), [bytes.fromhex(base) for base in vector["bases"]], vector["raw_bytes"])


@pytest.mark.parametrize("name", ["small", "tree"])
def test_manifest_vectors(name):
    """Each frozen tree says what its manifest says."""
    vector = load("manifest", name)
    nodes = {bytes.fromhex(node["digest"][3:]): bytes.fromhex(node["hex"]) for node in vector["nodes"]}
    found = read_version(bytes.fromhex(vector["root"][3:]), nodes.__getitem__)
    shown = vector["manifest"]
    for file, due in zip(found.files, shown["files"], strict=True):
        assert [file.path, file.size, file.sha256.hex(), file.external] == [
            *(due[key] for key in ("path", "size", "sha256", "external"))
        ]
        for blob, row in zip(file.blobs, due["blobs"], strict=True):
            tensor = (row.get("name", ""), row.get("dtype", ""), row.get("shape", []))
            assert (blob.length, blob.name, blob.dtype, list(blob.shape)) == (row["length"], *tensor)
            assert [chunk.digest.hex() for chunk in blob.chunks] == row["digests"]
            assert "lengths" not in row or [chunk.length for chunk in blob.chunks] == row["lengths"]
    told = [vars(variant) | {"files": list(variant.files)} for variant in found.variants]
    assert told == shown["variants"]
    assert [f"b3:{base.hex()}" for base in found.bases] == shown["bases"]
    assert list(found.extra) == [int(key) for key in shown["extra"]]


@named(load("manifest", "head"))
def test_head_vectors(vector):
    """Each frozen envelope says what its head says, under its key alone."""
    found = read_head(vector["envelope"].encode(), vector["key"])
    bases = [f"b3:{base.hex()}" for base in found.bases]
    assert vars(found) | {"root": f"b3:{found.root.hex()}", "bases": bases} == vector["head"]
    with pytest.raises(RefusedError):
        read_head(vector["envelope"].encode(), str(STRANGER.verify_key))


@named([file for name in ("bytes", "safetensors", "gguf", "onnx_data") for file in load("cutting", name)["files"]])
def test_cutting_vectors(vector):
    """Each frozen file is cut into exactly its spans and chunks."""
    data = built(vector["parts"])
    skeletons = {skeleton["name"]: built(skeleton["parts"]) for skeleton in vector.get("skeletons", [])}
    form, spans = cutting.layout(vector["name"], data, skeletons)
    assert form == vector["format"]
    assert list(cut(data, spans)) == vector["spans"]


@named(load("cutting", "refused")["files"])
def test_refused_cutting_vectors(vector):
    """Each file that must be refused is."""
    data = built(vector["parts"])
    with pytest.raises(RefusedError):
        if vector["name"].endswith(".onnx"):
            external_tensors(vector["name"], data)
        else:
            cutting.layout(vector["name"], data, {})


def test_pack_index_vector():
    """The frozen index places what it places."""
    vector = load("manifest", "pack_index")
    found = read_index(bytes.fromhex(vector["hex"]))
    assert [f"b3:{pack.hex()}" for pack in found.packs] == vector["packs"]
    assert {f"b3:{name.hex()}": place for name, place in found.nodes.items()} == {
        node["digest"]: (node["pack"], node["offset"], node["length"]) for node in vector["nodes"]
    }
    assert [list(spot) for spot in found.chunks] == vector["chunks"]


def test_the_signature_of_the_standard_verifies():
    """RFC 8032, section 7.1, test 2; and it does not when a bit of it, or of what is signed, is another."""
    key = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    first = bytes.fromhex("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da")
    second = bytes.fromhex("085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00")
    assert verifies(key, b"r", first + second)
    assert not verifies(key, b"s", first + second)
    assert not verifies(key, b"r", first + bytes([second[0] ^ 1]) + second[1:])


def check(encoded, bases, raw):
    """The reference gives the chunk; returns its form."""
    if encoded is None:
        return None
    assert decode(encoded, bases, len(raw)) == raw
    return encoded[0]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(WIDTHS)), st.integers(0, 2**32), st.integers(1, 3000), st.sampled_from([0, 3, 400]))
def test_odd_bit_patterns(dtype, seed, count, odd):
    """What p2psync encodes in full or as a delta, the reference decodes to the same bytes."""
    base = elements(dtype, seed, count, odd)
    new = moved(base, seed, (seed % 7) / 6)
    check(codec.encode_full(new.tobytes(), dtype), [], new.tobytes())
    check(codec.encode_delta(new.tobytes(), base.tobytes(), dtype), [base.tobytes()], new.tobytes())


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["BF16", "F16"]), st.integers(0, 2**32), st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_odd_residuals(dtype, seed, count, first):
    """And what it encodes against codes with scales of every size, from any element on."""
    random = np.random.default_rng(seed)
    codes = random.integers(-128, 128, count).astype(np.int8)
    bits = random.integers(0, 2**32, 1 + seed % 5, dtype=np.uint32)
    bits = np.where((bits >> 23 & 255) % 255 == 0, bits & 0x80000000, bits)
    near = elements(dtype, seed, count, 3)
    made = codec.encode_residual(near.tobytes(), codes.tobytes(), bits.tobytes(), 1 + seed % 999, first, dtype)
    check(made, [codes.tobytes(), bits.tobytes()], near.tobytes())


def test_every_form_is_met():
    """Weights and changes of usual sizes give all seven forms, and the reference reads each."""
    met, sorted_by_key = set(), set()
    for dtype in WIDTHS:
        base, new = trained(dtype)
        new[:9] = ODD[WIDTHS[dtype]][:9]
        few = moved(base, 2, 0.001)
        met.add(check(codec.encode_full(base.tobytes(), dtype), [], base.tobytes()))
        met.add(check(codec.encode_delta(few.tobytes(), base.tobytes(), dtype), [base.tobytes()], few.tobytes()))
        even = moved(base, 2, 1.0)
        met.add(check(codec.encode_delta(even.tobytes(), base.tobytes(), dtype), [base.tobytes()], even.tobytes()))
        if check(codec.encode_delta(new.tobytes(), base.tobytes(), dtype), [base.tobytes()], new.tobytes()) == 6:
            sorted_by_key.add(dtype)
    assert sorted_by_key >= {"BF16", "F16", "F32", "I8"}
    wide = (elements("BF16", 3, 9000, 9).astype("<u4") << 16).tobytes()
    met.add(check(codec.encode_full(wide, "F32"), [], wide))
    rows = np.random.default_rng(4).normal(0, 0.02, (40, 500)).astype(np.float32)
    scales = np.abs(rows).max(1) / 127
    codes = np.round(rows / scales[:, None]).astype(np.int8)
    raw = (rows.view("<u4") >> 16).astype("<u2").tobytes()
    bases = [codes.tobytes(), scales.astype("<f4").tobytes()]
    met.add(check(codec.encode_residual(raw, *bases, 500, 0, "BF16"), bases, raw))
    assert met - {None} == {1, 2, 3, 4, 5, 7}


def test_a_published_model_is_read_whole(tmp_path):
    """Head, index, nodes, every chunk, every encoded chunk and every file: from the tree alone, each proved."""
    with Store.open(tmp_path / "home") as store:
        for number, tag in enumerate(("one", "two")):
            make_model(write_experts(tmp_path / tag, number))
        publish(store, tmp_path / "one", "one", origin_tree=tmp_path / "tree")
        publish(store, tmp_path / "two", "two", bases=(Reference(NAME, "one"),), origin_tree=tmp_path / "tree")
    tree = OriginTree(tmp_path / "tree", str(KEY.verify_key))
    met = set()
    for tag in ("one", "two"):
        head = tree.head(NAME, tag)
        version = tree.version(head.root)
        assert head.size == sum(file.size for file in version.files)
        rows = tree.decoded(head.root, version)
        assert len(rows) == version.encoded > 0
        met |= {row.kind for row in rows}
        for file in version.files:
            assert tree.file(file) == (tmp_path / tag / file.path).read_bytes()
    assert met == {0, 1, 2}
    assert head.bases == version.bases == (tree.head(NAME, "one").root,)


def test_a_tree_with_another_byte_is_refused(tmp_path):
    """A byte of a pack that is another is found, wherever it stands."""
    with Store.open(tmp_path / "home") as store:
        version = publish(store, make_model(tmp_path / "model"), origin_tree=tmp_path / "tree")
    (pack,) = (tmp_path / "tree" / "v1" / "packs").iterdir()
    pack.chmod(0o644)
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    tree = OriginTree(tmp_path / "tree", str(KEY.verify_key))
    with pytest.raises(RefusedError):
        tree.version(bytes(version.root))


def taken_by(read):
    """What a reader makes of a text; None where it refuses."""
    try:
        return read()
    except (P2PSyncError, RefusedError):
        return None


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(["chunks", "rows", "row", "root", "root"]))
def test_spoilt_trees_are_refused_by_both_or_neither(data, part):
    """Nodes whose digests are right, with one value changed in one of them."""
    forge = Forge()
    forge.root |= {3: [{0: "fp16", 1: [0], 2: True}, {0: "small", 1: [], 3: "ort-cpu", 5: 9}], 4: bytes(digest_of("b"))}
    forge.root |= {5: bytes(digest_of("forms")), 16: 7, 300: [1, {2: "x"}]}
    spoilt = spoil(data, getattr(forge, part))
    if part in ("rows", "row") and not isinstance(spoilt, list):
        spoilt = [spoilt]
    setattr(forge, part, spoilt)
    root = forge.build()

    def fetch(digest):
        if Digest(digest) not in forge.nodes:
            raise RefusedError("not here")
        return forge.nodes[Digest(digest)]

    ours, theirs = (
        taken_by(lambda: read_tree(root, forge.nodes.get)),
        taken_by(lambda: read_version(bytes(root), fetch)),
    )
    assert (ours is None) == (theirs is None)
    assert ours is None or [file.path for file in ours.files] == [file.path for file in theirs.files]


TEXTS = st.sampled_from(
    [0, -1, 2**53, 2**63, None, True, "x", "a/b", "a/tags", "0.0.9", "0.0", "\x7f", "é", [], [[]], {}, {"": [1]}]
)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_spoilt_heads_are_refused_by_both_or_neither(data):
    """Payloads that are signed as they are, and envelopes with a byte changed."""
    fields = [*payload_of(), "expires", "bases", "later"]
    payload = payload_of(**data.draw(st.dictionaries(st.sampled_from(fields), TEXTS | st.just(...), max_size=2)))
    envelope = bytearray(signed(payload))
    if data.draw(st.booleans()):
        envelope[data.draw(st.integers(0, len(envelope) - 1))] = data.draw(st.sampled_from(b'0"{},: \\A=\xff'))
    key = PUBLISHER.verify_key
    ours = taken_by(lambda: open_head(bytes(envelope), key))
    theirs = taken_by(lambda: read_head(bytes(envelope), str(key)))
    assert (ours is None) == (theirs is None)
    assert ours is None or (ours.version, bytes(ours.root)) == (theirs.version, theirs.root)


def test_blocks_of_two_codes_fill_two_spans():
    """What is cut into spans of integers are blocks, not elements; no encoder of ours makes so small ones."""
    random = np.random.default_rng(6)
    old = random.integers(0, 256, 1 << 20, dtype=np.uint8)
    activity = random.integers(60, 68, old.size // 2, dtype=np.uint8)
    change = np.where(np.repeat(activity > 62, 2), random.integers(-2, 3, old.size), 0).astype(np.int8)
    context = Context(1, activity, (62, 64), (False, True, True))
    body = tight._write(old, change, LAYOUTS["I8"], context)
    check(bytes((Form.TIGHT, LAYOUTS["I8"].code)) + body, [old.tobytes()], (old + change.view(np.uint8)).tobytes())


def encoded_vectors():
    """(encoded, bases, length of the chunk) of the frozen encoded chunks that are small."""
    for vector in load("forms", "full") + load("forms", "residual"):
        bases = [bytes.fromhex(base) for base in vector["bases"]]
        yield bytes.fromhex(vector["encoded"]), bases, len(vector["raw"]) // 2
    for vector in load("forms", "deltas"):
        base = blake3.blake3(vector["base"]["blake3"].encode()).digest(vector["base"]["length"])
        if len(base) < 10_000:
            yield bytes.fromhex(vector["encoded"]), [base], len(base)


def test_spoilt_encoded_chunks_are_read_alike():
    """A bit of an encoded chunk, or of the last of its bases, that is another: the same chunk, or refused by both."""
    for encoded, bases, length in encoded_vectors():
        for at in [*range(min(24, len(encoded))), *range(24, len(encoded), 1 + len(encoded) // 24)]:
            spoilt = encoded[:at] + bytes([encoded[at] ^ 1 << at % 8]) + encoded[at + 1 :]
            ours, theirs = (taken_by(partial(read, spoilt, bases, length)) for read in (codec.decode, decode))
            assert ours == theirs
        if bases:
            bases[-1] = bytes([bases[-1][0] ^ 0x55]) + bases[-1][1:]
            ours, theirs = (taken_by(partial(read, encoded, bases, length)) for read in (codec.decode, decode))
            assert ours == theirs


@pytest.mark.parametrize("name", ["pack_index", "safetensors", "gguf", "onnx"])
def test_kept_inputs_are_read_alike(name):
    """What fuzzing kept of files and indexes, with a bit changed: cut and placed alike, or refused by both."""
    for path in sorted((TESTS / "fuzz" / "corpus" / name).iterdir()):
        whole = path.read_bytes()
        for at in range(0, len(whole), 1 + len(whole) // 300):
            text = whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]
            ours, theirs = (taken_by(partial(read, text)) for read in READERS[name])
            assert ours == theirs


def our_spans(name, text):
    """Spans as p2psync reads them."""
    spans = file_layout(name, len(text), lambda offset, count: text[offset : offset + count]).spans
    return [(span.kind.name, span.length, span.name, span.dtype, span.shape) for span in spans]


def their_spans(name, text):
    """Spans as the reference reads them."""
    return [tuple(vars(span).values()) for span in cutting.layout(name, text, {})[1]]


def our_external(text):
    """External tensors as p2psync reads them."""
    files = our_external_tensors("a.onnx", len(text), lambda offset, count: text[offset : offset + count])
    return {file: [(t.offset, t.length, t.name, t.dtype, t.shape) for t in found] for file, found in files.items()}


def their_external(text):
    """External tensors as the reference reads them."""
    return {
        file: [tuple(vars(tensor).values()) for tensor in found]
        for file, found in external_tensors("a.onnx", text).items()
    }


READERS = {
    "pack_index": (
        lambda text: [tuple(spot) for spot in decode_index(text)],
        lambda text: list(read_index(text).chunks),
    ),
    "safetensors": (partial(our_spans, "a.safetensors"), partial(their_spans, "a.safetensors")),
    "gguf": (partial(our_spans, "a.gguf"), partial(their_spans, "a.gguf")),
    "onnx": (our_external, their_external),
}
