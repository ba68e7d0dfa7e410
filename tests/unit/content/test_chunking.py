from __future__ import annotations

import hashlib

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from p2psync.content import ContentCutter, grid_lengths
from p2psync.limits import CDC_AVG_BYTES, CDC_MAX_BYTES, CDC_MIN_BYTES, CHUNK_BYTES

GEAR = [int.from_bytes(hashlib.md5(bytes([value]) * 64).digest()[:8], "big") for value in range(256)]
MASK_BEFORE_AVERAGE = 0x0000D91707537000
MASK_AFTER_AVERAGE = 0x0000D90703537000


def generated(label, length):
    return blake3(label.encode()).digest(length)


def cut_by_the_document(data):
    """The cutting rule as docs/format.md gives it, byte by byte: the lengths of the chunks."""
    lengths = []
    start = 0
    while start < len(data):
        left = min(len(data) - start, CDC_MAX_BYTES)
        length = left
        fingerprint = 0
        for i in range(CDC_MIN_BYTES, left // 2 * 2):
            fingerprint = ((fingerprint << 1) + GEAR[data[start + i]]) % (1 << 64)
            mask = MASK_BEFORE_AVERAGE if i < min(left, CDC_AVG_BYTES) // 2 * 2 else MASK_AFTER_AVERAGE
            if fingerprint & mask == 0:
                length = i
                break
        lengths.append(length)
        start += length
    return lengths


def cut(data, steps=()):
    """Feed ``data`` in pieces of the given sizes (then the rest) and return the chunks as bytes."""
    cutter = ContentCutter()
    chunks = []
    at = 0
    for step in (*steps, len(data)):
        chunks += [bytes(chunk) for chunk in cutter.feed(data[at : at + step])]
        at += step
    return chunks + [bytes(chunk) for chunk in cutter.finish()]


DATA = generated("p2psync chunking test", 5 * CDC_MAX_BYTES + 12_345)
WHOLE = cut(DATA)


def test_the_grid_cuts_every_mebibyte():
    """A blob on the grid has full chunks and one short last chunk, and none when it is empty."""
    assert list(grid_lengths(0)) == []
    assert list(grid_lengths(1)) == [1]
    assert list(grid_lengths(CHUNK_BYTES)) == [CHUNK_BYTES]
    assert list(grid_lengths(2 * CHUNK_BYTES + 1)) == [CHUNK_BYTES, CHUNK_BYTES, 1]


@given(st.integers(0, 1 << 34))
def test_the_grid_covers_any_length(length):
    """Lengths on the grid add up, and all but the last are full."""
    lengths = list(grid_lengths(length))
    assert sum(lengths) == length
    assert all(piece == CHUNK_BYTES for piece in lengths[:-1])


def test_content_cuts_follow_the_document():
    """The library cuts where the rule of docs/format.md says, computed here without it."""
    data = DATA[: 2 * CDC_MAX_BYTES + 54_321]
    assert [len(chunk) for chunk in cut(data)] == cut_by_the_document(data)


@pytest.mark.parametrize(
    "length",
    [0, 1, CDC_MIN_BYTES - 1, CDC_MIN_BYTES, CDC_MIN_BYTES + 1, CDC_MIN_BYTES + 2, CDC_AVG_BYTES - 1, CDC_AVG_BYTES],
)
def test_short_streams_follow_the_document(length):
    """The rule holds at its edges too, odd lengths among them."""
    data = generated(f"short stream {length}", length)
    assert [len(chunk) for chunk in cut(data)] == cut_by_the_document(data)


def test_bytes_without_content_are_cut_at_the_maximum():
    """Zeros never make a cut, so every chunk but the last is as long as one may be."""
    assert [len(chunk) for chunk in cut(bytes(2 * CDC_MAX_BYTES + 7))] == [CDC_MAX_BYTES, CDC_MAX_BYTES, 7]


def test_chunks_keep_their_bounds():
    """No chunk is empty or over the maximum, and only the last may be under the minimum."""
    assert b"".join(WHOLE) == DATA
    assert all(CDC_MIN_BYTES <= len(chunk) <= CDC_MAX_BYTES for chunk in WHOLE[:-1])
    assert 0 < len(WHOLE[-1]) <= CDC_MAX_BYTES


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 2 * CDC_MAX_BYTES), max_size=8))
def test_cuts_do_not_depend_on_the_sizes_fed(steps):
    """Any way to feed a stream gives the same chunks."""
    assert cut(DATA, steps) == WHOLE


@pytest.mark.parametrize("step", [997, 65_536, CDC_MAX_BYTES - 1, CDC_MAX_BYTES, CDC_MAX_BYTES + 1])
def test_cuts_do_not_depend_on_a_regular_step(step):
    """Feeding in steps just below, at and above the maximum gives the same chunks."""
    data = DATA[: 3 * CDC_MAX_BYTES]
    assert cut(data, [step] * (len(data) // step)) == cut(data)


@pytest.mark.parametrize("place", [0, 100_000, 1_000_001, 2_222_222, 3_333_333, len(DATA)])
def test_an_insertion_moves_few_chunks(place):
    """Bytes inserted anywhere leave all but a few chunks as they were."""
    changed = DATA[:place] + b"seven b" + DATA[place:]
    assert len(set(cut(changed)) - set(WHOLE)) <= 4


def test_little_is_held_and_much_is_not_copied():
    """Chunks are views of what was fed, and less than one maximum chunk is kept."""
    cutter = ContentCutter()
    chunks = cutter.feed(DATA)
    assert all(chunk.obj is DATA for chunk in chunks)
    assert len(DATA) - sum(map(len, chunks)) < CDC_MAX_BYTES
    cutter.finish()


def test_a_finished_cutter_is_as_new():
    """After finish() the same object cuts the next stream."""
    cutter = ContentCutter()
    first = [bytes(chunk) for chunk in (*cutter.feed(bytearray(DATA)), *cutter.finish())]
    second = [bytes(chunk) for chunk in (*cutter.feed(memoryview(DATA)), *cutter.finish())]
    assert first == second == WHOLE
    assert cutter.finish() == []
