"""Which changes mean nothing is measured exactly, whatever the dtype, and no bit changes that should not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2psync.codec.snap import DTYPES, Change, measure, snapped

WORD = {"BF16": np.uint16, "F16": np.uint16, "F32": np.uint32}


def bits(dtype, *values):
    """The little-endian bytes of some FP32 values in a dtype."""
    wide = np.array(values, np.float32)
    if dtype == "BF16":
        return (wide.view(np.uint32) >> 16).astype("<u2").tobytes()
    return wide.astype({"F16": "<f2", "F32": "<f4"}[dtype]).tobytes()


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_a_change_is_its_squares_and_its_largest(dtype):
    """Sums of squares in the dtype's own units; a changed bit pattern counts, a changed sign of zero too."""
    found = measure(bits(dtype, 1.0, 2.5, 0.0, -4.0), bits(dtype, 1.0, 2.0, -0.0, -2.0), dtype)
    assert found == Change(4, 3, 4.25, 9.0, 2.0)
    assert found.relative == pytest.approx(4.25 / 9)


def test_changes_of_chunks_add_up():
    """The sum of two is that of both together."""
    one, two = Change(2, 1, 3.0, 4.0, 1.0), Change(5, 0, 0.5, 1.0, 0.25)
    assert one + two == Change(7, 1, 3.5, 5.0, 1.0)
    assert Change().relative == 0.0
    assert Change(1, 1, 1.0, 0.0, 1.0).relative == float("inf")


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_never_measured(dtype, odd):
    """In the new elements or in the base."""
    good, bad = bits(dtype, 1.0, 2.0), bits(dtype, 1.0, odd)
    assert measure(bad, good, dtype) is None
    assert measure(good, bad, dtype) is None


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_steps_are_counted_over_powers_of_two_and_zero(dtype):
    """The number below 2 is one step from it, the two smallest of either sign are two from each other."""
    word = WORD[dtype]
    top = 8 * np.dtype(word).itemsize - 1
    two = np.frombuffer(bits(dtype, 2.0), word)[0]
    base = np.array([two, 1, 0, two], word)
    new = np.array([two - 1, (1 << top) | 1, 1 << top, two + 3], word)
    for steps, kept in ((1, 2), (2, 3), (3, 4)):
        data, count = snapped(new.tobytes(), base.tobytes(), dtype, steps)
        assert count == kept
        found = np.frombuffer(data, word)
        assert found[0] == base[0]
        assert (found[3] == base[3]) == (steps == 3)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(DTYPES)),
    st.binary(min_size=4, max_size=400),
    st.binary(min_size=4, max_size=400),
    st.integers(1, 9),
)
def test_every_element_is_the_new_one_or_the_bases(dtype, raw, base, steps):
    """Bit for bit; and those that keep the base's are the ones that are near."""
    size = min(len(raw), len(base)) // 4 * 4
    raw, base = raw[:size], base[:size]
    data, count = snapped(raw, base, dtype, steps)
    new, old, out = (np.frombuffer(one, WORD[dtype]) for one in (raw, base, data))
    assert np.all((out == new) | (out == old))
    assert count == int((out != new).sum())
    assert snapped(raw, base, dtype, 1 << 40)[0] == base
