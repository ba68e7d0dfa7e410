import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from p2psync import codec
from p2psync.codec import Form, narrow, planes, zstd
from p2psync.codec.layout import LAYOUTS
from p2psync.errors import MalformedError
from p2psync.limits import CHUNK_BYTES

MAGIC = bytes.fromhex("28b52ffd")
SINGLE, DICTIONARY = 0x20, 0x01


def weights(dtype, count, seed=3):
    """Elements as a trained layer has them."""
    values = np.random.default_rng(seed).normal(0, 0.03, count).astype(np.float32)
    if dtype == "BF16":
        return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16).tobytes()
    if dtype == "F16":
        return values.astype(np.float16).tobytes()
    if dtype in ("F8_E4M3", "F8_E5M2"):
        # The upper byte of an F16 is an E5M2; of E4M3 it has the skew, which is what matters here.
        return (values.astype(np.float16).view(np.uint16) >> np.uint16(8)).astype(np.uint8).tobytes()
    if dtype in ("I8", "U8"):
        return np.round(values * 600).astype(np.int8).tobytes()
    return values.tobytes()


@pytest.mark.parametrize(
    ("dtype", "form", "most"),
    [
        ("BF16", Form.PLANES, 0.667),
        ("F16", Form.PLANES, 0.85),
        ("F32", Form.PLANES, 0.84),
        ("F8_E4M3", Form.PACKED, 0.83),
        ("F8_E5M2", Form.PACKED, 0.83),
        ("I8", Form.PACKED, 0.8),
        ("U8", Form.PACKED, 0.8),
    ],
)
def test_weights_shrink_to_what_their_exponents_allow(dtype, form, most):
    """Of normally distributed weights of each dtype no more is left than the order-0 bound and a little."""
    raw = weights(dtype, 1 << 17)
    encoded = codec.encode_full(raw, dtype)
    assert (encoded[0], encoded[1]) == (form, LAYOUTS[dtype].code)
    assert len(encoded) <= most * len(raw)
    assert codec.decode(encoded, [], len(raw)) == raw


@pytest.mark.parametrize("narrow", ["BF16", "F16"])
def test_widened_floats_cost_what_the_narrow_ones_do(narrow):
    """F32 that was widened is told as what it was, but for one byte."""
    count = 1 << 16
    raw = weights(narrow, count)
    found = np.frombuffer(raw, np.uint16)
    if narrow == "BF16":
        wide = (found.astype(np.uint32) << np.uint32(16)).tobytes()
    else:
        wide = found.view(np.float16).astype(np.float32).tobytes()
    encoded = codec.encode_full(wide, "F32")
    assert encoded[0] == Form.NARROW
    assert len(encoded) == len(codec.encode_full(raw, narrow)) + 1
    assert codec.decode(encoded, [], len(wide)) == wide


@pytest.mark.parametrize("pattern", [0x7F800000, 0xFF800000, 0x7FC00000, 0x7FA00000, 0x7F802000])
def test_f16_that_is_not_finite_is_not_narrowed(pattern):
    """What processors may disagree about stays F32."""
    wide = np.frombuffer(weights("F16", 4096), np.float16).astype(np.float32)
    wide.view(np.uint32)[7] = pattern
    encoded = codec.encode_full(wide.tobytes(), "F32")
    assert encoded[0] == Form.PLANES
    assert codec.decode(encoded, [], wide.nbytes) == wide.tobytes()


def test_repetitions_count_where_nothing_is_known_of_the_dtype():
    """Tables of indexes shrink by what repeats in them; bytes of weights are not searched for it."""
    table = np.tile(np.random.default_rng(1).integers(0, 1 << 62, 512), 20).tobytes()
    encoded = codec.encode_full(table, "I64")
    assert encoded[:2] == bytes((Form.PACKED, 0))
    assert len(encoded) < len(table) / 15
    assert codec.decode(encoded, [], len(table)) == table


@pytest.mark.parametrize("dtype", [*LAYOUTS, "F64", "Q4_K", ""])
def test_what_does_not_shrink_has_no_form(dtype):
    """Noise, nothing, a byte, and what is more than a chunk are left as they are."""
    noise = np.random.default_rng(5).bytes(50_001)
    for raw in (noise, noise[:50_000], b"", b"\0", b"\0\0", bytes(CHUNK_BYTES + 4)):
        assert codec.encode_full(raw, dtype) is None


@pytest.mark.parametrize("dtype", ["BF16", "F32", "I8", "F64"])
def test_a_chunk_of_zeros_is_a_few_bytes(dtype):
    """The largest chunk of one value makes a body that does not depend on its size."""
    encoded = codec.encode_full(bytes(CHUNK_BYTES), dtype)
    assert len(encoded) < 200
    assert codec.decode(encoded, [], CHUNK_BYTES) == bytes(CHUNK_BYTES)


