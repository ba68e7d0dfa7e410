import json
import struct
from pathlib import Path

import pytest

_BUNDLE = Path(__file__).resolve().parents[4] / "examples" / "wan_tiny" / "bundle"
_PARTS = ("text_encoder", "transformer", "transformer_2", "vae")


def _header(path):
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length))


def test_the_bundle_stays_under_32_mb():
    """The whole directory is small enough to be committed."""
    assert sum(path.stat().st_size for path in _BUNDLE.rglob("*")) <= 32_000_000


@pytest.mark.parametrize("part", _PARTS)
def test_every_weight_is_bf16(part):
    """No part fell back to a wider type."""
    (weights,) = (_BUNDLE / part).glob("*.safetensors")
    tensors = {name: entry for name, entry in _header(weights).items() if name != "__metadata__"}
    assert tensors
    assert {entry["dtype"] for entry in tensors.values()} == {"BF16"}


def test_both_experts_have_one_shape_and_the_index_names_every_part():
    """The layout is the one of a Wan2.2 pipeline with two experts."""
    index = json.loads((_BUNDLE / "model_index.json").read_text())
    assert index["_class_name"] == "WanPipeline"
    assert all((_BUNDLE / part).is_dir() for part in (*_PARTS, "tokenizer", "scheduler"))
    assert set(_PARTS) <= set(index)
    high, low = (json.loads((_BUNDLE / part / "config.json").read_text()) for part in ("transformer", "transformer_2"))
    assert high["num_layers"] == low["num_layers"]
    note = json.loads((_BUNDLE / "wan_tiny.json").read_text())
    assert note["boundary_ratio"] == index["boundary_ratio"]
    assert note["recommended"] == {"steps": 8, "guidance_scale": 1.5, "max_sequence_length": 32}
    assert (note["clip"]["width"] % 16, note["clip"]["height"] % 16, note["clip"]["frames"] % 4) == (0, 0, 1)
