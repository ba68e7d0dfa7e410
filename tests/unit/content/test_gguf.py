from __future__ import annotations

import math
import re
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2psync.content import BlobKind, FileFormat, file_layout
from p2psync.content.gguf import TENSOR_TYPES
from p2psync.errors import MalformedError
from p2psync.limits import (
    GGUF_ALIGNMENT_MAX,
    GGUF_ARRAYS_MAX,
    GGUF_HEADER_BYTES_MAX,
    GGUF_KEY_BYTES_MAX,
    GGUF_KEYS_MAX,
    READ_AHEAD_BYTES,
    TENSORS_PER_FILE_MAX,
)

# A writer of its own, by the document of the format: value types by number, as (struct code).
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING = 8
ARRAY = 9


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(kind, content):
    """A metadata value; an array's content is (element kind, elements)."""
    if kind == STRING:
        return text(content)
    if kind == ARRAY:
        inner, elements = content
        return struct.pack("<IQ", inner, len(elements)) + b"".join(value(inner, e) for e in elements)
    return struct.pack("<" + SCALARS[kind], content)


def pair(key, kind, content):
    return text(key) + struct.pack("<I", kind) + value(kind, content)


def entry(name, shape=(1,), kind=24, offset=0):
    """A tensor's description. ``shape`` is innermost first, as in the file; type 24 is I8."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def header(entries=(), pairs=(), version=3, counts=None):
    tensors, keys = counts or (len(entries), len(pairs))
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join((*pairs, *entries))


def padded(data, alignment=32):
    return data + bytes(-len(data) % alignment)


def layout(file, name="model.gguf"):
    return file_layout(name, len(file), lambda offset, length: file[offset : offset + length])


PLAIN = padded(header([entry("a", (3,))])) + b"xyz"


def test_padding_is_a_gap_of_its_own():
    """The header, each padding and each tensor are spans, in file order; shapes are outermost first."""
    pairs = [
        pair("general.architecture", STRING, "llama"),
        pair("general.alignment", 4, 64),
        pair("tokens", ARRAY, (STRING, ["a", "", "ccc"])),
        pair("scores", ARRAY, (6, [0.5, 1.5])),
        pair("nested", ARRAY, (ARRAY, [(4, [1, 2]), (STRING, ["x"])])),
    ]
    pairs += [pair(f"scalar {kind}", kind, 1) for kind in SCALARS]
    entries = [entry("second", (256, 2), 12, 64), entry("first", (2, 3), 1, 0), entry("scalar", (), 0, 384)]
    head = header(entries, pairs)
    data = padded(b"f" * 12, 64) + padded(b"s" * 288, 64) + b"t" * 4
    cut = layout(padded(head, 64) + data)
    assert cut.format is FileFormat.GGUF
    assert [(s.kind, s.length, s.name, s.dtype, s.shape) for s in cut.spans] == [
        (BlobKind.HEADER, len(head), "", "", ()),
        (BlobKind.GAP, -len(head) % 64, "", "", ()),
        (BlobKind.TENSOR, 12, "first", "F16", (3, 2)),
        (BlobKind.GAP, 52, "", "", ()),
        (BlobKind.TENSOR, 288, "second", "Q4_K", (2, 256)),
        (BlobKind.GAP, 32, "", "", ()),
        (BlobKind.TENSOR, 4, "scalar", "F32", ()),
    ]


def test_padding_at_the_end_is_a_gap_or_missing():
    """The last tensor's padding may be there or not."""
    assert [s.length for s in layout(PLAIN).spans][-1:] == [3]
    assert [s.length for s in layout(padded(PLAIN)).spans][-2:] == [3, 29]


@pytest.mark.parametrize("version", [2, 3])
def test_a_file_without_tensors_may_end_at_its_header(version):
    """Vocabulary files hold metadata alone, padded or not."""
    file = header(pairs=[pair("k", STRING, "v")], version=version)
    assert [s.kind for s in layout(file).spans] == [BlobKind.HEADER]
    assert [s.kind for s in layout(padded(file)).spans] == [BlobKind.HEADER, BlobKind.GAP]


def test_empty_tensors_stand_before_what_starts_at_their_offset():
    """A tensor of no elements is a span of length 0 at its own offset."""
    entries = [entry("full", (4,), 24, 0), entry("b", (0,), 24, 0), entry("a", (0, 5), 0, 0), entry("end", (0,), 0, 32)]
    file = padded(padded(header(entries)) + b"full")
    assert [(s.name, s.length) for s in layout(file).spans if s.kind is BlobKind.TENSOR] == [
        ("a", 0),
        ("b", 0),
        ("full", 4),
        ("end", 0),
    ]


@pytest.mark.parametrize("kind", sorted(TENSOR_TYPES))
def test_every_type_takes_whole_blocks(kind):
    """A row is a whole number of blocks, and a tensor takes its blocks' bytes."""
    name, elements, block_bytes = TENSOR_TYPES[kind]
    file = padded(header([entry("a", (3 * elements, 2), kind)])) + bytes(6 * block_bytes)
    assert (layout(file).spans[-1].length, layout(file).spans[-1].dtype) == (6 * block_bytes, name)
    if elements > 1:
        with pytest.raises(MalformedError, match=f"no multiple of {elements}"):
            layout(padded(header([entry("a", (elements + 1,), kind)])) + bytes(999))


