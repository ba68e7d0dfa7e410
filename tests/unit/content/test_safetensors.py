from __future__ import annotations

import json
import re
import struct

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from p2psync.content import BlobKind, Digest, FileFormat, file_layout, grid_lengths
from p2psync.content.tensors import DTYPE_BITS
from p2psync.errors import MalformedError
from p2psync.limits import READ_AHEAD_BYTES, TENSOR_HEADER_BYTES_MAX, TENSOR_METADATA_MAX, TENSORS_PER_FILE_MAX

UNICODE = st.text(st.characters(codec="utf-8"), max_size=5)
ONE = b'{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'


def framed(header, data=b""):
    """A file of this header (bytes, or a dict that becomes JSON) and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def layout(file, name="model.safetensors"):
    return file_layout(name, len(file), lambda offset, length: file[offset : offset + length])


def tensors(file):
    """(name, dtype, shape, bytes) of each tensor that has any, as our layout cuts them."""
    found = []
    position = 0
    for span in layout(file).spans:
        if span.kind is BlobKind.TENSOR:
            found.append((span.name, span.dtype, list(span.shape), file[position : position + span.length]))
        position += span.length
    assert position == len(file)
    return sorted(found)


def tensors_by_library(file):
    """The same by the format's own library."""
    return sorted((n, t["dtype"], t["shape"], bytes(t["data"])) for n, t in safetensors.deserialize(file))


def test_the_library_has_no_other_dtypes():
    """The dtypes that the installed library names are those that are read here."""
    file = framed({"a": {"dtype": "?", "shape": [], "data_offsets": [0, 0]}})
    with pytest.raises(safetensors.SafetensorError) as refusal:
        safetensors.deserialize(file)
    listed = str(refusal.value).partition("expected one of")[2]
    assert set(re.findall(r"`(\w+)`", listed)) == set(DTYPE_BITS)


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_every_dtype_is_read_like_the_library(dtype):
    """Each dtype, those under a byte too, takes the room that the library gives it."""
    room = 8 * DTYPE_BITS[dtype] // 8
    file = framed({"a": {"dtype": dtype, "shape": [2, 4], "data_offsets": [0, room]}}, bytes(range(room)))
    assert tensors(file) == tensors_by_library(file)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9._\u00e9\U0001f600-]{0,20}", fullmatch=True),
        st.tuples(st.sampled_from(["u1", "i8", "f2", "f4", "f8", "?"]), st.lists(st.integers(0, 4), max_size=4)),
        max_size=8,
    ),
    # The library writes broken JSON for no tensors and empty metadata, so metadata is none or some.
    st.none() | st.dictionaries(UNICODE, UNICODE, min_size=1, max_size=4),
)
def test_what_the_library_writes_is_read(declared, metadata):
    """Files of the library are cut at exactly the tensors that it reads back, in any shape, empty ones too."""
    arrays = {name: np.ones(shape, dtype) for name, (dtype, shape) in declared.items()}
    file = safetensors.numpy.save(arrays, metadata)
    cut = layout(file)
    assert cut.format is FileFormat.SAFETENSORS
    assert cut.spans[0].kind is BlobKind.HEADER
    assert tensors(file) == tensors_by_library(file)


def test_fields_and_tensors_stand_in_any_order():
    """Order in the header means nothing; spans follow the file, empty tensors before what starts at their offset."""
    file = framed(
        b'{ "late" : {"data_offsets":[2,3],"shape":[1],"dtype":"U8"},\n'
        b'"__metadata__":{}, "z\\u0065ro":{"shape":[0,7],"dtype":"F32","data_offsets":[0,0]},\t'
        b'"first":{"dtype":"I8","data_offsets":[0,2],"shape":[ 2 ]} , "an empty one":'
        b'{"shape":[0],"dtype":"F32","data_offsets":[2,2]}}  \r\n ',
        b"abc",
    )
    spans = layout(file).spans
    assert [(s.name, s.length, s.shape) for s in spans[1:]] == [
        ("zero", 0, (0, 7)),
        ("first", 2, (2,)),
        ("an empty one", 0, (0,)),
        ("late", 1, (1,)),
    ]
    assert tensors(file) == tensors_by_library(file)


