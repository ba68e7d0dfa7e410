"""Distances between answers: of values at places, and of means in which rounding cancels out and damage does not."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from p2psync.engine.answers import Answer, Expected, means_of, read_expected, summary
from p2psync.engine.strict_json import Fields
from p2psync.limits import PROBE_VALUES_MAX

SHAPE = (8, 4, 5, 8, 12)


def velocities(seed=0):
    return np.random.RandomState(seed).standard_normal(SHAPE).astype(np.float32)


def kept(values, means=None):
    return read_expected(Fields(summary(values, means), "answer"))


@given(arrays(np.float32, array_shapes(max_dims=4, max_side=9), elements=st.floats(-1e6, 1e6, width=32)))
def test_an_answer_is_no_distance_from_itself(values):
    """But for the digits that are written."""
    expected = kept(values)
    assert len(expected.positions) <= PROBE_VALUES_MAX
    scale = max(expected.deviation, 1e-6)
    # The root of a mean of squares may be above the largest of them by the rounding of float64.
    assert expected.root_mean_square(values) <= expected.largest(values) * (1 + 1e-12)
    assert expected.largest(values) <= 1e-6 * np.abs(values).max() / scale


def test_distances_are_in_units_of_the_spread():
    """Ten times the values, ten times the difference: the same distance."""
    values = velocities()
    for scale in (1, 10):
        expected = kept(values * np.float32(scale))
        assert expected.root_mean_square((values + np.float32(0.1)) * np.float32(scale)) == pytest.approx(0.1, rel=0.02)
        assert expected.largest((values + np.float32(0.1)) * np.float32(scale)) == pytest.approx(0.1, rel=0.02)


def test_rounding_cancels_out_in_the_means_and_damage_does_not():
    """Noise that is larger than a shift at every place is many times smaller than it in the means."""
    values = velocities()
    expected = kept(values, means_of(values, 2))
    rounding = np.float32(0.01) * velocities(seed=1)
    shift = np.zeros_like(values)
    shift[:, 1] = 0.008
    assert expected.root_mean_square(values + rounding) > 2 * expected.root_mean_square(values + shift)
    off_by_rounding, off_by_shift = (expected.off_the_means(means_of(values + d, 2)) for d in (rounding, shift))
    assert off_by_shift > 5 * off_by_rounding


def test_means_are_by_channel_and_place_in_a_patch():
    """Each is the mean over clips, frames and patches; where patches do not fit, over all places."""
    values = velocities()
    means = means_of(values, 2)
    assert means.shape == (4 * 2 * 2,)
    assert means[0] == pytest.approx(values[:, 0, :, ::2, ::2].mean(), abs=1e-6)
    assert means[-1] == pytest.approx(values[:, 3, :, 1::2, 1::2].mean(), abs=1e-6)
    assert means_of(values, 5) == pytest.approx(values.mean((0, 2, 3, 4)), abs=1e-6)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_is_infinitely_far(wrong):
    """Wherever it is, also where nothing was recorded."""
    values = velocities()
    expected = kept(values, means_of(values, 2))
    values[3, 1, 2, 5, 7] = wrong
    assert expected.largest(values) == expected.root_mean_square(values) == math.inf
    assert expected.off_the_means(means_of(values, 2)) == math.inf
    assert not Answer("high", float("nan"), 1.0).passed


def test_other_shapes_are_infinitely_far():
    """Also where the number of values is the same; and what never came."""
    values = velocities()
    expected = kept(values, means_of(values, 2))
    assert expected.root_mean_square(values.reshape(4, 8, 5, 8, 12)) == math.inf
    assert expected.root_mean_square(None) == expected.largest(None) == math.inf
    assert expected.off_the_means(means_of(values, 1)) == math.inf


def test_a_constant_is_compared_as_it_is():
    """An answer without any spread is not divided by nothing."""
    expected = Expected((2,), (0, 1), (1.0, 1.0), 0.0)
    assert expected.root_mean_square(np.array([1, 1], np.float32)) == 0
    assert expected.root_mean_square(np.array([1, 1.5], np.float32)) > 1e4