def test_the_bits_of_an_element_are_what_the_type_says():
    """The table agrees with the names: quantised types of n bits take a little more than n bits an element."""
    for name, elements, block_bytes in TENSOR_TYPES.values():
        bits = 8 * block_bytes / elements
        digits = int(re.search(r"\d+", name)[0])
        if name.startswith(("F", "I", "BF")) and not name.startswith("IQ"):
            assert bits == digits
        else:
            assert digits <= bits <= digits + 1.5


REFUSED = {
    "not GGUF": (b"GGML" + PLAIN[4:], 0, "does not start with GGUF"),
    "nothing": (b"", 0, "middle of a value"),
    "version 1": (b"GGUF\x01\0\0\0" + PLAIN[8:], 4, "version 1; versions 2 and 3"),
    "version 0": (b"GGUF\0\0\0\0" + PLAIN[8:], 4, "version 0; versions 2 and 3"),
    "version 4": (b"GGUF\x04\0\0\0" + PLAIN[8:], 4, "version 4; versions 2 and 3"),
    "big-endian": (b"GGUF\0\0\0\x03" + PLAIN[8:], 4, "big-endian"),
    "only its start": (PLAIN[:10], 8, "middle of a value"),
    "too many tensors": (header(counts=(TENSORS_PER_FILE_MAX + 1, 0)), 8, "65537 tensors"),
    "too many keys": (header(counts=(0, GGUF_KEYS_MAX + 1)), 16, "65537 metadata keys"),
    "2^63 tensors": (header(counts=(1 << 63, 0)), 8, "tensors"),
    "fewer keys than said": (header(counts=(0, 1)), 24, "middle of a value"),
    "empty key": (header(pairs=[pair("", 4, 1)]), 24, "empty or there twice"),
    "key twice": (header(pairs=[pair("k", 4, 1), pair("k", 4, 1)]), 41, "empty or there twice"),
    "long key": (header(pairs=[pair("k" * (GGUF_KEY_BYTES_MAX + 1), 4, 1)]), 24, "a name of 65536 bytes"),
    "key of 2^63": (header(pairs=[struct.pack("<Q", 1 << 63)]), 24, "a name of"),
    "unknown value type": (header(pairs=[text("k") + struct.pack("<I", 13)]), 37, "unknown type 13"),
    "string of 2^63": (header(pairs=[text("k") + struct.pack("<IQ", STRING, 1 << 63)]), 37, "inside its header"),
    "string over the end": (header(pairs=[text("k") + struct.pack("<IQ", STRING, 9) + b"8 bytes."]), 37, "inside its"),
    "half a string length": (header(pairs=[text("k") + struct.pack("<I", STRING) + b"\0"]), 37, "middle of a string"),
    "array of 2^60": (header(pairs=[text("k") + struct.pack("<IIQ", ARRAY, 10, 1 << 60)]), 49, "inside its header"),
    "array of 2^60 strings": (header(pairs=[text("k") + struct.pack("<IIQ", ARRAY, STRING, 1 << 60)]), 49, "a string"),
    "array of 2^60 arrays": (header(pairs=[text("k") + struct.pack("<IIQ", ARRAY, ARRAY, 1 << 60)]), 49, "arrays"),
    "too many arrays": (
        header(pairs=[pair("k", ARRAY, (ARRAY, [(0, [])] * (GGUF_ARRAYS_MAX // 2))),
                      pair("l", ARRAY, (ARRAY, [(0, [])] * (GGUF_ARRAYS_MAX // 2)))]), None, "metadata arrays"),
    "deep arrays": (header(pairs=[text("k") + struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 200_000]), 85,
                    "nests metadata arrays deeper than 4"),
    "alignment of 0": (header(pairs=[pair("general.alignment", 4, 0)]), 24, "power of two"),
    "alignment of 24": (header(pairs=[pair("general.alignment", 4, 24)]), 24, "power of two"),
    "alignment too wide": (header(pairs=[pair("general.alignment", 4, 2 * GGUF_ALIGNMENT_MAX)]), 24, "power of two"),
    "alignment of another type": (header(pairs=[pair("general.alignment", 10, 32)]), 24, "unsigned 32-bit"),
    "name twice": (header([entry("a"), entry("a")]), 57, "two tensors called 'a'"),
    "name empty": (header([entry("")]), 24, "tensor name '' that is empty"),
    "name like a path": (header([entry("../a")]), 24, "contains a .. part"),
    "name not Unicode": (header([entry(b"\xff")]), 24, "not Unicode"),
    "name too long": (header([entry("n" * 1025)]), 24, "a name of 1025 bytes"),
    "65 dimensions": (header([entry("a", (1,) * 65)]), 24, "65 dimensions"),
    "2^32 dimensions": (header([text("a") + b"\xff" * 40]), 24, "4294967295 dimensions"),
    "withdrawn type": (header([entry("a", (32,), 4)]), 24, "unknown type 4"),
    "unknown type": (header([entry("a", (32,), 1000)]), 24, "unknown type 1000"),
    "shape overflows": (header([entry("a", (1 << 32, 1 << 32))]), 24, "overflows"),
    "empty giant": (header([entry("a", (0, 1 << 32, 1 << 32))]), 24, "overflows"),
    "truncated": (PLAIN[:-1], len(PLAIN) - 1, "its tensors end at"),
    "without its data": (header([entry("a")]), 57, "its tensors end at"),
    "one byte after": (PLAIN + b"!", len(PLAIN), "1 bytes after its last tensor"),
    "bytes after the padding": (padded(PLAIN) + b"!", len(PLAIN), "after its last tensor"),
    "bytes after metadata": (padded(header()) + b"!", 24, "after its last tensor"),
    "hole": (padded(header([entry("a"), entry("b", offset=64)])) + bytes(65), None, "'b' that does not stand right"),
    "hole at the start": (padded(header([entry("a", offset=32)])) + bytes(33), None, "does not stand right after"),
    "not aligned": (padded(header([entry("a"), entry("b", offset=1)])) + bytes(65), None, "does not stand right after"),
    "overlap": (padded(header([entry("a", (40,)), entry("b", offset=32)])) + bytes(65), None, "'b' that overlaps"),
    "two tensors of one place": (padded(header([entry("a"), entry("b")])) + b"x", None, "'b' that overlaps"),
    "offset of 2^64": (padded(header([entry("a", offset=(1 << 64) - 32)])) + b"x", None, "does not stand right after"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_file_is_refused_at_its_byte(case):
    """Whatever does not follow the format is refused, by the file's name and with its byte."""
    file, offset, message = REFUSED[case]
    with pytest.raises(MalformedError, match=re.escape(message)) as refusal:
        layout(file)
    assert str(refusal.value).startswith("model.gguf ")
    assert refusal.value.offset is not None
    assert offset is None or refusal.value.offset == offset


def test_a_header_over_the_cap_is_refused():
    """Metadata that would not end within 64 MiB is not followed."""
    start = header(pairs=[text("k") + struct.pack("<IIQ", ARRAY, 0, GGUF_HEADER_BYTES_MAX)])

    def read_at(offset, length):
        return start[offset : offset + length].ljust(length, b"\0")

    with pytest.raises(MalformedError, match="header of more than"):
        file_layout("x.gguf", 2 * GGUF_HEADER_BYTES_MAX, read_at)


def test_only_the_header_is_read():
    """A file of a terabyte is cut by reading its header and a little more."""
    big = 1 << 40
    head = padded(header([entry("a", (big,))]))
    reads = []

    def read_at(offset, length):
        reads.append(offset + length)
        return head[offset : offset + length].ljust(length, b"\0")

    assert file_layout("x.gguf", len(head) + big, read_at).spans[-1].length == big
    assert max(reads) <= len(head) + READ_AHEAD_BYTES


KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda key: key != "general.alignment")
VALUES = st.one_of(
    [st.tuples(st.just(kind), st.integers(0, 1)) for kind in SCALARS]
    + [st.tuples(st.just(STRING), st.text(st.characters(codec="utf-8"), max_size=40))]
    + [st.tuples(st.just(ARRAY), st.tuples(st.just(2), st.lists(st.integers(0, 65_535), max_size=5)))]
    + [st.tuples(st.just(ARRAY), st.tuples(st.just(STRING), st.lists(st.text("ab", max_size=9), max_size=9)))]
)


@settings(deadline=None)
@given(
    metadata=st.dictionaries(KEYS, VALUES, max_size=6),
    declared=st.dictionaries(
        st.from_regex(r"[a-z]{1,8}", fullmatch=True),
        st.tuples(st.sampled_from(sorted(TENSOR_TYPES)), st.lists(st.integers(0, 3), max_size=4)),
        max_size=6,
    ),
    exponent=st.integers(0, 12),
)
def test_what_is_written_is_cut_where_it_stands(metadata, declared, exponent):
    """Any metadata, types, shapes and alignment: each tensor's span holds exactly its bytes."""
    alignment = 1 << exponent
    pairs = [pair("general.alignment", 4, alignment), *(pair(key, *content) for key, content in metadata.items())]
    entries, data = [], b""
    written = {}
    for number, (name, (kind, shape)) in enumerate(declared.items()):
        _, elements, block_bytes = TENSOR_TYPES[kind]
        rows = [elements * shape[0], *shape[1:]] if shape else [elements]
        written[name] = bytes([number + 1]) * (math.prod(shape) * block_bytes)
        entries.append(entry(name, rows, kind, len(data)))
        data = padded(data + written[name], alignment)
    file = padded(header(entries, pairs), alignment) + data
    position = 0
    found = {}
    for span in layout(file).spans:
        if span.kind is BlobKind.TENSOR:
            found[span.name] = file[position : position + span.length]
        position += span.length
    assert found == written
    assert position == len(file)
