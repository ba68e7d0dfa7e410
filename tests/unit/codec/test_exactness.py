"""Every form gives back every bit, and whatever else it is given it refuses, or gives as many other bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2psync import codec
from p2psync.codec import Form, difference, full, narrow, packed, planes, sparse, tight
from p2psync.codec.layout import LAYOUTS
from p2psync.errors import MalformedError
from p2psync.limits import CHUNK_BYTES

DTYPES = (*LAYOUTS, "F64", "I64", "BOOL", "Q4_K")
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32}
# Zeros, infinities, quiet and signalling NaN, the largest and smallest numbers, ones: of both signs, as F32.
PATTERNS = np.array(
    [p | sign for p in (0, 1, 0x7F800000, 0x7FC00000, 0x7F800001, 0x7F7FFFFF, 0x00800000, 0x007FFFFF, 0x3F800000)
     for sign in (0, 0x80000000)],
    np.uint32,
)  # fmt: skip
KINDS = ("noise", "weights", "wide", "constant", "patterns", "sparse", "steps")


def content(dtype, length, kind, seed):
    """``length`` bytes of elements of ``dtype``: not always whole ones."""
    rng = np.random.default_rng(seed)
    size = LAYOUTS[dtype].element_bytes if dtype in LAYOUTS else 1
    count = -(-length // size)
    if kind == "noise":
        return rng.bytes(length)
    if kind == "constant":
        return (rng.bytes(size) * count)[:length]
    values = rng.normal(0, 0.03, count).astype(np.float32)
    if kind == "wide":
        # What was BF16 or F16 before.
        values = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        if seed % 2:
            values = values.astype(np.float16).astype(np.float32)
    bits = values.view(np.uint32)
    if kind == "patterns":
        bits = rng.choice(PATTERNS, count)
    elif kind == "sparse":
        bits = bits * (rng.random(count) < 0.05)
    elif kind == "steps":
        bits = np.arange(count, dtype=np.uint32) // 3
    found = bits.astype(np.uint32) if kind == "steps" else bits.astype(np.uint32) >> np.uint32(32 - 8 * size)
    return found.astype(UNSIGNED[size]).tobytes()[:length]


lengths = st.one_of(
    st.integers(0, 40), st.integers(0, 3000), st.sampled_from((4096, 8192, 65_536, 131_072, 131_074, 262_148))
)
dtypes = st.shared(st.sampled_from(DTYPES), key="dtype")
seeds = st.integers(0, 1 << 20)
chunks = st.builds(content, dtypes, lengths, st.sampled_from(KINDS), seeds)


def check(encoded, bases, raw):
    """An encoded chunk is shorter than what it stands for, and stands for it."""
    if encoded is not None:
        assert 2 < len(encoded) < len(raw)
        assert codec.decode(encoded, bases, len(raw)) == raw


@settings(max_examples=120, deadline=None)
@given(dtypes, chunks)
def test_full_forms_are_exact(dtype, raw):
    """Whatever the elements, the form that is chosen gives them back."""
    check(codec.encode_full(raw, dtype), [], raw)


@settings(max_examples=120, deadline=None)
@given(dtypes, chunks)
def test_each_full_form_is_exact_by_itself(dtype, raw):
    """A form that is not chosen is exact too: where it takes a chunk, it gives it back."""
    layout = LAYOUTS.get(dtype)
    if raw:
        assert packed.decode(packed.encode(raw, layout), len(raw)) == raw
    if layout is not None:
        for form in (planes, narrow):
            body = form.encode(raw, layout)
            assert body is None or form.decode(body, layout, len(raw)) == raw


@settings(max_examples=80, deadline=None)
@given(dtypes, chunks, st.sampled_from(("same", "few", "near", "other")), seeds)
def test_deltas_are_exact(dtype, raw, kind, seed):
    """Whatever the base, the delta that is chosen, and each that is not, gives the chunk back."""
    rng = np.random.default_rng(seed)
    base = np.frombuffer(raw, np.uint8).copy()
    if kind == "few":
        base[rng.random(base.size) < 0.01] ^= 1
    elif kind == "near":
        base += rng.integers(0, 2, base.size, np.uint8)
    elif kind == "other":
        base = np.frombuffer(rng.bytes(len(raw)), np.uint8)
    base = base.tobytes()
    check(codec.encode_delta(raw, base, dtype), [base], raw)
    layout = LAYOUTS.get(dtype)
    for form in (sparse, difference, tight) if layout is not None else ():
        body = form.encode(raw, base, layout)
        assert body is None or form.decode(body, base, layout) == raw


scales = st.lists(st.one_of(st.integers(0x3A000000, 0x3D000000), st.integers(0, (1 << 32) - 1)), min_size=1, max_size=8)
halves = st.builds(content, st.just("BF16"), lengths, st.sampled_from(KINDS), seeds)
places = st.tuples(st.one_of(st.just(1), st.integers(1, 4000)), st.integers(0, 1 << 40))


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(("BF16", "F16")), halves, scales, places, seeds)
def test_residuals_are_exact(dtype, raw, scales, place, seed):
    """Whatever the codes and scales, the chunk comes back where there is a residual."""
    codes = np.random.default_rng(seed).bytes(len(raw) // 2)
    table = np.array(scales, np.uint32).tobytes()
    check(codec.encode_residual(raw, codes, table, *place, dtype), [codes, table], raw)


def samples():
    """An encoded chunk of each form with its bases and the length of its chunk."""
    found = []
    for dtype, kind in (("BF16", "weights"), ("F16", "weights"), ("F32", "weights"), ("F32", "wide"), ("F32", "sparse"),
                        ("I8", "sparse"), ("F8_E4M3", "weights"), ("I64", "steps")):  # fmt: skip
        raw = content(dtype, 4096, kind, 7)
        found.append((codec.encode_full(raw, dtype), [], len(raw)))
    rng = np.random.default_rng(9)
    for dtype in ("BF16", "F32", "I8"):
        layout = LAYOUTS[dtype]
        base = np.frombuffer(content(dtype, 65_536, "weights", 8), UNSIGNED[layout.element_bytes])
        # Small weights move by more of their own steps than large ones.
        moves = rng.normal(0, 2, base.size) * 2.0 ** (rng.integers(0, 4, base.size) if dtype == "I8" else 0)
        moves *= 2.0 ** (121.0 - (base >> base.dtype.type(layout.mantissa_bits) & base.dtype.type(0xFF))).clip(-5, 5)
        raw = (base + np.round(moves).astype(np.int64).astype(base.dtype)).tobytes()
        for number, form in ((Form.SPARSE, sparse), (Form.DIFFERENCE, difference), (Form.TIGHT, tight)):
            body = form.encode(raw, base.tobytes(), layout)
            if body is not None and len(body) + 2 < len(raw):
                found.append((bytes((number, layout.code)) + body, [base.tobytes()], len(raw)))
        few = base.copy()
        few[::31] += 1
        encoded = codec.encode_delta(few.tobytes(), base.tobytes(), dtype)
        found.append((encoded, [base.tobytes()], len(raw)))
    codes = rng.integers(-127, 128, 2048).astype(np.int8)
    for dtype in ("BF16", "F16"):
        values = codes * np.float32(0.001)
        raw = values.astype(np.float16).tobytes() if dtype == "F16" else values.view(np.uint16)[1::2].tobytes()
        scales = np.full(16, 0.001, np.float32).tobytes()
        encoded = codec.encode_residual(raw, codes.tobytes(), scales, 128, 0, dtype)
        found.append((encoded, [codes.tobytes(), scales], len(raw)))
    return found


SAMPLES = samples()


def test_the_samples_have_every_form():
    """What is broken below are encoded chunks of all seven forms."""
    assert {Form(encoded[0]) for encoded, _, _ in SAMPLES} == set(Form)


def survive(encoded, bases, length):
    """Decode: either as many bytes as are due, or the one refusal."""
    try:
        found = codec.decode(encoded, bases, length)
    except MalformedError:
        return
    assert isinstance(found, bytearray)
    assert len(found) == length


edits = st.lists(
    st.tuples(
        st.sampled_from(("set", "flip", "cut", "insert", "drop", "double")),
        st.integers(0, 1 << 20),
        st.binary(min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=4,
)


def edited(data, changes):
    """``data`` after what a broken or hostile writer may have done to it."""
    data = bytearray(data)
    for kind, place, new in changes:
        # Heads are where the lies are: half of all edits go there.
        at = place // 2 % (min(len(data), 48) if place % 2 else len(data)) if data else 0
        if kind == "set":
            data[at : at + len(new)] = new
        elif kind == "flip" and data:
            data[at] ^= 1 << new[0] % 8
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = new
        elif kind == "drop":
            del data[at : at + len(new)]
        else:
            data += data[at:]
    return bytes(data)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SAMPLES), edits)
def test_edited_chunks_are_refused_or_give_other_bytes(sample, changes):
    """No edit of an encoded chunk raises anything but the refusal, or gives another length."""
    encoded, bases, length = sample
    survive(edited(encoded, changes), bases, length)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SAMPLES), edits, st.integers(0, 3), st.integers(-3, CHUNK_BYTES + 3))
def test_wrong_bases_and_lengths_are_refused_or_give_other_bytes(sample, changes, which, length):
    """The same holds for bases that are others, that are too many or too few, and for lengths that are not due."""
    encoded, bases, due = sample
    broken = [edited(base, changes) if number == which else base for number, base in enumerate(bases)]
    survive(encoded, broken, due)
    survive(encoded, bases[:which], due)
    survive(encoded, [*bases, b""], due)
    survive(encoded, bases, length)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(Form)), st.integers(0, 9), st.binary(max_size=200), st.sampled_from(SAMPLES))
def test_bodies_of_anything_are_refused_or_give_other_bytes(form, code, body, sample):
    """Bytes that nobody encoded, behind a head that is sound."""
    _, bases, length = sample
    survive(bytes((form, code)) + body, bases, length)


@pytest.mark.parametrize("cut", range(0, 100, 7))
def test_truncated_chunks_are_refused(cut):
    """What ends early gives nothing, wherever it ends."""
    for encoded, bases, length in SAMPLES:
        with pytest.raises(MalformedError):
            codec.decode(encoded[: len(encoded) * cut // 100], bases, length)


def test_bytes_behind_the_end_are_refused():
    """Every byte of a body is accounted for, in every form."""
    for encoded, bases, length in SAMPLES:
        for more in (b"\0", encoded, bytes.fromhex("502a4d1800000000")):
            if len(encoded) + len(more) < length:
                with pytest.raises(MalformedError):
                    codec.decode(encoded + more, bases, length)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None)
@given(st.sampled_from(SAMPLES), edits)
def test_many_edited_chunks(sample, changes):
    """The same as above, for longer."""
    encoded, bases, length = sample
    survive(edited(encoded, changes), bases, length)


def test_the_largest_chunk_of_each_form():
    """A whole mebibyte, in every form that takes it."""
    for dtype in LAYOUTS:
        raw = content(dtype, CHUNK_BYTES, "weights", 11)
        check(full.encode_full(raw, dtype), [], raw)
        base = np.frombuffer(raw, np.uint8).copy()
        base[::61] ^= 1
        check(codec.encode_delta(raw, base.tobytes(), dtype), [base.tobytes()], raw)
