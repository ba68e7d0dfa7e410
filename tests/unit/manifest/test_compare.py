"""Comparing two versions says what an update changes, by file, tensor and layer."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from p2psync.content import BlobKind, Digest, FileFormat
from p2psync.limits import CHUNK_BYTES
from p2psync.manifest import (
    Blob,
    ChunkList,
    File,
    Manifest,
    chunk_layers,
    chunk_table,
    compare,
    layer_of,
    match_tensors,
    missing_chunks,
)


def tensor(name: str, content: int, length: int = 1000) -> Blob:
    """A tensor of one chunk whose bytes are told apart by ``content``."""
    return Blob(BlobKind.TENSOR, length, ChunkList(Digest.of(bytes([content]) * 9)), name, "F32", (length // 4,))


def file(path: str, *blobs: Blob) -> File:
    """A file that holds nothing but these tensors."""
    size = sum(b.length for b in blobs)
    sha256 = hashlib.sha256(b"".join(b.chunks.digests for b in blobs)).digest()
    return File(path, size, sha256, FileFormat.SAFETENSORS, blobs)


def test_a_retrained_layer_is_the_only_change() -> None:
    """One changed tensor marks its file and its layer; everything else is equal and nothing else moves."""
    a = Manifest((file("w", tensor("h.0.w", 1), tensor("h.1.w", 2), tensor("norm", 3)),))
    b = Manifest((file("w", tensor("h.0.w", 1), tensor("h.1.w", 9), tensor("norm", 3)),))
    found = compare(a, b)
    assert [(f.path, f.change) for f in found.files] == [("w", "changed")]
    assert found.tensors == {"equal": 2, "moved": 0, "changed": 1, "added": 0, "removed": 0}
    assert [(x.layer.name, x.change, x.missing_bytes) for x in found.layers] == [
        ("h.0", "equal", 0),
        ("h.1", "changed", 1000),
        ("norm", "equal", 0),
    ]
    assert (found.total_bytes, found.missing_bytes) == (3000, 1000)


def test_a_reshard_moves_files_and_no_bytes() -> None:
    """Tensors that only stand elsewhere cost nothing, under their own name or another."""
    a = Manifest((file("all", tensor("x", 1), tensor("y", 2)),))
    b = Manifest((file("one", tensor("x", 1)), file("two", tensor("renamed", 2))))
    found = compare(a, b)
    assert [(f.path, f.change) for f in found.files] == [("one", "added"), ("two", "added"), ("all", "removed")]
    assert found.tensors == {"equal": 1, "moved": 1, "changed": 0, "added": 0, "removed": 1}
    assert found.missing_bytes == 0


def test_a_renamed_file_is_moved() -> None:
    """The same bytes under another path are a move."""
    a = Manifest((file("old", tensor("x", 1)),))
    b = Manifest((file("new", tensor("x", 1)),))
    assert [(f.path, f.change) for f in compare(a, b).files] == [("new", "moved"), ("old", "removed")]


def test_layers_that_come_and_go_are_named() -> None:
    """A layer whose tensors are all new is added, one that is gone is removed and costs nothing."""
    a = Manifest((file("w", tensor("h.0.w", 1)),))
    b = Manifest((file("w", tensor("h.1.w", 2), tensor("h.1.b", 3, CHUNK_BYTES)),))
    assert [(x.layer.name, x.change, x.total_bytes, x.missing_bytes) for x in compare(a, b).layers] == [
        ("h.1", "added", 1000 + CHUNK_BYTES, 1000 + CHUNK_BYTES),
        ("h.0", "removed", 0, 0),
    ]


def header(content: int) -> Blob:
    """A header of 100 bytes."""
    return Blob(BlobKind.HEADER, 100, ChunkList(Digest.of(bytes([content]) * 9)))


def test_what_is_no_tensor_is_counted_under_its_file() -> None:
    """A header, or a file without tensors: equal, moved, changed, added or removed."""
    a = Manifest((file("c", header(7)), file("d", header(8)), file("old", header(6)), file("w", header(1))))
    b = Manifest((file("c", header(7)), file("moved", header(8)), file("new", header(5)), file("w", header(2))))
    found = {x.layer.name: (x.change, x.total_bytes, x.missing_bytes) for x in compare(a, b).layers}
    assert found == {
        "c": ("equal", 100, 0),
        "moved": ("moved", 100, 0),
        "new": ("added", 100, 100),
        "w": ("changed", 100, 100),
        "d": ("removed", 0, 0),
        "old": ("removed", 0, 0),
    }


def test_a_layer_is_moved_where_the_rest_is_equal() -> None:
    """One tensor that changed makes it changed, whatever moved."""
    a = Manifest((file("w", tensor("h.0.a", 1), tensor("h.0.b", 2), tensor("h.1.a", 3), tensor("h.1.b", 4)),))
    b = Manifest((file("w", tensor("h.0.a", 1), tensor("h.0.c", 2), tensor("h.1.a", 4), tensor("h.1.b", 9)),))
    found = {x.layer.name: (x.change, {k: n for k, n in x.tensors.items() if n}) for x in compare(a, b).layers}
    assert found == {
        "h.0": ("changed", {"equal": 1, "moved": 1, "removed": 1}),
        "h.1": ("changed", {"moved": 1, "changed": 1}),
    }
    kept = compare(
        Manifest((file("w", tensor("h.0.a", 1), tensor("h.0.b", 2)),)), Manifest((file("w", tensor("h.0.a", 1)),))
    )
    assert [x.change for x in kept.layers] == ["changed"]


@given(st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=6), min_size=2, max_size=2))
def test_layers_add_up(contents: list[list[tuple[int, int]]]) -> None:
    """Whatever changed, moved or stands twice: each byte and each missing chunk is counted in one layer."""
    a, b = (
        Manifest((file("w", header(n), *(tensor(f"h.{x}.w{i}", c) for i, (x, c) in enumerate(list_))),))
        for n, list_ in enumerate(contents)
    )
    found = compare(a, b)
    assert sum(x.total_bytes for x in found.layers) == found.total_bytes == b.size
    assert sum(x.missing_bytes for x in found.layers) == found.missing_bytes
    assert found.missing_bytes == sum(chunk.length for chunk in missing_chunks(a, b))
    assert {k: sum(x.tensors[k] for x in found.layers) for k in found.tensors} == found.tensors
    assert len(chunk_layers(b)) == len(chunk_table(b))


def test_layer_names() -> None:
    """A layer ends with the first number in the tensor's name; without one it is the first part."""
    assert layer_of("blocks.12.attn1.to_q.weight") == "blocks.12"
    assert layer_of("encoder.layer.3.output.dense.bias") == "encoder.layer.3"
    assert layer_of("proj_out.weight") == "proj_out"


