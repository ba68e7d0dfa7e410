"""Small real models on disk, where their chunks stand, and what of them a home holds."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from blake3 import blake3
from safetensors.numpy import save_file

MIB = 1 << 20
WEIGHTS = "model.safetensors"
Tensors = dict[str, np.ndarray]


def tensors_of(
    seed: int, layers: int = 6, layer_bytes: int = 2_500_000, changed: Mapping[int, int] | None = None
) -> Tensors:
    """Random layers of three tensors each. ``changed`` gives single layers a seed of their own."""
    found: Tensors = {}
    for layer in range(layers):
        random = np.random.default_rng([(changed or {}).get(layer, seed), layer])
        rows = layer_bytes * 3 // 5 // 2 // 512
        found[f"layers.{layer}.ffn.weight"] = _noise(random, (rows, 512))
        found[f"layers.{layer}.attn.weight"] = _noise(random, (layer_bytes // 2 // 512 - rows, 512))
        found[f"layers.{layer}.norm.weight"] = _noise(random, (301,))
    return found


def _noise(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(random.bytes(2 * int(np.prod(shape))), np.float16).reshape(shape)


def make_model(
    folder: Path,
    seed: int = 1,
    layers: int = 6,
    layer_bytes: int = 2_500_000,
    changed: Mapping[int, int] | None = None,
) -> Path:
    """Write a folder with weights in safetensors, settings and a vocabulary; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors_of(seed, layers, layer_bytes, changed), folder / WEIGHTS, metadata={"format": "pt"})
    write_settings(folder, seed)
    return folder


def write_settings(folder: Path, seed: int = 1) -> None:
    """The small files beside the weights."""
    (folder / "config.json").write_text(json.dumps({"layers": 6, "seed": seed}))
    (folder / "tokenizer").mkdir(exist_ok=True)
    words = np.random.default_rng(seed).integers(0, 1 << 30, 3000)
    (folder / "tokenizer" / "vocab.txt").write_text("\n".join(map(str, words)))


def write_safetensors(path: Path, tensors: Tensors, order: Sequence[str], metadata: Mapping[str, str]) -> None:
    """Write float16 tensors in an order of one's own, which no library lets one choose."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for name in order:
        size = tensors[name].nbytes
        header[name] = {"dtype": "F16", "shape": list(tensors[name].shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    body = b"".join(tensors[name].tobytes() for name in order)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


@dataclass(frozen=True, slots=True)
class Piece:
    """One chunk at one place of one file. ``digest`` is 64 hex digits."""

    path: str
    offset: int
    length: int
    digest: str


def pieces_of(folder: Path) -> list[Piece]:
    """Every chunk of a model of ``make_model``: tensors by the grid, small files whole. Reckoned without p2psync."""
    found = []
    for file in files_of(folder):
        data = (folder / file).read_bytes()
        for offset, length in _cuts(file, data):
            found.append(Piece(file, offset, length, blake3(data[offset : offset + length]).hexdigest()))
    return found


def _cuts(file: str, data: bytes) -> list[tuple[int, int]]:
    if not file.endswith(".safetensors"):
        # Content-defined cutting makes no chunk shorter than 64 KiB but the last.
        assert len(data) <= 64 << 10, f"{file} may have several chunks"
        return [(0, len(data))] if data else []
    (length,) = struct.unpack_from("<Q", data)
    start = 8 + length
    header = json.loads(data[8:start])
    spans = [(0, start)]
    spans += [(start + e["data_offsets"][0], start + e["data_offsets"][1]) for n, e in header.items() if n[0] != "_"]
    return [(at, min(MIB, end - at)) for begin, end in sorted(spans) if end > begin for at in range(begin, end, MIB)]


def bytes_of(pieces: Sequence[Piece]) -> int:
    """Bytes of the distinct chunks among ``pieces``."""
    return sum({piece.digest: piece.length for piece in pieces}.values())


def new_bytes(old: Path, new: Path) -> int:
    """Bytes of the chunks that ``new`` has and ``old`` has not."""
    known = {piece.digest for piece in pieces_of(old)}
    return bytes_of([piece for piece in pieces_of(new) if piece.digest not in known])


def files_of(folder: Path) -> list[str]:
    """The relative paths of all files that a publish takes, sorted."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != "p2psync.toml"
    )


def size_of(folder: Path) -> int:
    """Bytes of all files that a publish takes."""
    return sum((folder / file).stat().st_size for file in files_of(folder))


def assert_equal_files(found: Path | str, source: Path, only: Sequence[str] | None = None) -> None:
    """The same paths with the same bytes; or those of ``only`` and no others."""
    expected = files_of(source) if only is None else sorted(only)
    assert files_of(Path(found)) == expected
    for file in expected:
        assert (Path(found) / file).read_bytes() == (source / file).read_bytes(), f"{file} differs"


def held_digests(home: Path, source: Path) -> set[str]:
    """The chunks of ``source`` that stand whole in unfinished or installed files of a home.

    Every byte that stands in their place is the right one or was never written.
    """
    held = set()
    pieces = pieces_of(source)
    for file in files_of(source):
        truth = np.fromfile(source / file, np.uint8)
        for copy in [*(home / "partial").rglob(file), *(home / "models").rglob(file)]:
            if not copy.is_file():
                continue
            here = np.fromfile(copy, np.uint8)
            assert here.size <= truth.size
            right = here == truth[: here.size]
            assert np.all(right | (here == 0)), f"{copy} holds a wrong byte"
            held |= {
                piece.digest
                for piece in pieces
                if piece.path == file
                and piece.offset + piece.length <= here.size
                and bool(right[piece.offset : piece.offset + piece.length].all())
            }
    return held


def written_bytes(home: Path) -> int:
    """Bytes that were written to the unfinished files of a home. It reads none of them: a hole that was read counts."""
    total = 0
    for path in (home / "partial").rglob("*"):
        if not path.is_file() or "tree" not in path.parts:
            continue
        with path.open("rb") as file:
            place, size = 0, os.fstat(file.fileno()).st_size
            while place < size:
                try:
                    start = os.lseek(file.fileno(), place, os.SEEK_DATA)
                except OSError:
                    break
                place = os.lseek(file.fileno(), start, os.SEEK_HOLE)
                total += place - start
    return total


def copied(folder: Path, to: Path) -> Path:
    """A copy of a folder, made of new files."""
    shutil.copytree(folder, to)
    return to


def edit(path: Path, offset: int, data: bytes = b"\xa5edited") -> None:
    """Change bytes of a file in place as its user would who insists, read-only or not."""
    mode = path.stat().st_mode
    os.chmod(path, 0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    os.chmod(path, mode)
