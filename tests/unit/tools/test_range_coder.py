"""The range coder that ours is held against is exact, and as small as its kind can be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import range_coder

pytest.importorskip("constriction", reason="a peer of the benchmarks, not of the tests")
WIDTHS = {"BF16": 2, "F16": 2, "F8_E4M3": 1}


@pytest.mark.parametrize("dtype", WIDTHS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1 << 32), elements=st.sampled_from([1, 2, 700, (1 << 17) + 5]), spread=st.integers(0, 400))
def test_every_bit_pattern_comes_back(dtype, seed, elements, spread):
    """Near ones and far ones, one class and many."""
    random = np.random.default_rng(seed)
    unsigned = np.dtype(f"<u{WIDTHS[dtype]}")
    base = random.integers(0, 1 << 8 * unsigned.itemsize, elements).astype(unsigned)
    step = random.integers(-spread, spread + 1, elements)
    step[random.random(elements) < 0.001] = 1 << 14
    new = (base + step).astype(unsigned)
    encoded = range_coder.encode(new.tobytes(), base.tobytes(), dtype)
    assert range_coder.decode(encoded, base.tobytes(), dtype) == new.tobytes()


def test_it_reaches_the_entropy_of_its_classes():
    """Within one per cent and the tables: nobody wins against it because it was made badly."""
    random = np.random.default_rng(7)
    base = random.integers(0x3F00, 0x4100, 1 << 19).astype("<u2")
    classes = base >> 7
    step = np.rint(random.normal(scale=0.3 * (classes - 0x3F00 // 128 + 1))).astype(np.int32)
    encoded = range_coder.encode((base + step).astype("<u2").tobytes(), base.tobytes(), "BF16")
    entropy_bits = 0.0
    for number in np.unique(classes):
        counts = np.unique(step[classes == number], return_counts=True)[1]
        entropy_bits -= float((counts * np.log2(counts / counts.sum())).sum())
    assert len(encoded) <= 1.01 * entropy_bits / 8 + 1024
