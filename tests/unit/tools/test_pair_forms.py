"""A pair of models is compared in types that hold what they say: nearest values, one scale per row, kept if frozen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import pair_forms

FLOATS = st.floats(-(2.0**99), 2.0**99, width=32)
MATRICES = arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=3, max_side=6), elements=FLOATS)


@pytest.mark.parametrize(
    ("bits", "rounded"),
    [
        (0x3F808000, 0x3F80),  # halfway, and the lower neighbour is even
        (0x3F818000, 0x3F82),  # halfway, and the upper one is
        (0x3F808001, 0x3F81),
        (0x80000000, 0x8000),
        (0x7F7FFFFF, 0x7F80),  # the largest float is nearer to infinity than to the largest BF16
    ],
)
def test_bf16_is_the_nearest_and_a_tie_goes_to_the_even_one(bits, rounded):
    """Seen in bit patterns, which is what a delta is made of."""
    made = pair_forms.bf16({"w": np.array([bits], np.uint32).view(np.float32)})["w"]
    assert (made.dtype, made.data.view("<u2").tolist()) == ("BF16", [rounded])


@settings(max_examples=30)
@given(MATRICES)
def test_a_code_times_its_scale_is_within_half_a_step(tensor):
    """And the largest magnitude of each row has the largest code."""
    made = pair_forms.int8({"w": tensor})
    scales = made["w.scale"].data.view(np.float32)
    codes = made["w"].data.view(np.int8).reshape(tensor.shape[0], -1).astype(np.float64)
    rows = tensor.reshape(tensor.shape[0], -1).astype(np.float64)
    steps = scales.astype(np.float64)[:, None]
    assert np.all(np.abs(codes * steps - rows) <= 0.5001 * steps)
    assert np.all((np.abs(codes).max(axis=1) == 127) | (scales == 1))


def test_a_frozen_scale_stays_and_a_weight_that_outgrew_it_is_clipped():
    """Otherwise every code of the row would change, or wrap around."""
    base = {"w": np.array([[1.0, -0.5], [0.0, 0.0]], np.float32)}
    grown = {"w": np.array([[1.5, -0.5], [0.0, 0.25]], np.float32)}
    for form, level_max in ((pair_forms.int8, 127), (pair_forms.fp8, 448)):
        first = form(base)
        second = form(grown, pair_forms.scales_of(first))
        assert second["w.scale"].data.tolist() == first["w.scale"].data.tolist()
        assert np.allclose(first["w.scale"].data.view(np.float32), [1 / level_max, 1])
        assert second["w"].data[0] == first["w"].data[0]


def test_fp8_never_becomes_nan():
    """0x7f and 0xff are the only patterns of E4M3 that are not a number, and the next after the largest number."""
    scales = {"w": np.array([1e-9], np.float32)}
    made = pair_forms.fp8({"w": np.array([[3.0, -3.0, 0.0]], np.float32)}, scales)
    assert made["w"].data.tolist() == [0x7E, 0xFE, 0x00]


def test_vectors_have_no_scale():
    """They are small, and a norm's weights are no place to save."""
    for form in (pair_forms.int8, pair_forms.fp8):
        made = form({"bias": np.ones(3, np.float32)})
        assert {name: tensor.dtype for name, tensor in made.items()} == {"bias": "BF16"}
