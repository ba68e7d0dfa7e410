"""What readers get wrong: odd bit patterns among weights, and how weights of one model differ from each other."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from tests.reference.element import Array

# Both zeros, subnormals, infinities and NaNs with several payloads, by the bytes of an element.
ODD = {
    1: [0x00, 0x80, 0x01, 0x7F, 0x7C, 0xFC, 0x7D, 0xFF, 0x81],
    2: [0x0000, 0x8000, 0x0001, 0x8001, 0x7F80, 0xFF80, 0x7C00, 0xFC00, 0x7FC1, 0x7E01, 0xFFFF, 0x7F81],
    4: [0x0, 0x80000000, 0x1, 0x80000001, 0x7F800000, 0xFF800000, 0x7FC00001, 0xFFFFFFFF, 0x7F800001],
}
WIDTHS = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1}


def elements(dtype: str, seed: int, count: int, odd: int) -> Array:
    """Bit patterns of weights, and among them ``odd`` of those that readers get wrong."""
    random = np.random.default_rng(seed)
    width = WIDTHS[dtype]
    patterns: Array
    values = random.normal(0, 0.02, count).astype(np.float32)
    if dtype == "F16":
        patterns = values.astype("<f2").view("<u2")
    elif width > 1:
        patterns = upper(values, width)
    else:
        patterns = np.clip(np.round(values * 400), -127, 127).astype(np.int8).view(np.uint8)
    places = random.integers(0, count, odd)
    patterns[places] = random.choice(np.array(ODD[width], patterns.dtype), odd)
    return patterns


def moved(patterns: Array, seed: int, share: float) -> Array:
    """The same with some of them a few steps away, and some another altogether."""
    random = np.random.default_rng(seed)
    step = np.where(random.random(patterns.size) < share, np.round(random.normal(0, 4, patterns.size)), 0)
    found: Array = (patterns + step.astype(np.int64).astype(patterns.dtype)).astype(patterns.dtype)
    found[random.integers(0, patterns.size, 5)] = ODD[patterns.itemsize][-1]
    return found


def trained(dtype: str) -> tuple[Array, Array]:
    """Weights before and after steps of one size for all, in some stretches none; of one byte, steps of the codes."""
    random = np.random.default_rng(5)
    count = 1 << 16
    values = random.normal(0, 0.02, count).astype(np.float32)
    still = np.repeat(random.random(count // 512) < 0.3, 512)
    after = np.where(still, values, values + random.normal(0, 1e-4, count)).astype(np.float32)
    if WIDTHS[dtype] == 1:
        base = elements(dtype, 1, count, 9)
        calm = np.repeat(random.random(count // 512) * 6, 512)
        return base, base + np.where(still, 0, np.round(random.normal(0, calm))).astype(np.int8).view(np.uint8)
    if dtype == "F16":
        return values.astype("<f2").view("<u2"), after.astype("<f2").view("<u2")
    return upper(values, WIDTHS[dtype]), upper(after, WIDTHS[dtype])


def upper(values: Array, width: int) -> Array:
    """The upper bytes of F32 values: BF16 where there are two of them."""
    found: Array = (values.view("<u4") >> (32 - 8 * width)).astype(f"<u{width}")
    return found


def write_experts(folder: Path, seed: int) -> Path:
    """Weights in BF16 over two chunks, and in another file their INT8 codes with a scale for each row."""
    values = np.random.default_rng(1).normal(0, 0.02, (600, 1024)).astype(np.float32)
    values += np.random.default_rng(seed).normal(0, 3e-5 * seed, values.shape).astype(np.float32)
    scales = (np.abs(values).max(1) / 127).astype("<f4")
    codes = np.round(values / scales[:, None]).astype(np.int8)
    write_safetensors(folder / "bf16" / "w.safetensors", {"w": ("BF16", upper(values, 2))})
    write_safetensors(folder / "int8" / "w.safetensors", {"w": ("I8", codes), "w.scale": ("F32", scales)})
    return folder


def write_safetensors(path: Path, tensors: dict[str, tuple[str, Array]]) -> None:
    """A file of tensors, each with the name of its dtype."""
    header, at = {}, 0
    for name, (dtype, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(data.shape), "data_offsets": [at, at + data.nbytes]}
        at += data.nbytes
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data.tobytes() for _, data in tensors.values()))