def test_padding_belongs_to_the_header():
    """The spaces after the JSON are part of the header's span."""
    file = framed(b'{"a":' + ONE + b"}" + b" " * 4096, b"x")
    assert layout(file).spans[0].length == len(file) - 1


def test_a_file_without_tensors_is_a_header():
    """An empty object, with or without metadata, is a whole file."""
    for header in (b"{}", b'{"__metadata__":{"format":"pt"}}'):
        assert [s.kind for s in layout(framed(header)).spans] == [BlobKind.HEADER]


REFUSED = {
    # Frames.
    "nothing": (b"", 0, "middle of a value"),
    "shorter than its length": (b"\x02\0\0\0\0\0\0", 0, "middle of a value"),
    "header longer than the file": (struct.pack("<Q", 100) + b"{}", 0, "declares a header of 100 bytes and has 2"),
    "header over the cap": (struct.pack("<Q", TENSOR_HEADER_BYTES_MAX + 1) + b"{}", 0, "at most"),
    "header of 2^62": (struct.pack("<Q", 1 << 62) + b"{}", 0, "at most"),
    "header of 0": (framed(b""), 8, "expected {"),
    # JSON.
    "not an object": (framed(b"[]"), 8, "expected {"),
    "leading space": (framed(b" {}"), 8, "expected {"),
    "byte order mark": (framed(b"\xef\xbb\xbf{}"), 8, "expected {"),
    "text after the object": (framed(b"{}{}"), 10, "after the end"),
    "zeros after the object": (framed(b"{}\0\0"), 10, "after the end"),
    "unclosed": (framed(b'{"a":' + ONE), 8 + 5 + len(ONE), "a comma or }"),
    "trailing comma": (framed(b'{"a":' + ONE + b",}", b"x"), 8 + 6 + len(ONE), "a name and a colon"),
    "deep": (framed(b'{"a":' + b"[" * 200_000), 13, "what tensor 'a' is"),
    "deep in metadata": (framed(b'{"__metadata__":{"a":' + b"{" * 200_000), 29, "a string"),
    "name not Unicode": (framed(b'{"\xff":' + ONE + b"}", b"x"), 9, "not Unicode"),
    "lone surrogate": (framed(b'{"\\ud800":' + ONE + b"}", b"x"), 9, "not Unicode"),
    "encoded surrogate": (framed(b'{"\xed\xa0\x80":' + ONE + b"}", b"x"), 9, "not Unicode"),
    "control character in a string": (framed(b'{"a\nb":' + ONE + b"}", b"x"), 9, "a name and a colon"),
    "unknown escape": (framed(b'{"\\x":' + ONE + b"}", b"x"), 9, "a name and a colon"),
    "single quotes": (framed(b"{'a':" + ONE + b"}", b"x"), 9, "a name and a colon"),
    # Metadata.
    "metadata of a number": (framed(b'{"__metadata__":{"a":1}}'), 29, "a string"),
    "metadata null": (framed(b'{"__metadata__":null}'), 24, "__metadata__ object"),
    "metadata twice": (framed(b'{"__metadata__":{},"__metadata__":{}}'), 27, "two __metadata__"),
    "metadata key twice": (framed(b'{"__metadata__":{"a":"","\\u0061":""}}'), 32, "two metadata values called 'a'"),
    # Fields.
    "name twice": (framed(b'{"a":' + ONE + b',"\\u0061":' + ONE + b"}", b"x"), 8 + 6 + len(ONE), "two tensors"),
    "a number for a tensor": (framed(b'{"a":1}'), 13, "what tensor 'a' is"),
    "unknown field": (framed(b'{"a":{"dtype":"U8","strides":[1]}}'), 27, "does not have"),
    "field twice": (framed(b'{"a":{"dtype":"U8","dtype":"U8"}}'), 27, "twice"),
    "no shape": (framed(b'{"a":{"dtype":"U8","data_offsets":[0,1]}}', b"x"), 9, "its dtype, shape"),
    "no fields": (framed(b'{"a":{}}'), 9, "its dtype, shape"),
    "unknown dtype": (framed(ONE.replace(b"U8", b"F33").join([b'{"a":', b"}"]), b"x"), 22, "unknown dtype 'F33'"),
    "dtype of a number": (framed(b'{"a":{"dtype":8}}'), 22, "the dtype"),
    # Numbers.
    "negative": (framed(b'{"a":{"shape":[-1]}}'), 22, "non-negative integers"),
    "float": (framed(b'{"a":{"shape":[1.0]}}'), 22, "non-negative integers"),
    "exponent": (framed(b'{"a":{"shape":[1e1]}}'), 22, "non-negative integers"),
    "bool": (framed(b'{"a":{"shape":[true]}}'), 22, "non-negative integers"),
    "NaN": (framed(b'{"a":{"shape":[NaN]}}'), 22, "non-negative integers"),
    "text": (framed(b'{"a":{"shape":["1"]}}'), 22, "non-negative integers"),
    "leading zero": (framed(b'{"a":{"shape":[01]}}'), 22, "non-negative integers"),
    "2^63": (framed(b'{"a":{"shape":[9223372036854775808]}}'), 22, "63 bits"),
    "a million digits": (framed(b'{"a":{"shape":[1' + b"0" * 1_000_000 + b"]}}"), 22, "63 bits"),
    "65 dimensions": (framed(b'{"a":{"shape":[' + b"1," * 64 + b"1]}}"), 22, "more than 64"),
    "one offset": (framed(b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0]}}'), 9, "no begin and end"),
    "three offsets": (framed(b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1,1]}}', b"x"), 9, "no begin and end"),
    "backward offsets": (framed(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[1,0]}}', b"x"), 9, "no begin and end"),
    # Sizes.
    "shape and room differ": (
        framed(b'{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,3]}}', b"xxx"), 9, "4 bytes of F16 and 3 bytes"),
    "shape overflows": (
        framed(b'{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'), 9, "overflows"),
    "empty giant": (
        framed(b'{"a":{"dtype":"U8","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}}'), 9, "overflows"),
    "half a byte": (framed(b'{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}', b"xx"), 9, "fill its last byte"),
    # Cover.
    "truncated": (framed(b'{"a":' + ONE + b"}"), 8 + 6 + len(ONE), "ends after"),
    "trailing": (framed(b'{"a":' + ONE + b"}", b"xy"), 8 + 7 + len(ONE), "1 bytes after its last tensor"),
    "hole at the start": (
        framed(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', b"xy"), 62, "leaves a hole before"),
    "hole between": (
        framed({n: {"dtype": "U8", "shape": [1], "data_offsets": [o, o + 1]} for n, o in (("a", 0), ("b", 2))}, b"xyz"),
        None, "'b' that leaves a hole before"),
    "overlap": (
        framed({n: {"dtype": "U8", "shape": [2], "data_offsets": [o, o + 2]} for n, o in (("a", 0), ("b", 1))}, b"xyz"),
        None, "'b' that overlaps"),
    "two tensors of one place": (
        framed({n: {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]} for n in "ab"}, b"xy"), None, "overlaps"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_file_is_refused_at_its_byte(case):
    """Whatever does not follow the format is refused, by the file's name and, in the header, with its byte."""
    file, offset, message = REFUSED[case]
    with pytest.raises(MalformedError, match=re.escape(message)) as refusal:
        layout(file)
    assert str(refusal.value).startswith("model.safetensors ")
    assert refusal.value.offset is not None
    assert offset is None or refusal.value.offset == offset


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/x",
        "../x",
        "a/../b",
        "a/..",
        "..",
        "a\\b",
        "a\0b",
        "a\nb",
        "\x7f",
        "a\u202eb",
        "\u2028",
        "n" * 1025,
        "é" * 513,
    ],
)
def test_a_name_like_a_path_is_refused(name):
    """Names that leave a directory or hide what they are do not become names of blobs."""
    file = framed(json.dumps({name: json.loads(ONE)}).encode(), b"x")
    with pytest.raises(MalformedError, match="tensor name") as refusal:
        layout(file)
    assert refusal.value.offset == 9


