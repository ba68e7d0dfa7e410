"""What else shrinks a model without loss, on the bytes of one type: general compressors, and those made for weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import weights
from benchmarks.race import Codec
from benchmarks.samples import ELEMENT_BYTES, Sample
from p2psync.limits import MIB

# What the slow ones are measured on: whole chunks, spread evenly.
SLICE_CHUNKS = 8
_WINDOW_LOG = 27
Z4AI_TYPES = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F8_E4M3": "fp8_e4m3", "I8": "int8"}

_ZIPNN_TYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F8_E4M3": "float8_e4m3fn"}


def whole(sample: Sample, work: Path) -> dict[str, Codec]:
    """The peers that are quick enough for all of it."""
    import zstandard

    raw = sample.payload
    long = zstandard.ZstdCompressionParameters.from_level(3, window_log=_WINDOW_LOG, enable_ldm=True)
    unlong = zstandard.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG)
    found = {
        "zstd -3": Codec(lambda: zstandard.compress(raw, 3), zstandard.decompress),
        "zstd -3 --long=27": Codec(
            lambda: zstandard.ZstdCompressor(compression_params=long).compress(raw), unlong.decompress
        ),
        "blosc2 shuffle, zstd 5": _blosc2(raw, sample.dtype, "SHUFFLE"),
        "blosc2 bitshuffle, zstd 5": _blosc2(raw, sample.dtype, "BITSHUFFLE"),
        "z4ai": _z4ai(raw, sample.dtype),
        "lmzip": _lmzip(sample, work),
    }
    # It needs torch, and has no type for whole numbers.
    if importlib.util.find_spec("torch") and sample.dtype in _ZIPNN_TYPES:
        found["ZipNN"] = _zipnn(raw, sample.dtype)
    return found


def sliced(sample: Sample) -> dict[str, Codec]:
    """The peer that is not."""
    import zstandard

    raw = sample.payload
    return {"zstd -19": Codec(lambda: zstandard.compress(raw, 19), zstandard.decompress, rounds_max=1)}


def _blosc2(raw: bytes, dtype: str, name: str) -> Codec:
    import blosc2

    blosc2.set_nthreads(1)
    settings: dict[str, Any] = {
        "typesize": ELEMENT_BYTES[dtype],
        "clevel": 5,
        "codec": blosc2.Codec.ZSTD,
        "filters": [blosc2.Filter[name]],
        "nthreads": 1,
    }
    return Codec(lambda: blosc2.compress2(raw, **settings), lambda made: blosc2.decompress2(made, nthreads=1))


def _z4ai(raw: bytes, dtype: str) -> Codec:
    import z4ai

    # What it prepares on its first call is not part of any other.
    z4ai.compress(raw[:MIB], dtype=Z4AI_TYPES[dtype], threads=1)
    return Codec(lambda: z4ai.compress(raw, dtype=Z4AI_TYPES[dtype], threads=1), z4ai.decompress, rounds_max=1)


def _lmzip(sample: Sample, work: Path) -> Codec:
    """It reads and writes files, so what that costs is in its times."""
    import lmz

    source, archive, out = (work / name for name in ("model.safetensors", "model.lmz", "out.safetensors"))
    weights.write(source, sample.tensors)
    whole_file = source.read_bytes()
    # It builds its kernels on its first call.
    lmz.compress(str(source), str(archive), workers=1)

    def encode() -> int:
        archive.unlink(missing_ok=True)
        lmz.compress(str(source), str(archive), workers=1)
        return archive.stat().st_size

    def decode(_size: int) -> bytes:
        lmz.decompress(str(archive), str(out), workers=1, overwrite=True)
        # Of the file the tensors are asked for, and they stand in the order of the payload.
        return sample.payload if out.read_bytes() == whole_file else b""

    return Codec(encode, decode, lambda size: size, rounds_max=2)


def _zipnn(raw: bytes, dtype: str) -> Codec:
    """It overwrites what it is given, so each time it is given a copy."""
    import zipnn

    coder = zipnn.ZipNN(input_format="byte", bytearray_dtype=_ZIPNN_TYPES[dtype], threads=1)
    return Codec(lambda: coder.compress(bytearray(raw)), lambda made: bytes(coder.decompress(bytes(made))))
