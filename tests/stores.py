"""Small models and stores that tests publish to and pull between, without a network."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from p2psync.manifest import Manifest, Reference, SigningKey
from p2psync.store import Incoming, Published, PublishOptions, Store

KEY = SigningKey.generate(bytes(range(32)))
NAME = "acme/model"
WEIGHTS = "model.safetensors"
NOW_S = 1_700_000_000


def write_safetensors(path: Path, tensors: Mapping[str, bytes]) -> None:
    """A safetensors file of byte tensors, in the given order."""
    header, at = {}, 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(tensors.values()))


def tensors_of(
    seed: int, changed: Mapping[int, int] | None = None, count: int = 5, size: int = 300_000
) -> dict[str, bytes]:
    """Random tensors; ``changed`` gives single ones a seed of their own."""
    return {
        f"layer.{n}.weight": random.Random((changed or {}).get(n, seed) * 1000 + n).randbytes(size + n)
        for n in range(count)
    }


def make_model(folder: Path, seed: int = 1, changed: Mapping[int, int] | None = None, size: int = 300_000) -> Path:
    """Weights, a file that is cut by its content, an empty one and one in a folder with a space and an umlaut."""
    (folder / "sub folder").mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / WEIGHTS, tensors_of(seed, changed, size=size))
    (folder / "vocab.txt").write_bytes(random.Random(seed).randbytes(700_000))
    (folder / "empty").write_bytes(b"")
    (folder / "sub folder" / "größe.json").write_bytes(b"{}")
    return folder


def publish(store: Store, folder: Path, tag: str = "latest", **options: object) -> Published:
    """Publish a folder as acme/model."""
    return store.publish(folder, Reference(NAME, tag), KEY, PublishOptions(now_unix_s=NOW_S, **options))


def begin(source: Store, target: Store, version: Published, files: set[int] | None = None) -> Incoming:
    """Begin to pull a version that another store has."""
    manifest = manifest_of(source, version)
    wanted = set(range(len(manifest.files))) if files is None else files
    return target.begin(NAME, manifest, source.tree(version.root), wanted, version.envelope)


def feed(source: Store, incoming: Incoming, count: int | None = None) -> int:
    """Write missing chunks from another store, at most ``count``; returns the bytes."""
    moved = 0
    for chunk in incoming.missing[:count]:
        located = source.locate(chunk.digest)
        assert located is not None
        try:
            incoming.write(chunk, located.read())
            assert located.intact()
        finally:
            located.release()
        moved += chunk.length
    return moved


def pull(source: Store, target: Store, version: Published, files: set[int] | None = None) -> Path:
    """Bring a version from one store to another and install it."""
    incoming = begin(source, target, version, files)
    feed(source, incoming)
    return incoming.install()


def manifest_of(store: Store, version: Published) -> Manifest:
    """What a version holds, which must be known."""
    manifest = store.manifest(version.root)
    assert manifest is not None
    return manifest


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes by relative path of every file in a folder."""
    return {
        os.path.relpath(os.path.join(top, name), folder): Path(top, name).read_bytes()
        for top, _, names in os.walk(folder)
        for name in names
    }


def edit(path: Path, offset: int = 0) -> None:
    """Change one byte of a file in place, read only or not."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        old = file.read(1)
        file.seek(offset)
        file.write(bytes([old[0] ^ 0xFF]))


def home_files(home: Path) -> Iterator[str]:
    """Every path in a home, relative to it."""
    for top, folders, names in os.walk(home):
        yield from (os.path.relpath(os.path.join(top, name), home) for name in (*folders, *names))
