from __future__ import annotations

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2psync.content import BlobKind, ExternalTensor, FileFormat, Layout, Span, file_layout
from p2psync.errors import MalformedError

HEADER = b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'
SAFETENSORS = struct.pack("<Q", len(HEADER)) + HEADER + b"xy"
GGUF = (
    b"GGUF"
    + struct.pack("<IQQ", 3, 1, 1)
    + struct.pack("<Q1sIf", 1, b"k", 6, 1.0)
    + struct.pack("<Q1sIQIQ", 1, b"t", 1, 2, 24, 0)
).ljust(96, b"\0") + b"xy"


def layout(file, name="model.bin", external=()):
    return file_layout(name, len(file), lambda offset, length: file[offset : offset + length], external)


def tensor(name, offset, length, dtype="U8"):
    return ExternalTensor(name, dtype, (length,), offset, length)


def parts(cut):
    """(kind, length, name) of each span."""
    return [(span.kind.name, span.length, span.name) for span in cut.spans]


def test_an_unknown_file_is_one_span_of_bytes():
    """A file of no known format is one blob, and an empty file has none."""
    assert layout(b"x") == Layout(FileFormat.BYTES, (Span(BlobKind.BYTES, 1),))
    assert layout(b"") == Layout(FileFormat.BYTES, ())


@pytest.mark.parametrize(
    "name", ["model.safetensors", "dir/MODEL.SafeTensors", "model.bin", "safetensors", "x.gguf.part"]
)
def test_safetensors_is_known_by_suffix_or_content(name):
    """A sound safetensors file is one under any name."""
    assert layout(SAFETENSORS, name).format is FileFormat.SAFETENSORS


@pytest.mark.parametrize("name", ["model.gguf", "dir/MODEL.GGUF", "model.bin", "gguf"])
def test_gguf_is_known_by_suffix_or_content(name):
    """A sound GGUF file is one under any name."""
    cut = layout(GGUF, name)
    assert cut.format is FileFormat.GGUF
    assert parts(cut) == [("HEADER", 74, ""), ("GAP", 22, ""), ("TENSOR", 2, "t")]


@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf"])
@pytest.mark.parametrize("file", [b"", b"x", b"x" * 100])
def test_what_a_suffix_promises_is_demanded(name, file):
    """A file that only calls itself a format is refused, never cut as unknown bytes."""
    with pytest.raises(MalformedError):
        layout(file, name)


@pytest.mark.parametrize(
    "file", [SAFETENSORS + b"!", GGUF + b"!", b"GGUF\x01\0\0\0" + bytes(16), b"GGUF\0\0\0\x03" + bytes(16)]
)
def test_what_content_promises_is_demanded(file):
    """A broken file that starts like a format is refused under any name."""
    with pytest.raises(MalformedError):
        layout(file)


@pytest.mark.parametrize(
    "file",
    [
        b"GGUF is a file format for models. It has a header, metadata and tensors.",
        b"GGUF",
        b"\x02\0\0\0\0\0\0\0{}",
        struct.pack("<Q", 12) + b'{"length":1}payload with a prefix of eight bytes',
        struct.pack("<Q", len(HEADER)) + b"[" + HEADER[1:] + b"xy",
        struct.pack("<Q", len(HEADER) + 9) + HEADER,
        b"\xff" * 8 + HEADER,
    ],
)
def test_what_only_resembles_a_format_is_unknown(file):
    """A text about GGUF and a record with a length before its JSON are files like any other."""
    assert layout(file).format is FileFormat.BYTES


def test_external_data_is_cut_at_its_tensors():
    """Tensors stand in file order, what is between them and around them is a gap each."""
    external = [tensor("second", 40, 10), tensor("first", 4, 16), tensor("touching", 50, 5, "I8")]
    cut = layout(bytes(64), external=external)
    assert cut.format is FileFormat.ONNX_DATA
    assert parts(cut) == [
        ("GAP", 4, ""),
        ("TENSOR", 16, "first"),
        ("GAP", 20, ""),
        ("TENSOR", 10, "second"),
        ("TENSOR", 5, "touching"),
        ("GAP", 9, ""),
    ]
    assert cut.spans[4] == Span(BlobKind.TENSOR, 5, "touching", "I8", (5,))