def matched(new: Manifest, base: Manifest) -> dict[tuple[str, str], bytes]:
    """What each tensor of ``new`` was matched with, by file and name: the digests of the other one's chunks."""
    places = [(f.path, b.name) for f in new.files for b in f.blobs]
    blobs = [b for f in new.files for b in f.blobs]
    found = list(match_tensors(new, base))
    return {places[next(i for i, b in enumerate(blobs) if b is blob)]: before.chunks.digests for blob, before in found}


def digests(content: int) -> bytes:
    return bytes(Digest.of(bytes([content]) * 9))


def test_two_experts_that_name_their_tensors_alike_are_kept_apart() -> None:
    """A tensor comes from the one of its name in its own file."""
    base = Manifest((file("high", tensor("w", 1), tensor("v", 2)), file("low", tensor("w", 3), tensor("v", 4))))
    new = Manifest((file("high", tensor("w", 5), tensor("v", 6)), file("low", tensor("w", 7), tensor("v", 8))))
    assert matched(new, base) == {
        ("high", "w"): digests(1),
        ("high", "v"): digests(2),
        ("low", "w"): digests(3),
        ("low", "v"): digests(4),
    }


def test_a_tensor_that_stands_in_another_file_is_found_by_its_name() -> None:
    """In the file whose path is most like, and each of several once."""
    base = Manifest((file("high/model.1", tensor("w", 1)), file("low/model.1", tensor("w", 2))))
    new = Manifest((file("low/all", tensor("w", 3)), file("high/all", tensor("w", 4))))
    assert matched(new, base) == {("low/all", "w"): digests(2), ("high/all", "w"): digests(1)}


def test_two_copies_come_from_the_one_that_there_was() -> None:
    """The second has no tensor of its own left, and is still like it."""
    base = Manifest((file("a", tensor("w", 1)),))
    new = Manifest((file("a", tensor("w", 2)), file("b", tensor("w", 3))))
    assert matched(new, base) == {("a", "w"): digests(1), ("b", "w"): digests(1)}


def test_a_renamed_tensor_comes_from_one_that_nobody_else_is_like() -> None:
    """Of the same shape, in order; one of another shape comes from nothing."""
    base = Manifest((file("w", tensor("old.0", 1), tensor("kept", 2), tensor("old.1", 3)),))
    new = Manifest((file("w", tensor("new.0", 4), tensor("kept", 5), tensor("new.1", 6), tensor("wide", 7, 2000)),))
    assert matched(new, base) == {("w", "new.0"): digests(1), ("w", "kept"): digests(2), ("w", "new.1"): digests(3)}
