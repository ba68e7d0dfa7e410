import tracemalloc

import numpy as np
import pytest

from p2psync import codec
from p2psync.codec import Form
from p2psync.codec.layout import LAYOUTS
from p2psync.errors import MalformedError
from p2psync.limits import CHUNK_BYTES

ROWS, COLUMNS = 512, 256


def quantised(dtype, axis=1, seed=4):
    """A matrix of weights in ``dtype``, its codes and its scales along ``axis``, in bytes."""
    rng = np.random.default_rng(seed)
    values = (rng.normal(0, 0.03, (ROWS, COLUMNS)) * rng.uniform(0.5, 2, (ROWS, 1))).astype(np.float32)
    scales = (np.abs(values).max(axis, keepdims=True) / 127).astype(np.float32)
    codes = np.rint(values / scales).astype(np.int8)
    return narrowed(values, dtype), codes.tobytes(), scales.tobytes()


def narrowed(values, dtype):
    """The nearest elements of ``dtype``, ties to even, by arithmetic of our own."""
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).tobytes()
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).tobytes()


@pytest.mark.parametrize(("dtype", "most"), [("BF16", 0.25), ("F16", 0.43)])
@pytest.mark.parametrize(("axis", "row"), [(1, COLUMNS), (0, 1)])
def test_an_upgrade_from_codes_costs_a_part_of_the_weights(dtype, most, axis, row):
    """Scales of rows or of columns: codes and residual together are hardly more than the weights alone."""
    raw, codes, scales = quantised(dtype, axis)
    encoded = codec.encode_residual(raw, codes, scales, row, 0, dtype)
    assert encoded[:2] == bytes((Form.RESIDUAL, LAYOUTS[dtype].code))
    assert len(encoded) < most * len(raw)
    assert codec.decode(encoded, [codes, scales], len(raw)) == raw
    both = len(encoded) + len(codec.encode_full(codes, "I8") or codes)
    assert both - len(codec.encode_full(raw, dtype)) < 0.5 * ROWS * COLUMNS / 8


