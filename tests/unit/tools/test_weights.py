"""Whole files of weights come back as they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import safe_open

import weights


def test_what_is_written_is_read_back_in_its_order(tmp_path: Path):
    """Types that numpy does not know are bytes like any other."""
    tensors = {
        "z": weights.Weights("F8_E4M3", (2, 3), np.arange(6, dtype=np.uint8)),
        "a": weights.Weights("F32", (), np.arange(4, dtype=np.uint8)),
        "empty": weights.Weights("BF16", (0, 4), np.zeros(0, np.uint8)),
    }
    path = tmp_path / "deep" / "model.safetensors"
    weights.write(path, tensors)
    found = weights.read(path)
    assert [(name, t.dtype, t.shape, t.data.tobytes()) for name, t in found.items()] == [
        (name, t.dtype, t.shape, t.data.tobytes()) for name, t in tensors.items()
    ]
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_others_can_read_it(tmp_path: Path):
    """The peers of the benchmarks open these files with libraries of their own."""
    path = tmp_path / "model.safetensors"
    weights.write(path, {"w": weights.Weights("I8", (2, 2), np.arange(4, dtype=np.uint8))})
    with safe_open(str(path), "numpy") as opened:
        assert opened.get_tensor("w").tolist() == [[0, 1], [2, 3]]


def test_a_row_is_everything_but_the_first_axis():
    """What one scale belongs to."""
    none = np.zeros(0, np.uint8)
    shapes = ((4, 3), (4, 3, 2), (5,), ())
    assert [weights.Weights("I8", shape, none).row_elements for shape in shapes] == [3, 6, 5, 1]