def test_buffers_of_any_kind_are_taken():
    """bytes, bytearray and memoryview give the same, and what is decoded is the caller's to change."""
    raw = weights("BF16", 4096)
    encoded = codec.encode_full(raw, "BF16")
    assert codec.encode_full(bytearray(raw), "BF16") == codec.encode_full(memoryview(raw), "BF16") == encoded
    for given in (bytearray(encoded), memoryview(encoded)):
        found = codec.decode(given, [], len(raw))
        assert isinstance(found, bytearray)
        found[0] ^= 1
    assert codec.decode(encoded, [], len(raw)) == raw


def test_threads_do_not_share_a_coder():
    """What several threads encode and decode at once is what one of them makes."""
    chunks = [(weights(dtype, 40_000, seed), dtype) for seed in range(8) for dtype in ("BF16", "F32", "I8")]
    alone = [codec.encode_full(raw, dtype) for raw, dtype in chunks]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda case: codec.encode_full(*case), chunks)) == alone
        found = pool.map(lambda case: codec.decode(case[0], [], len(case[1][0])), zip(alone, chunks, strict=True))
        assert list(found) == [raw for raw, _ in chunks]


def frame(size, *, head=SINGLE, before=b"", blocks=None):
    """A frame that declares ``size`` bytes in eight, and holds ``blocks``, by default so many zeros."""
    if blocks is None:
        blocks = (size << 3 | 0b011).to_bytes(3, "little") + b"\0"
    return MAGIC + bytes((0xC0 | head,)) + before + size.to_bytes(8, "little") + blocks


def test_a_plain_frame_of_another_writer_is_read():
    """The frames below are refused for what is wrong with them, not for how they are made."""
    assert zstd.unpack(frame(1000), 1000) == bytes(1000)
    assert zstd.unpack(frame(1000, head=0, before=bytes((13 << 3,))), 1000) == bytes(1000)


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(MAGIC, id="only the magic"),
        pytest.param(b"\0" * 40, id="zeros"),
        pytest.param(frame(1000)[:-1], id="truncated"),
        pytest.param(frame(1000)[:8], id="truncated in its head"),
        pytest.param(frame(999), id="one byte less"),
        pytest.param(frame(1001), id="one byte more"),
        pytest.param(frame(1 << 60, blocks=frame(1000)[13:]), id="2^60"),
        pytest.param(frame((1 << 64) - 1, blocks=frame(1000)[13:]), id="2^64 - 1"),
        pytest.param(frame(1000, blocks=frame(999)[13:]), id="declares more than it holds"),
        pytest.param(frame(1000, blocks=frame(1001)[13:]), id="declares less than it holds"),
        pytest.param(MAGIC + bytes((0, 0)) + frame(1000)[13:], id="declares nothing"),
        pytest.param(frame(1000) + frame(1000), id="a second frame"),
        pytest.param(frame(1000) + b"\0", id="a byte behind it"),
        pytest.param(frame(1000) + bytes.fromhex("502a4d1800000000"), id="a skippable frame behind it"),
        pytest.param(bytes.fromhex("502a4d1800000000") + frame(1000), id="a skippable frame before it"),
        pytest.param(frame(1000, head=0, before=bytes((14 << 3,))), id="a window of 16 MiB"),
        pytest.param(frame(1000, head=0, before=bytes((31 << 3 | 7,))), id="a window of 4 TiB"),
        pytest.param(frame(1000, head=SINGLE | DICTIONARY, before=b"\x07"), id="a dictionary"),
        pytest.param(frame(1000, head=SINGLE | 0x08), id="a reserved bit"),
    ],
)
def test_frames_that_are_not_what_is_due_are_refused(stream):
    """Of every frame but exactly the one that is due, no byte comes out."""
    with pytest.raises(MalformedError):
        zstd.unpack(stream, 1000)


@pytest.mark.parametrize(("form", "dtype"), [(Form.PLANES, 250), (Form.PACKED, 250), (Form.SPARSE, 255)])
def test_an_unknown_dtype_is_refused_by_its_number(form, dtype):
    """Before anything is read of the body: only what is packed may have no dtype at all."""
    with pytest.raises(MalformedError, match=f"form {form.name} and the dtype {dtype}"):
        codec.decode(bytes((form, dtype)) + frame(1000), [bytes(1000)] * codec.BASES[form], 1000)


def test_what_a_frame_declares_takes_no_memory():
    """A chunk of a kilobyte that declares a gibibyte, and would give it, takes less than its own reader does."""
    blocks = b"".join((1 << 20 | 0b010 | (number == 8191)).to_bytes(3, "little") + b"\0" for number in range(8192))
    stream = bytes((Form.PACKED, LAYOUTS["I8"].code)) + frame(1 << 30, blocks=blocks)
    codec.decode(bytes((Form.PACKED, 6)) + frame(1000), [], 1000)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError):
            codec.decode(stream, [], CHUNK_BYTES)
        assert tracemalloc.get_traced_memory()[1] < 1 << 18
    finally:
        tracemalloc.stop()


def planes_body(raw, dtype="BF16"):
    return planes.encode(raw, LAYOUTS[dtype])