@pytest.mark.parametrize("first", [1, COLUMNS - 1, COLUMNS, 3 * COLUMNS + 7, (ROWS - 5) * COLUMNS + 200])
@pytest.mark.parametrize("count", [1000, 40])
def test_a_chunk_may_begin_and_end_inside_a_row(first, count):
    """The scale of an element is that of its row in the tensor, wherever the chunk begins."""
    raw, codes, scales = quantised("BF16")
    raw, codes = raw[2 * first : 2 * (first + count)], codes[first : first + count]
    encoded = codec.encode_residual(raw, codes, scales, COLUMNS, first, "BF16")
    if encoded is None:
        assert count == 40
        return
    assert codec.decode(encoded, [codes, scales], len(raw)) == raw
    own = scales[first // COLUMNS * 4 :]
    assert len(codec.encode_residual(raw, codes, own, COLUMNS, first % COLUMNS, "BF16")) == len(encoded)


def test_scales_begin_anew_behind_the_last():
    """Scales of columns hold for each row: element i has that at i modulo their count."""
    raw, codes, scales = quantised("BF16", axis=0)
    whole = codec.encode_residual(raw, codes, scales, 1, 0, "BF16")
    for first in (COLUMNS, 5 * COLUMNS, 1 << 60):
        assert codec.encode_residual(raw, codes, scales, 1, first, "BF16")[14:] == whole[14:]
    turned = scales[40:] + scales[:40]
    assert codec.encode_residual(raw, codes, turned, 1, COLUMNS - 10, "BF16")[14:] == whole[14:]


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_what_a_code_stands_for_is_what_the_format_says(dtype):
    """The products themselves, of every code and scales of all sizes, are told by differences of zero."""
    codes = np.tile(np.arange(-128, 128, dtype=np.int8), 251)
    exponents = np.linspace(-126, 121, 251)
    scales = (2.0**exponents * np.linspace(1, 1.9, 251)).astype(np.float32)
    with np.errstate(over="ignore"):
        raw = narrowed(codes.astype(np.float32) * np.repeat(scales, 256), dtype)
    encoded = codec.encode_residual(raw, codes.tobytes(), scales.tobytes(), 256, 0, dtype)
    assert len(encoded) < 256 * 40
    assert codec.decode(encoded, [codes.tobytes(), scales.tobytes()], len(raw)) == raw


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_weights_that_the_codes_say_nothing_of_stay_exact(dtype):
    """Any bits, and codes of something else: exact where it still shrinks, None where not."""
    rng = np.random.default_rng(8)
    raw, codes, scales = quantised(dtype)
    other = rng.bytes(len(codes))
    encoded = codec.encode_residual(raw, other, scales, COLUMNS, 0, dtype)
    assert encoded is None or codec.decode(encoded, [other, scales], len(raw)) == raw
    assert codec.encode_residual(rng.bytes(len(raw)), codes, scales, COLUMNS, 0, dtype) is None


@pytest.mark.parametrize(
    "scale", [np.nan, -np.nan, np.inf, -np.inf, 1e-45, -1e-39, np.uint32(0x7F800001).view(np.float32)]
)
def test_scales_on_which_processors_disagree_have_no_residual(scale):
    """Neither an encoder nor a decoder multiplies with what is infinite, no number, or below the normal ones."""
    raw, codes, scales = quantised("BF16")
    encoded = codec.encode_residual(raw, codes, scales, COLUMNS, 0, "BF16")
    bad = scales[:400] + np.float32(scale).tobytes() + scales[404:]
    assert codec.encode_residual(raw, codes, bad, COLUMNS, 0, "BF16") is None
    with pytest.raises(MalformedError):
        codec.decode(encoded, [codes, bad], len(raw))


@pytest.mark.parametrize("scale", [0.0, -0.0, -0.5, 3.0e38])
def test_other_scales_are_taken(scale):
    """Zero of either sign, a negative scale and products that overflow are told as they come out."""
    raw, codes, scales = quantised("BF16")
    odd = scales[:400] + np.float32(scale).tobytes() + scales[404:]
    encoded = codec.encode_residual(raw, codes, odd, COLUMNS, 0, "BF16")
    assert codec.decode(encoded, [codes, odd], len(raw)) == raw


def test_what_fits_no_residual_has_none():
    """Other dtypes, lengths that do not belong together, and numbers that do not fit make None."""
    raw, codes, scales = quantised("BF16")
    for dtype in ("F32", "I8", "F8_E4M3", "F64"):
        assert codec.encode_residual(raw, codes, scales, COLUMNS, 0, dtype) is None
    for odd in (
        (raw[:-1], codes, scales, COLUMNS, 0),
        (raw, codes[:-1], scales, COLUMNS, 0),
        (raw, codes, scales[:-1], COLUMNS, 0),
        (raw, codes, b"", COLUMNS, 0),
        (b"", b"", scales, COLUMNS, 0),
        (raw, codes, scales, 0, 0),
        (raw, codes, scales, -1, 0),
        (raw, codes, scales, 1 << 32, 0),
        (raw, codes, scales, COLUMNS, -1),
        (raw, codes, scales, COLUMNS, 1 << 64),
        (bytes(CHUNK_BYTES + 2), bytes(CHUNK_BYTES // 2 + 1), scales, COLUMNS, 0),
    ):
        assert codec.encode_residual(*odd, "BF16") is None


def damaged():
    """Encoded chunks that are none of the 131,072 elements, and bases that do not belong to the sound one."""
    raw, codes, scales = quantised("BF16")
    sound = codec.encode_residual(raw, codes, scales, COLUMNS, 0, "BF16")
    bases = [codes, scales]
    yield "no body", sound[:2], bases
    yield "ends in its head", sound[:13], bases
    yield "ends in its lengths", sound[:20], bases
    yield "a byte short", sound[:-1], bases
    yield "a byte behind it", sound + b"\0", bases
    yield "rows of no elements", sound[:2] + bytes(4) + sound[6:], bases
    yield "a longer first class", sound[:14] + bytes((sound[14] ^ 1,)) + sound[15:], bases
    yield "a first class of 2^24 - 1", sound[:14] + b"\xff\xff\xff" + sound[17:], bases
    yield "a dtype that has no residual", sound[:1] + b"\x03" + sound[2:], bases
    yield "no bases", sound, []
    yield "no scales", sound, [codes]
    yield "empty scales", sound, [codes, b""]
    yield "scales that end inside one", sound, [codes, scales[:-1]]
    yield "a third base", sound, [codes, scales, scales]
    yield "fewer codes", sound, [codes[:-1], scales]
    yield "more codes", sound, [codes + b"\0", scales]
    yield "other codes", sound, [bytes(len(codes)), scales]


@pytest.mark.parametrize(("encoded", "bases"), [pytest.param(e, b, id=name) for name, e, b in damaged()])
def test_residuals_that_lie_are_refused(encoded, bases):
    """Lengths, counts and bases agree, or nothing is decoded."""
    with pytest.raises(MalformedError):
        codec.decode(encoded, bases, 2 * ROWS * COLUMNS)


def test_streams_that_do_not_fill_the_body_are_refused_as_such():
    """Lengths of classes add up to the rest of the body, or no stream is given to its reader."""
    raw, codes, scales = quantised("BF16")
    sound = codec.encode_residual(raw, codes, scales, COLUMNS, 0, "BF16")
    for wrong in (sound + b"\0", sound[:-1], sound[:14] + b"\xff\xff\xff" + sound[17:]):
        with pytest.raises(MalformedError, match=r"bytes of streams, and tells of"):
            codec.decode(wrong, [codes, scales], len(raw))


def test_the_longest_row_takes_no_memory():
    """A row of 2^32 - 1 elements and a first element near 2^64 cost what the chunk has."""
    raw, codes, scales = quantised("BF16")
    row, first = (1 << 32) - 1, (1 << 64) - 5
    encoded = codec.encode_residual(raw, codes, scales, row, first, "BF16")
    assert encoded is not None
    assert codec.decode(encoded, [codes, scales], len(raw)) == raw


def test_reading_the_largest_chunk_stays_within_its_memory():
    """A mebibyte is read in less than the 16 MiB that a decoder promises."""
    raw, codes, scales = (4 * part for part in quantised("BF16"))
    encoded = codec.encode_residual(raw, codes, scales, COLUMNS, 0, "BF16")
    tracemalloc.start()
    try:
        assert codec.decode(encoded, [codes, scales], CHUNK_BYTES) == raw
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
