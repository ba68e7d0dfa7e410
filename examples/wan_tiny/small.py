"""The variant `small`, kept as coarse codes of its weights: `python -m wan_tiny.small OUT` builds its checkpoint.

One narrow expert takes the place of both; all else is the bundle's. Its large matrices are whole multiples of a step,
which is a part of the matrix's root mean square. Few of the codes are large, so that LZMA keeps each in about four
bits; training rounded as this file does (see shrink.py). numpy alone builds the checkpoint, bit for bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

HERE: Final = Path(__file__).parent
FILE: Final = HERE / "small.xz"
BUNDLE: Final = HERE / "bundle"
WEIGHTS: Final = "transformer/diffusion_pytorch_model.safetensors"
NOTE: Final = "wan_tiny.json"

# Shorter tensors (biases, norms, tables) stay in BF16: they are under 2 % of the weights.
_CODED_MIN: Final = 4096
# Steps in the root mean square of a matrix. First and last layers are short, and half of all damage came from there;
# rounding harms least in attention to text and in what prepares time and text.
_FINENESS: Final = {"patch_embedding": 16.0, "proj_out": 16.0, ".ffn.": 4.5, ".attn2.": 3.2, "condition_embedder": 3.2}
_FINENESS_ELSE: Final = 4.0
# Codes of noise: no literal says anything about the next one, so LZMA is told to look at none.
_FILTERS: Final = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}]
_UNPACKED_MAX: Final = 1 << 26
_DAMAGED: Final = "{} does not give the weights that were kept"
_WIDTHS: Final = {"I8": 1, "BF16": 2}


def fineness(name: str, size: int) -> float:
    """Return how many steps the root mean square of a parameter has, 0 for one that is not rounded."""
    if size < _CODED_MIN:
        return 0.0
    return next((value for part, value in _FINENESS.items() if part in name), _FINENESS_ELSE)


def write(file: Path, weights: Mapping[str, NDArray[np.float32]], config: Mapping[str, Any]) -> int:
    """Keep an expert, and return the bytes that it takes.

    Args:
        file: Where to.
        weights: Its parameters by name; they are rounded here.
        config: Its ``config.json``.
    """
    coded: dict[str, NDArray[np.float32]] = {}
    tensors: dict[str, tuple[str, list[int], bytes]] = {}
    steps: dict[str, float] = {}
    for name, value in weights.items():
        coded[name] = value
        if fine := fineness(name, value.size):
            steps[name] = _step(value, fine)
            codes = np.clip(np.rint(value / np.float32(steps[name])), -127, 127).astype(np.int8)
            coded[name] = _decoded(codes, steps[name])
            tensors[name] = ("I8", list(value.shape), codes.tobytes())
        else:
            tensors[name] = ("BF16", list(value.shape), _narrow(value))
    head = {
        "config": dict(config),
        "sha256": hashlib.sha256(_checkpoint(coded)).hexdigest(),
        "tensors": {name: [dtype, shape, steps.get(name)] for name, (dtype, shape, _) in tensors.items()},
    }
    text = json.dumps(head).encode()
    data = len(text).to_bytes(4, "little") + text + b"".join(raw for _, _, raw in tensors.values())
    return file.write_bytes(lzma.compress(data, format=lzma.FORMAT_XZ, filters=_FILTERS))


def read(file: Path) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """Return the parameters of a kept expert and its ``config.json``.

    Raises:
        ValueError: the weights are not those that were kept.
    """
    data = _unpacked(file)
    at = 4 + int.from_bytes(data[:4], "little")
    head = json.loads(data[4:at])
    weights: dict[str, NDArray[np.float32]] = {}
    for name, (dtype, shape, step) in head["tensors"].items():
        end = at + math.prod(shape) * _WIDTHS[dtype]
        raw, at = data[at:end], end
        if step is None:
            weights[name] = _wide(raw).reshape(shape)
        else:
            weights[name] = _decoded(np.frombuffer(raw, np.int8).reshape(shape), step)
    if hashlib.sha256(_checkpoint(weights)).hexdigest() != head["sha256"]:
        raise ValueError(_DAMAGED.format(file))
    return weights, head["config"]


def build(out: Path, file: Path = FILE, bundle: Path = BUNDLE) -> Path:
    """Build the checkpoint of `small` in the new folder ``out``: diffusers' layout, in BF16.

    Raises:
        ValueError: the weights are not those that were kept.
    """
    weights, config = read(file)
    shutil.copytree(bundle, out, ignore=shutil.ignore_patterns("transformer", "transformer_2"))
    target = out / WEIGHTS
    target.parent.mkdir()
    target.write_bytes(_checkpoint(weights))
    (target.parent / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    index = json.loads((bundle / "model_index.json").read_text())
    _write_json(out / "model_index.json", {**index, "transformer_2": [None, None], "boundary_ratio": None})
    note = json.loads((bundle / NOTE).read_text())
    _write_json(out / NOTE, {**note, "variant": "small", "boundary_ratio": None})
    return out


def _unpacked(file: Path) -> bytes:
    reader = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    try:
        data = reader.decompress(file.read_bytes(), _UNPACKED_MAX)
    except lzma.LZMAError as error:
        raise ValueError(_DAMAGED.format(file)) from error
    if not reader.eof:
        raise ValueError(_DAMAGED.format(file))
    return data


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def _decoded(codes: NDArray[np.int8], step: float) -> NDArray[np.float32]:
    return codes.astype(np.float32) * np.float32(step)


def _step(value: NDArray[np.float32], fine: float) -> float:
    return float(np.sqrt(np.mean(np.square(value, dtype=np.float64))) / fine) or 1.0


def _checkpoint(weights: Mapping[str, NDArray[np.float32]]) -> bytes:
    """A safetensors file of the weights in BF16, by name."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts: list[bytes] = []
    at = 0
    for name in sorted(weights):
        raw = _narrow(weights[name])
        header[name] = {"dtype": "BF16", "shape": list(weights[name].shape), "data_offsets": [at, at + len(raw)]}
        parts.append(raw)
        at += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def _narrow(value: NDArray[np.float32]) -> bytes:
    """BF16, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(value, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()


def _wide(raw: bytes) -> NDArray[np.float32]:
    return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)


def main() -> None:
    """Build the checkpoint."""
    parser = argparse.ArgumentParser(description="Build the checkpoint of wan-tiny's variant small without torch.")
    parser.add_argument("out", type=Path, help="a folder that is not there yet")
    parser.add_argument("--file", type=Path, default=FILE, help="the kept expert")
    arguments = parser.parse_args()
    print(build(arguments.out, arguments.file))


if __name__ == "__main__":
    main()
