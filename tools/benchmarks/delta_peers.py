"""What else gives one version from another: patchers, compressors with a dictionary, and codecs for weights."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import weights
from benchmarks import range_coder
from benchmarks.full_peers import SLICE_CHUNKS, Z4AI_TYPES
from benchmarks.race import Codec
from benchmarks.samples import ELEMENT_BYTES, Sample

RANGE_CODER = "range coder by exponent (constriction)"
_CDC_BYTES = 64 << 10
# bsdiff4 sorts every suffix of the base, at about 1 MB/s.
SLOWEST_CHUNKS = SLICE_CHUNKS // 2
_folders = itertools.count()


def for_weights(sample: Sample, work: Path) -> dict[str, Codec]:
    """The peers that know what a weight is."""
    return {
        "XOR in planes, zstd -3 (BitX)": _planes(sample, 3),
        "z4ai compress_delta": _z4ai(sample),
        "lmzip append": _lmzip(sample, work),
    }


def range_coder_of(sample: Sample) -> dict[str, Codec]:
    """The peer to be held against, for the types that it knows."""
    return {RANGE_CODER: _range_coder(sample)} if sample.dtype in range_coder.LAYOUTS else {}


def for_bytes(sample: Sample, work: Path) -> dict[str, Codec]:
    """The peers that see bytes, quick enough for all of them."""
    zstd = ("zstd", "-q", "-f", "--single-thread", "--long=27")
    return {
        **patched(sample, work),
        "zstd -3 --long=27, no base": _program(
            sample, work, (*zstd, "-3", "new", "-o", "patch"), (*zstd, "-d", "patch", "-o", "out")
        ),
        "xdelta3 -9": _xdelta3(sample, work),
        "blosc2 bitshuffle of the XOR, zstd 5": _blosc2(sample),
        "content-defined cutting, 64 KiB": _cutting(sample),
    }


def patched(sample: Sample, work: Path) -> dict[str, Codec]:
    """The one of them that is at hand everywhere."""
    return {"zstd -3 --patch-from": _zstd(sample, work, "-3")}


def sliced(sample: Sample, work: Path) -> dict[str, Codec]:
    """The slow ones, for a part of it."""
    import hdiffpatch
    import zstandard

    raw, base = sample.payload, sample.base_payload
    settings = hdiffpatch.ZStdConfig(level=19)
    return {
        "zstd -19, no base": Codec(lambda: zstandard.compress(raw, 19), zstandard.decompress, rounds_max=1),
        "zstd -19 --patch-from": _zstd(sample, work, "-19"),
        "HDiffPatch, zstd 19": Codec(
            lambda: hdiffpatch.diff(base, raw, settings, validate=False),
            lambda patch: hdiffpatch.apply(base, patch),
            rounds_max=1,
        ),
    }


def slowest(sample: Sample) -> dict[str, Codec]:
    """The slowest, for half of that part."""
    import bsdiff4

    raw, base = sample.payload, sample.base_payload
    return {"bsdiff4": Codec(lambda: bsdiff4.diff(base, raw), lambda patch: bsdiff4.patch(base, patch), rounds_max=1)}


def zstd_forms(sample: Sample) -> dict[str, Codec]:
    """Differences of integers through zstd in the two ways there are, quickly and thoroughly."""
    found = {}
    for level in (3, 19):
        rounds_max = 99 if level == 3 else 1
        found[f"zstd -{level} of the difference"] = _difference(sample, level, rounds_max)
        found[f"zstd -{level} of changed bits and values"] = _changed(sample, level, rounds_max)
    return found


def _planes(sample: Sample, level: int) -> Codec:
    import zstandard

    width = ELEMENT_BYTES[sample.dtype]
    raw, base = (np.frombuffer(data, np.uint8) for data in (sample.payload, sample.base_payload))

    def encode() -> list[bytes]:
        planes = (raw ^ base).reshape(-1, width).T
        return [zstandard.compress(plane.tobytes(), level) for plane in planes]

    def decode(made: Sequence[bytes]) -> bytes:
        planes = np.stack([np.frombuffer(zstandard.decompress(plane), np.uint8) for plane in made])
        return (np.ascontiguousarray(planes.T).reshape(-1) ^ base).tobytes()

    return Codec(encode, decode, _total)


def _z4ai(sample: Sample) -> Codec:
    import z4ai

    raw, base, dtype = sample.payload, sample.base_payload, Z4AI_TYPES[sample.dtype]
    return Codec(
        lambda: z4ai.compress_delta(raw, base, dtype=dtype, threads=1),
        lambda made: bytes(z4ai.decompress_delta(made, base)),
        rounds_max=1,
    )


def _range_coder(sample: Sample) -> Codec:
    pairs = [(chunk.raw.tobytes(), chunk.base.tobytes()) for chunk in sample.chunks]

    def decode(made: Sequence[bytes]) -> list[bytes]:
        return [
            range_coder.decode(encoded, base, sample.dtype) for encoded, (_raw, base) in zip(made, pairs, strict=True)
        ]

    return Codec(
        lambda: [range_coder.encode(raw, base, sample.dtype) for raw, base in pairs], decode, _total, rounds_max=3
    )


def _lmzip(sample: Sample, work: Path) -> Codec:
    """Its delta is what an archive with the base grows by; it reads and writes files, and that is in its times."""
    import lmz

    folder = _folder(work)
    names = ("base.safetensors", "new.safetensors", "base.lmz", "both.lmz", "out.safetensors")
    base, new, archive, both, out = (str(folder / name) for name in names)
    weights.write(Path(base), sample.base)
    weights.write(Path(new), sample.tensors)
    lmz.compress(base, archive, workers=1)

    def encode() -> int:
        Path(both).write_bytes(Path(archive).read_bytes())
        lmz.append(both, new, workers=1)
        return Path(both).stat().st_size - Path(archive).stat().st_size

    def decode(_grown: int) -> bytes:
        lmz.extract(both, "new.safetensors", out, overwrite=True, workers=1)
        return sample.payload if Path(out).read_bytes() == Path(new).read_bytes() else b""

    return Codec(encode, decode, lambda grown: grown, rounds_max=1)


def _blosc2(sample: Sample) -> Codec:
    import blosc2

    blosc2.set_nthreads(1)
    raw, base = (np.frombuffer(data, np.uint8) for data in (sample.payload, sample.base_payload))
    settings: dict[str, Any] = {
        "typesize": ELEMENT_BYTES[sample.dtype],
        "clevel": 5,
        "codec": blosc2.Codec.ZSTD,
        "filters": [blosc2.Filter.BITSHUFFLE],
        "nthreads": 1,
    }

    def decode(made: bytes) -> bytes:
        return (np.frombuffer(blosc2.decompress2(made, nthreads=1), np.uint8) ^ base).tobytes()

    return Codec(lambda: blosc2.compress2((raw ^ base).tobytes(), **settings), decode)


def _cutting(sample: Sample) -> Codec:
    """Pieces of the new version that the base has nowhere; fitting them together is no decoding."""
    from blake3 import blake3
    from pyfastcdc import FastCDC

    cutter = FastCDC(_CDC_BYTES, min_size=_CDC_BYTES // 4, max_size=_CDC_BYTES * 4)

    def cut(data: bytes) -> dict[bytes, int]:
        return {blake3(piece.data).digest(): piece.length for piece in cutter.cut_buf(data)}

    known = cut(sample.base_payload)

    def encode() -> int:
        return sum(length for digest, length in cut(sample.payload).items() if digest not in known)

    return Codec(encode, None, lambda moved: moved)


def _zstd(sample: Sample, work: Path, level: str) -> Codec:
    common = ("zstd", "-q", "-f", "--single-thread", "--long=27", "--patch-from=base")
    return _program(sample, work, (*common, level, "new", "-o", "patch"), (*common, "-d", "patch", "-o", "out"))


def _xdelta3(sample: Sample, work: Path) -> Codec:
    # The window over the base is as large as the base, so that it can look everywhere.
    common = ("xdelta3", "-f", "-B", str(max(len(sample.base_payload), 1 << 26)), "-s", "base")
    return _program(sample, work, (*common, "-e", "-9", "new", "patch"), (*common, "-d", "patch", "out"))


def _program(sample: Sample, work: Path, encoding: Sequence[str], decoding: Sequence[str]) -> Codec:
    """A program that reads ``base`` and ``new`` and writes ``patch``, and one that makes ``out`` of it."""
    folder = _folder(work)
    (folder / "base").write_bytes(sample.base_payload)
    (folder / "new").write_bytes(sample.payload)

    def encode() -> int:
        subprocess.run(encoding, cwd=folder, check=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return (folder / "patch").stat().st_size

    def decode(_size: int) -> bytes:
        subprocess.run(decoding, cwd=folder, check=True, stdin=subprocess.DEVNULL)
        return (folder / "out").read_bytes()

    return Codec(encode, decode, lambda size: size, rounds_max=1)


def _difference(sample: Sample, level: int, rounds_max: int) -> Codec:
    import zstandard

    raw, base = (np.frombuffer(data, np.int8) for data in (sample.payload, sample.base_payload))

    def decode(made: bytes) -> bytes:
        return (base + _signed(np.frombuffer(zstandard.decompress(made), np.uint8))).tobytes()

    return Codec(lambda: zstandard.compress(_folded(raw - base).tobytes(), level), decode, rounds_max=rounds_max)


def _changed(sample: Sample, level: int, rounds_max: int) -> Codec:
    import zstandard

    raw, base = (np.frombuffer(data, np.int8) for data in (sample.payload, sample.base_payload))

    def encode() -> list[bytes]:
        difference = raw - base
        changed = difference != 0
        parts = (np.packbits(changed), _folded(difference[changed]))
        return [zstandard.compress(part.tobytes(), level) for part in parts]

    def decode(made: Sequence[bytes]) -> bytes:
        bits, values = (np.frombuffer(zstandard.decompress(part), np.uint8) for part in made)
        new = base.copy()
        new[np.unpackbits(bits, count=base.size).view(bool)] += _signed(values)
        return new.tobytes()

    return Codec(encode, decode, _total, rounds_max)


def _folded(signed: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Zigzag: small magnitudes of either sign become small numbers."""
    return (signed << 1 ^ signed >> 7).view(np.uint8)


def _signed(folded: NDArray[np.uint8]) -> NDArray[np.int8]:
    return (folded >> 1).view(np.int8) ^ -(folded & 1).view(np.int8)


def _folder(work: Path) -> Path:
    path = work / f"peer-{next(_folders)}"
    path.mkdir()
    return path


def _total(parts: Sequence[bytes]) -> int:
    return sum(map(len, parts))