@pytest.mark.parametrize("name", ["a", "a..b", "...", "a/b", "layers.0/w:0", "é" * 512, "日本", "a b", "~", "C:"])
def test_other_names_are_kept(name):
    """A name that only looks unusual stays as it is."""
    assert tensors(framed({name: json.loads(ONE)}, b"x"))[0][0] == name


def test_a_git_lfs_pointer_is_called_one():
    """A checkout without its large files says so, instead of a header of 7 exabytes."""
    file = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    with pytest.raises(MalformedError, match="Git LFS pointer") as refusal:
        layout(file)
    assert "git lfs pull" in refusal.value.hint


def chunks(*files):
    """Digests of all chunks of all tensors of some files."""
    found = set()
    for file in files:
        for _, _, _, data in tensors(file):
            at = 0
            for length in grid_lengths(len(data)):
                found.add(Digest.of(data[at : at + length]))
                at += length
    return found


def test_order_and_shards_make_no_new_chunks():
    """The same tensors in another order, or spread over three files, are the same chunks."""
    sizes = {"a": 1_500_000, "b": 7, "c": 2_097_153}
    data = {name: blake3(name.encode()).digest(size) for name, size in sizes.items()}

    def saved(names):
        begin, entries = 0, {}
        for name in names:
            entries[name] = {"dtype": "U8", "shape": [sizes[name]], "data_offsets": [begin, begin + sizes[name]]}
            begin += sizes[name]
        return framed(entries, b"".join(data[name] for name in names))

    whole = chunks(saved("abc"))
    assert len(whole) == 6
    assert chunks(saved("cab")) == whole
    assert chunks(saved("b"), saved("c"), saved("a")) == whole