def damaged_planes():
    """Bodies of 4,096 elements of BF16, one plane packed, that are none."""
    body = planes_body(weights("BF16", 4096))
    assert body[0] == 1
    length = int.from_bytes(body[1:4], "little")
    yield "nothing", b""
    yield "only the first byte", body[:1]
    yield "a third plane packed", bytes((body[0] | 4,)) + body[1:]
    yield "the other plane packed", bytes((2,)) + body[1:]
    yield "no plane packed", bytes((0,)) + body[1:]
    yield "a longer frame", body[:1] + (length + 1).to_bytes(3, "little") + body[4:]
    yield "a frame of 2^24 - 1", body[:1] + b"\xff\xff\xff" + body[4:]
    yield "no frame", body[:1] + bytes(3) + body[4:]
    yield "a byte behind it", body + b"\0"
    yield "a byte short", body[:-1]


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in damaged_planes()])
def test_planes_that_lie_are_refused(body):
    """Every length and flag of a body is held against what is due."""
    with pytest.raises(MalformedError):
        planes.decode(body, LAYOUTS["BF16"], 8192)


def damaged_heads():
    """Encoded chunks and lengths that go wrong before the body is looked at."""
    raw = weights("BF16", 4096)
    encoded = codec.encode_full(raw, "BF16")
    wide = codec.encode_full((np.frombuffer(raw, np.uint16).astype(np.uint32) << np.uint32(16)).tobytes(), "F32")
    yield "nothing", b"", 8192
    yield "no body", encoded[:2], 8192
    yield "form 0", b"\0" + encoded[1:], 8192
    yield "form 8", b"\x08" + encoded[1:], 8192
    yield "no layout", encoded[:1] + b"\0" + encoded[2:], 8192
    yield "an unknown layout", encoded[:1] + b"\xff" + encoded[2:], 8192
    yield "planes of I8", encoded[:1] + b"\x06" + encoded[2:], 8192
    yield "packed with an unknown layout", bytes((Form.PACKED, 0xFF)) + frame(1000), 1000
    yield "narrowed BF16", bytes((Form.NARROW,)) + encoded[1:], 8192
    yield "narrowed to F32", wide[:2] + b"\x03" + wide[3:], 16_384
    yield "a length of 0", encoded, 0
    yield "a negative length", encoded, -8192
    yield "an odd length", encoded, 8191
    yield "a shorter chunk", encoded, 8190
    yield "a longer chunk", encoded, 8194
    yield "a chunk as long as this", encoded, len(encoded)
    yield "more than a chunk", encoded, CHUNK_BYTES + 2
    yield "2^62", encoded, 1 << 62
    yield "the largest number", encoded, sys.maxsize


@pytest.mark.parametrize(("encoded", "length"), [pytest.param(e, n, id=name) for name, e, n in damaged_heads()])
def test_heads_and_lengths_that_fit_nothing_are_refused(encoded, length):
    """Form, layout and length agree, or nothing is decoded."""
    with pytest.raises(MalformedError):
        codec.decode(encoded, [], length)


def test_each_full_form_is_refused_by_its_own_rule():
    """What cannot be is named before a coder is asked: its own message would speak of something else."""
    raw = weights("BF16", 4096)
    body = planes_body(raw)
    with pytest.raises(MalformedError, match="planes of 8192 bytes in elements of 1"):
        planes.decode(body, LAYOUTS["I8"], 8192)
    with pytest.raises(MalformedError, match="planes of 8191 bytes"):
        planes.decode(body, LAYOUTS["BF16"], 8191)
    told = bytes((LAYOUTS["BF16"].code,)) + body
    assert len(narrow.decode(told, LAYOUTS["F32"], 16_384)) == 16_384
    for wrong, dtype, length in ((told, "BF16", 16_384), (told, "F32", 16_383), (b"", "F32", 16_384)):
        with pytest.raises(MalformedError, match=f"narrowed elements of {length} bytes of a dtype that is no F32"):
            narrow.decode(wrong, LAYOUTS[dtype], length)
    with pytest.raises(MalformedError, match="does not begin as one"):
        zstd.unpack(bytes.fromhex("502a4d1800000000") + frame(1000), 1000)


def test_a_full_form_takes_no_base():
    """Bytes that the form has no use for are a mistake of whoever wrote the row."""
    raw = weights("BF16", 4096)
    with pytest.raises(MalformedError):
        codec.decode(codec.encode_full(raw, "BF16"), [raw], len(raw))


def test_narrowed_elements_must_be_finite():
    """F16 patterns of infinities or NaN stand for nothing in a narrowed chunk."""
    found = np.frombuffer(weights("F16", 4096), np.uint16).copy()
    found[9] = 0x7C01
    body = bytes((LAYOUTS["F16"].code,)) + planes_body(found.tobytes(), "F16")
    with pytest.raises(MalformedError):
        codec.decode(bytes((Form.NARROW, LAYOUTS["F32"].code)) + body, [], 16_384)
