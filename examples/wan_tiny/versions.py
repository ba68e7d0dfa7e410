"""The later versions of the bundle, kept as what they change: `python -m wan_tiny.versions v2 OUT` builds one.

A version is written as differences from the one before it. Its files are those of the bundle, with the same names and
sizes; a file of weights changes in the bit patterns of its 16-bit numbers, which are subtracted as integers (never as
floats, so that the result is exact), split into high and low bytes and compressed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import shutil
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

HERE: Final = Path(__file__).parent
BUNDLE: Final = HERE / "bundle"
FOLDER: Final = HERE / "versions"
ORDER: Final = ("v1", "v2", "v3")
_FILTERS: Final = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]


def keep(before: Path, after: Path, name: str) -> int:
    """Write what ``after`` changes in ``before`` as the version ``name``. Returns the bytes that it takes.

    Raises:
        ValueError: a file is missing or new.
    """
    files = _files(before)
    if files != _files(after):
        raise ValueError(f"{after} has other files than {before}")
    changed = [file for file in files if (before / file).read_bytes() != (after / file).read_bytes()]
    parts = [_difference((before / file).read_bytes(), (after / file).read_bytes()) for file in changed]
    packed = lzma.compress(b"".join(parts), format=lzma.FORMAT_XZ, filters=_FILTERS)
    index = {
        "files": [
            {"path": file, "bytes": len(part), "whole": _whole(before / file, after / file)}
            for file, part in zip(changed, parts, strict=True)
        ],
        "sha256": {file: hashlib.sha256((after / file).read_bytes()).hexdigest() for file in changed},
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.xz").write_bytes(packed)
    (FOLDER / f"{name}.json").write_text(json.dumps(index, indent=1) + "\n")
    return len(packed)


def build(name: str, out: Path) -> Path:
    """Build version ``name`` in the new folder ``out``, and prove its files.

    Raises:
        ValueError: what comes out is not what was kept.
    """
    shutil.copytree(BUNDLE, out)
    for version in ORDER[1 : ORDER.index(name) + 1]:
        _apply(version, out)
    return out


def _apply(name: str, folder: Path) -> None:
    index = json.loads((FOLDER / f"{name}.json").read_text())
    data = lzma.decompress((FOLDER / f"{name}.xz").read_bytes())
    place = 0
    for entry in index["files"]:
        path = folder / entry["path"]
        part = data[place : place + entry["bytes"]]
        place += entry["bytes"]
        path.write_bytes(part if entry["whole"] else _sum(path.read_bytes(), part))
        if hashlib.sha256(path.read_bytes()).hexdigest() != index["sha256"][entry["path"]]:
            raise ValueError(f"{path} is not the file that was kept as {name}")


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _whole(before: Path, after: Path) -> bool:
    return before.stat().st_size != after.stat().st_size or before.stat().st_size % 2 != 0


def _difference(before: bytes, after: bytes) -> bytes:
    """All of ``after`` where its size differs; else the bytes of its 16-bit differences, zigzag, low ones first."""
    if len(before) != len(after) or len(after) % 2:
        return after
    step = (_halves(after) - _halves(before)).view(np.int16)
    zigzag = ((step << 1) ^ (step >> 15)).view(np.uint16)
    return (zigzag & 0xFF).astype(np.uint8).tobytes() + (zigzag >> 8).astype(np.uint8).tobytes()


def _sum(before: bytes, difference: bytes) -> bytes:
    count = len(difference) // 2
    low, high = (np.frombuffer(difference, np.uint8, count, offset).astype(np.uint16) for offset in (0, count))
    zigzag = low | high << 8
    step = (zigzag >> 1) ^ (0 - (zigzag & 1)).astype(np.uint16)
    return (_halves(before) + step).astype("<u2").tobytes()


def _halves(data: bytes) -> NDArray[np.uint16]:
    return np.frombuffer(data, "<u2").astype(np.uint16)


def main() -> None:
    """Build one version."""
    parser = argparse.ArgumentParser(description="Build a version of the bundle.")
    parser.add_argument("version", choices=ORDER)
    parser.add_argument("out", type=Path, help="a folder that is not there yet")
    arguments = parser.parse_args()
    print(build(arguments.version, arguments.out))


if __name__ == "__main__":
    main()