def many(count):
    """A file of ``count`` tensors of one byte, and room for all of them."""
    entries = {f"t{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(count)}
    return framed(entries, bytes(count))


def test_the_largest_number_of_tensors():
    """65,536 tensors are cut, one more is refused."""
    assert len(layout(many(TENSORS_PER_FILE_MAX)).spans) == 1 + TENSORS_PER_FILE_MAX
    with pytest.raises(MalformedError, match="more than 65536 tensors"):
        layout(many(TENSORS_PER_FILE_MAX + 1))


def test_a_header_over_the_cap_is_not_read():
    """A file that really is that large costs nothing but its first bytes."""
    declared = TENSOR_HEADER_BYTES_MAX + 1
    asked = []

    def read_at(offset, length):
        asked.append(length)
        return struct.pack("<Q", declared)[offset : offset + length].ljust(length, b" ")

    with pytest.raises(MalformedError, match="at most"):
        file_layout("x.safetensors", declared + 8, read_at)
    assert sum(asked) < 1 << 20


def test_the_largest_number_of_metadata_values():
    """As many as the cap are read, one more is refused."""
    values = ",".join(f'"{n}":"v"' for n in range(TENSOR_METADATA_MAX))
    assert layout(framed(f'{{"__metadata__":{{{values}}}}}'.encode())).spans
    with pytest.raises(MalformedError, match="more than 65536 metadata values"):
        layout(framed(f'{{"__metadata__":{{{values},"x":"v"}}}}'.encode()))


def test_only_the_header_is_read():
    """A file of a terabyte is cut by reading its header and a little more."""
    big = 1 << 40
    head = framed({"a": {"dtype": "U8", "shape": [big], "data_offsets": [0, big]}})
    reads = []

    def read_at(offset, length):
        reads.append(offset + length)
        return head[offset : offset + length].ljust(length, b"\0")

    assert file_layout("x.safetensors", len(head) + big, read_at).spans[1].length == big
    assert max(reads) <= len(head) + READ_AHEAD_BYTES


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_what_is_read_after_damage_the_library_reads_alike(data):
    """A damaged file is refused, or it is cut exactly as the library reads it: never differently."""
    entries = {
        "a": {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]},
        "b": {"dtype": "U8", "shape": [3], "data_offsets": [8, 11]},
        "__metadata__": {"k": "v"},
    }
    file = bytearray(framed(entries, b"0123456789a"))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(file)))
        length = data.draw(st.integers(0, 3))
        file[at : at + length] = data.draw(st.binary(max_size=3) | st.sampled_from([b"0", b"9", b'"', b",", b"]"]))
    try:
        ours = tensors(bytes(file))
    except MalformedError:
        return
    assert ours == tensors_by_library(bytes(file))