def test_tensors_of_one_place_are_one_span():
    """Skeletons that share weights name them differently; the name that sorts first stays."""
    external = [tensor("b", 0, 4, "F16"), tensor("a", 0, 4), tensor("b", 0, 4), tensor("empty", 4, 0)]
    assert parts(layout(bytes(4), external=external)) == [("TENSOR", 4, "a"), ("TENSOR", 0, "empty")]


@pytest.mark.parametrize(
    ("external", "offset"),
    [
        ([tensor("a", 0, 4), tensor("b", 2, 4)], 2),
        ([tensor("a", 0, 4), tensor("b", 0, 2)], 0),
        ([tensor("a", 0, 4), tensor("empty", 2, 0)], 2),
        ([tensor("a", 0, 9)], 8),
        ([tensor("a", 9, 0)], 8),
        ([tensor("a", 1 << 62, 1 << 62)], 8),
    ],
)
def test_external_tensors_that_do_not_fit_are_refused(external, offset):
    """A tensor that overlaps another in part, or ends beyond the file, is refused at its byte."""
    with pytest.raises(MalformedError, match=r"^model\.bin ") as refusal:
        layout(bytes(8), external=external)
    assert refusal.value.offset == offset


def test_the_number_of_external_tensors_is_bounded(monkeypatch):
    """Skeletons beside a file name at most so many tensors in it."""
    monkeypatch.setattr("p2psync.content.layout.TENSORS_PER_FILE_MAX", 2)
    assert len(layout(b"ab", external=[tensor("a", 0, 1), tensor("b", 1, 1)]).spans) == 2
    with pytest.raises(MalformedError, match="holds 3 external tensors"):
        layout(b"abc", external=[tensor("a", 0, 1), tensor("b", 1, 1), tensor("c", 2, 1)])


def test_external_data_in_safetensors_is_cut_as_safetensors():
    """A safetensors file that a skeleton points into keeps its own cut, and the pointers must stay inside."""
    external = [tensor("w", len(SAFETENSORS) - 2, 2)]
    assert layout(SAFETENSORS, "w.safetensors", external).format is FileFormat.SAFETENSORS
    with pytest.raises(MalformedError, match="its tensor 'w' ends at"):
        layout(SAFETENSORS, "w.safetensors", [tensor("w", len(SAFETENSORS) - 2, 3)])


def test_a_file_that_shrinks_is_refused():
    """A reader that delivers less than the size promised ends in a named error."""
    with pytest.raises(MalformedError, match="shorter than its 75 bytes"):
        file_layout("m.safetensors", 75, lambda offset, length: SAFETENSORS[offset : offset + length][:20])


def assert_cut_or_refused(file, name, external=()):
    """The one promise about any bytes: a layout that covers the file, or MalformedError."""
    try:
        cut = layout(file, name, external)
    except MalformedError:
        return
    assert sum(span.length for span in cut.spans) == len(file)
    assert all(span.length > 0 for span in cut.spans if span.kind is not BlobKind.TENSOR)


NAMES = st.sampled_from(["m.safetensors", "m.gguf", "m.bin"])


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), NAMES)
@example(b"GGUF" + b"\x03\0\0\0" + b"\xff" * 16, "m.bin")
def test_any_bytes_are_cut_or_refused(file, name):
    """Any bytes under any name."""
    assert_cut_or_refused(file, name)


@settings(deadline=None, max_examples=500)
@given(st.sampled_from([SAFETENSORS, GGUF]), NAMES, st.data())
def test_any_damage_is_cut_or_refused(file, name, data):
    """Sound files with bytes changed, inserted and removed."""
    damaged = bytearray(file)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        damaged[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    assert_cut_or_refused(bytes(damaged), name)


@settings(deadline=None, max_examples=300)
@given(
    st.integers(0, 40),
    st.lists(st.builds(tensor, st.text("ab", min_size=1), st.integers(0, 40), st.integers(0, 12)), max_size=6),
)
def test_any_external_tensors_are_cut_or_refused(size, external):
    """Any places of external tensors; where they are accepted, each stands at its own offset."""
    file = bytes(size)
    assert_cut_or_refused(file, "m.bin", external)
    try:
        cut = layout(file, external=external)
    except MalformedError:
        return
    position, places = 0, set()
    for span in cut.spans:
        if span.kind is BlobKind.TENSOR:
            places.add((position, span.length))
        position += span.length
    assert places == {(t.offset, t.length) for t in external}
