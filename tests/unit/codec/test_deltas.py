import contextlib
import json
import tracemalloc
from pathlib import Path

import blake3
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2psync.codec import Form, decode, difference, encode_delta, pco, sparse, tight
from p2psync.codec.layout import LAYOUTS
from p2psync.errors import MalformedError

FORMS = {Form.SPARSE: sparse, Form.DIFFERENCE: difference, Form.TIGHT: tight}
VECTORS = Path(__file__).parents[2] / "vectors" / "forms" / "deltas.json"
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32}
KINDS = ("equal", "few", "a step", "some blocks", "anything", "signs")


def pair(dtype, count, kind, seed):
    """A chunk and its base of ``count`` elements; all but "anything" are weights as a layer has them."""
    layout = LAYOUTS[dtype]
    rng = np.random.default_rng(seed)
    bits = 8 * layout.element_bytes
    unsigned = UNSIGNED[layout.element_bytes]
    weights = rng.normal(0, 0.03, count).astype(np.float32)
    if kind == "anything":
        return tuple(rng.integers(0, 1 << bits, count, np.uint64).astype(unsigned).tobytes() for _ in range(2))
    base = {
        "F16": weights.astype(np.float16).view(np.uint16),
        "I8": np.round(weights * 1000).astype(np.int8).view(np.uint8),
        "U8": np.round(weights * 1000).astype(np.int8).view(np.uint8),
    }.get(dtype, (weights.view(np.uint32) >> np.uint32(32 - bits)).astype(unsigned))
    if kind == "signs":
        return base.tobytes(), (base ^ unsigned(1 << bits - 1)).tobytes()
    exponent = (base >> unsigned(layout.mantissa_bits)) & unsigned((1 << layout.exponent_bits) - 1)
    step = rng.normal(0, 1, count) * 2.0 ** (np.median(exponent) - exponent.astype(float)).clip(-9, 9)
    if kind == "few":
        step *= rng.random(count) < 0.02
    elif kind == "some blocks":
        step *= np.repeat(rng.random(-(-count // 128)) < 0.3, 128)[:count] * 3
    elif kind == "equal":
        step *= 0
    return (base + np.round(step).astype(np.int64).astype(unsigned)).tobytes(), base.tobytes()


def decoded(encoded, base):
    """The chunk of an encoded chunk, through the form that its first byte names."""
    return decode(encoded, [base], len(base))


def bodies(dtype, count, kind, seed=1):
    """Every body that a form makes of one pair: form, body, base and chunk."""
    raw, base = pair(dtype, count, kind, seed)
    made = [(form, form.encode(raw, base, LAYOUTS[dtype]), base, raw) for form in FORMS.values()]
    return [case for case in made if case[1] is not None]


cases = st.tuples(
    st.sampled_from(sorted(LAYOUTS)),
    st.one_of(st.integers(1, 300), st.sampled_from((512, 1024, 4096, 8192, 12_289))),
    st.sampled_from(KINDS),
    st.integers(0, 1 << 32),
)


@settings(max_examples=60, deadline=None)
@given(cases)
def test_every_form_gives_back_every_bit(case):
    """Whatever changed, in every dtype and size, each form that takes the pair restores the chunk."""
    dtype, count, kind, seed = case
    raw, base = pair(dtype, count, kind, seed)
    for form, body, _, _ in bodies(dtype, count, kind, seed):
        assert form.decode(body, base, LAYOUTS[dtype]) == raw
    encoded = encode_delta(raw, base, dtype)
    if encoded is not None:
        assert len(encoded) < len(raw)
        assert encoded[1] == LAYOUTS[dtype].code
        assert decoded(encoded, base) == raw


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(LAYOUTS)), st.binary(min_size=1, max_size=256), st.data())
def test_any_bytes_are_exact_or_have_no_delta(dtype, raw, data):
    """Zeros of both signs, infinities, NaNs and lengths that are no whole elements are nothing special."""
    base = data.draw(st.binary(min_size=len(raw), max_size=len(raw)))
    for form in FORMS.values():
        body = form.encode(raw, base, LAYOUTS[dtype])
        assert (body is None) >= bool(len(raw) % LAYOUTS[dtype].element_bytes)
        assert body is None or form.decode(body, base, LAYOUTS[dtype]) == raw


@pytest.mark.parametrize("dtype", sorted(LAYOUTS))
@pytest.mark.parametrize("kind", KINDS)
def test_whole_chunks_are_exact(dtype, kind):
    """So are chunks of 1 MiB, whose orders are made in several spans and whose context is chosen by a sample."""
    raw, base = pair(dtype, (1 << 20) // LAYOUTS[dtype].element_bytes, kind, 5)
    encoded = encode_delta(raw, base, dtype)
    assert encoded is None or decoded(encoded, base) == raw
    assert (encoded is None) <= (kind in {"anything", "signs"})


def test_each_form_is_taken_where_it_is_best():
    """Steps of one size on floats are sorted, few changes are listed, and integers that all moved are plain."""
    taken = {
        (dtype, kind): encode_delta(*pair(dtype, 1 << 16, kind, 3), dtype)[0]
        for dtype, kind in (("BF16", "a step"), ("BF16", "equal"), ("I8", "few"), ("I8", "a step"))
    }
    assert list(taken.values()) == [Form.TIGHT, Form.SPARSE, Form.SPARSE, Form.DIFFERENCE]


def test_sorting_by_context_pays():
    """Where one step moves all weights, a sorted delta is much smaller than the plain difference."""
    raw, base = pair("BF16", 1 << 18, "a step", 4)
    layout = LAYOUTS["BF16"]
    assert len(tight.encode(raw, base, layout)) < 0.85 * len(difference.encode(raw, base, layout))


def test_an_equal_chunk_takes_a_few_bytes():
    """Equality is a delta as any other; only what is shorter than that has none."""
    raw, _ = pair("BF16", 4096, "a step", 6)
    encoded = encode_delta(raw, raw, "BF16")
    assert len(encoded) < 8
    assert decoded(encoded, raw) == raw
    assert encode_delta(b"ab", b"ab", "BF16") is None
    assert encode_delta(b"", b"", "BF16") is None


def test_what_has_no_common_shape_has_no_delta():
    """Lengths that differ, parts of elements and unknown dtypes are for the full forms."""
    assert encode_delta(bytes(64), bytes(66), "BF16") is None
    assert encode_delta(bytes(65), bytes(65), "BF16") is None
    assert encode_delta(bytes(64), bytes(64), "F64") is None
    assert encode_delta(bytes((1 << 20) + 2), bytes((1 << 20) + 2), "BF16") is None


@pytest.mark.parametrize("form", FORMS.values())
def test_another_base_is_refused_or_gives_another_chunk(form):
    """A base of a wrong length is refused where that shows, and never answered with a chunk of another length."""
    raw, base = pair("BF16", 4096, "few", 7)
    layout = LAYOUTS["BF16"]
    body = tight.encode(*pair("BF16", 4096, "a step", 7), layout) if form is tight else form.encode(raw, base, layout)
    for wrong in (b"", base[:-1], base[:2], base[: len(base) // 2]):
        try:
            assert len(form.decode(body, wrong, layout)) == len(wrong)
        except MalformedError:
            continue
        assert form is not difference
    with pytest.raises(MalformedError):
        form.decode(body, base[:-1], layout)


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [("BF16", "a step"), ("BF16", "some blocks"), ("F32", "a step"), ("I8", "some blocks"), ("U8", "few")],
)
def test_mutated_bodies_are_refused_or_give_other_bytes(dtype, kind):
    """Flipped, cut and lengthened bodies raise MalformedError or give a chunk of the right length, nothing else."""
    rng = np.random.default_rng(8)
    layout = LAYOUTS[dtype]
    for form, body, base, raw in bodies(dtype, 8192, kind):
        for _ in range(60):
            mutated = bytearray(body)
            for at in rng.integers(0, min(len(body), int(rng.choice([4, 40, 1 << 20]))), int(rng.integers(1, 4))):
                mutated[at] ^= int(rng.integers(1, 256))
            if rng.random() < 0.3:
                del mutated[int(rng.integers(0, len(body))) :]
            with contextlib.suppress(MalformedError):
                assert len(form.decode(mutated, base, layout)) == len(raw)


@pytest.mark.parametrize("kind", ["a step", "some blocks", "few"])
@pytest.mark.parametrize("dtype", ["BF16", "I8"])
def test_every_byte_counts(dtype, kind):
    """A body with a byte too much, or one too few, is refused."""
    for form, body, base, _ in bodies(dtype, 8192, kind):
        for wrong in (body + b"\0", body + body, body[:-1], body[: len(body) // 2], b""):
            with pytest.raises(MalformedError):
                form.decode(wrong, base, LAYOUTS[dtype])


def refused(form, body, base):
    """The most memory in bytes that was held while ``body`` was refused."""
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError):
            form.decode(body, base, LAYOUTS["BF16"])
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_counts_that_lie_are_refused_before_memory_is_taken():
    """A list longer than its base, and blocks and classes that cannot be, cost what the base does and no more."""
    base = bytes(4096)
    assert refused(sparse, (1 << 32 - 1).to_bytes(4, "little") + bytes(64), base) < 64_000
    assert refused(sparse, (2049).to_bytes(4, "little") + bytes(64), base) < 64_000
    for head in (b"\xff\x01", b"\x07\x00", b"\x00\x00", b"\x00\xff", b"\x0c\x01"):
        assert refused(tight, head + bytes(64), base) < 64_000


def test_gaps_that_leave_the_base_are_refused():
    """However large the gaps, their sum is compared with the base before anything is written."""
    values = pco.pack(np.ones(3, np.int16))
    for gaps in ([0, 0, 2046], [0xFFFFFFFF] * 3, [2048, 0, 0]):
        packed = pco.pack(np.array(gaps, np.uint32))
        body = (3).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed + values
        assert refused(sparse, body, bytes(4096)) < 64_000


def test_a_stream_of_another_length_is_refused():
    """What a packed vector says of itself must be what is due, and its memory is the caller's."""
    packed = pco.pack(np.arange(1000, dtype=np.int16))
    out = np.empty(1000, np.int16)
    pco.unpack(packed, out)
    assert (out == np.arange(1000)).all()
    for count in (1, 999, 1001, 5000):
        with pytest.raises(MalformedError):
            pco.unpack(packed, np.empty(count, np.int16))


def test_classes_out_of_order_are_refused():
    """Bounds ascend, so that each key has one class."""
    raw, base = pair("BF16", 8192, "a step", 9)
    body = bytearray(tight.encode(raw, base, LAYOUTS["BF16"]))
    assert body[0] == 0
    body[2], body[3] = body[3], body[2]
    with pytest.raises(MalformedError, match="order"):
        tight.decode(body, base, LAYOUTS["BF16"])


def tight_body(*streams, bounds=b"", block=0):
    """A tight delta without activity, of these classes, which may be empty."""
    lengths = b"".join(len(stream).to_bytes(3, "little") for stream in streams)
    return bytes((block, len(streams))) + bounds + lengths + b"".join(streams)


STILL = pco.pack(np.zeros(2048, np.int16))
TIGHT = {
    "blocks of more than a chunk": (b"\x11\x01" + bytes(64), "2048 elements in blocks of 2\\^17"),
    "blocks that do not divide the base": (b"\x0c\x01" + bytes(64), "2048 elements in blocks of 2\\^12"),
    "no classes": (b"\x00\x00" + bytes(64), "of 0 classes ends before its streams"),
    "more classes than there are bytes": (b"\x00\xff" + bytes(64), "of 255 classes ends before its streams"),
    "a stream past the end": (tight_body(STILL)[:-1], "and tells of"),
    "a stream that nothing is due from": (tight_body(STILL, b"?", bounds=b"\xff"), "a class without elements"),
}  # fmt: skip


@pytest.mark.parametrize("case", TIGHT)
def test_a_tight_delta_is_refused_by_its_own_rule(case):
    """Counts and lengths are held against the base before a stream is read, and each says what is wrong with it."""
    base = bytes(4096)
    assert tight.decode(tight_body(STILL, b"", bounds=b"\xff"), base, LAYOUTS["BF16"]) == base
    body, message = TIGHT[case]
    with pytest.raises(MalformedError, match=message):
        tight.decode(body, base, LAYOUTS["BF16"])


def test_a_delta_of_nothing_is_refused_as_such():
    """There is no empty chunk, so nothing is a difference to it; and a list of no changes ends with its count."""
    with pytest.raises(MalformedError, match="empty base"):
        difference.decode(pco.pack(np.zeros(1, np.int16)), b"", LAYOUTS["BF16"])
    assert sparse.decode(bytes(4), bytes(64), LAYOUTS["BF16"]) == bytes(64)
    with pytest.raises(MalformedError, match="without elements goes on"):
        sparse.decode(bytes(5), bytes(64), LAYOUTS["BF16"])


def test_the_same_pair_makes_the_same_bytes():
    """Encoding draws no number and looks at nothing but its arguments, whatever kind of buffer they are."""
    for dtype in LAYOUTS:
        raw, base = pair(dtype, 5000, "some blocks", 10)
        assert encode_delta(raw, base, dtype) == encode_delta(memoryview(raw), bytearray(base), dtype)


@pytest.mark.parametrize("vector", json.loads(VECTORS.read_text()), ids=lambda vector: vector["name"])
def test_frozen_deltas_are_read_for_ever(vector):
    """Reading is frozen: encoded chunk and base give the chunk, whatever an encoder writes today."""
    base = blake3.blake3(vector["base"]["blake3"].encode()).digest(length=vector["base"]["length"])
    encoded = bytes.fromhex(vector["encoded"])
    assert encoded[0] == Form[vector["form"]]
    assert encoded[1] == LAYOUTS[vector["dtype"]].code
    assert "b3:" + blake3.blake3(decoded(encoded, base)).hexdigest() == vector["digest"]
