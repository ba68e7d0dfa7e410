"""A small version of a model on real files, served by tests in the place of a store."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from p2psync.content import Digest
from p2psync.manifest import Chunk, Extent, Place, Spot, encode_index


@dataclass
class Version:
    """What a test publishes: opaque head and nodes, and chunks that stand one after another in one file."""

    name: str
    tag: str
    envelope: bytes
    root: Digest
    nodes: dict[Digest, bytes]
    chunks: list[Chunk]
    data: bytes

    def bytes_of(self, chunk: Chunk) -> bytes:
        """The true bytes of a chunk."""
        offset = chunk.places[0].offset
        return self.data[offset : offset + chunk.length]


def make_version(
    lengths: Sequence[int], *, name: str = "acme/model", tag: str = "latest", nodes: int = 5, seed: int = 1
) -> Version:
    """Random bytes, cut at ``lengths``; some nodes of a few hundred bytes, the first of which is the root."""
    source = random.Random(seed)
    data = source.randbytes(sum(lengths))
    chunks, offset = [], 0
    for index, length in enumerate(lengths):
        chunks.append(Chunk(index, Digest.of(data[offset : offset + length]), length, (Place(0, offset),)))
        offset += length
    bodies = [source.randbytes(source.randint(100, 400)) for _ in range(nodes)]
    return Version(
        name=name,
        tag=tag,
        envelope=b'{"envelope":"' + source.randbytes(100).hex().encode() + b'"}',
        root=Digest.of(bodies[0]),
        nodes={Digest.of(body): body for body in bodies},
        chunks=chunks,
        data=data,
    )


@dataclass
class FakeLocated:
    """A place in a file whose identity is its modification time and size."""

    fd: int
    offset: int
    length: int
    identity: tuple[int, int]
    on_release: Callable[[], None]

    def intact(self) -> bool:
        return identity_of(self.fd) == self.identity

    def release(self) -> None:
        self.on_release()


def identity_of(fd: int) -> tuple[int, int]:
    facts = os.fstat(fd)
    return facts.st_mtime_ns, facts.st_size


@dataclass
class FolderLibrary:
    """Serves versions from files in a folder. ``held`` counts descriptors that nobody released."""

    folder: Path
    heads: dict[tuple[str, str], bytes] = field(default_factory=dict)
    nodes: dict[Digest, bytes] = field(default_factory=dict)
    places: dict[Digest, tuple[Path, int, int, tuple[int, int]]] = field(default_factory=dict)
    inventories: dict[Digest, bytes] = field(default_factory=dict)
    held: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)
    _fds: dict[Path, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, version: Version) -> Path:
        """Write a version's bytes to a file and offer all of it."""
        path = self.folder / f"{version.root.hex()}.bin"
        path.write_bytes(version.data)
        self.heads[version.name, version.tag] = version.envelope
        self.heads[version.name, str(version.root)] = version.envelope
        self.nodes.update(version.nodes)
        self._fds[path] = os.open(path, os.O_RDONLY)
        for chunk in version.chunks:
            place = (path, chunk.places[0].offset, chunk.length, identity_of(self._fds[path]))
            self.places[chunk.digest] = place
        self.inventories[version.root] = bitset(len(version.chunks), range(len(version.chunks)))
        return path

    def head(self, name: str, selector: str) -> bytes | None:
        self.asked.append((name, selector))
        return self.heads.get((name, selector))

    def node(self, digest: Digest) -> bytes | None:
        return self.nodes.get(digest)

    def inventory(self, root: Digest) -> bytes | None:
        return self.inventories.get(root)

    def locate(self, digest: Digest) -> FakeLocated | None:
        place = self.places.get(digest)
        if place is None or identity_of(self._fds[place[0]]) != place[3]:
            return None
        self._hold(1)
        return FakeLocated(self._fds[place[0]], place[1], place[2], place[3], lambda: self._hold(-1))

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)

    def _hold(self, count: int) -> None:
        with self._lock:
            self.held += count


def bitset(count: int, held: Sequence[int] | range) -> bytes:
    """Bits of ``held``, LSB first, ``count`` in all."""
    bits = bytearray((count + 7) // 8)
    for index in held:
        bits[index // 8] |= 1 << (index % 8)
    return bytes(bits)


def write_origin_tree(folder: Path, version: Version, *, pack_bytes: int = 2 << 20) -> None:
    """Lay a version out as an origin tree of small packs: its nodes, then its chunks, one after another."""
    packs: list[bytearray] = [bytearray()]

    def put(data: bytes) -> Spot:
        if len(packs[-1]) + len(data) > pack_bytes:
            packs.append(bytearray())
        packs[-1].extend(data)
        return Spot(len(packs) - 1, len(packs[-1]) - len(data))

    nodes = {digest: Extent(*put(body), len(body)) for digest, body in version.nodes.items()}
    spots = [put(version.bytes_of(chunk)) for chunk in version.chunks]
    index = encode_index([Digest.of(pack) for pack in packs], nodes, spots)
    files = {f"v1/packs/{Digest.of(pack).hex()}.pack": bytes(pack) for pack in packs}
    files[f"v1/index/{version.root.hex()}"] = index
    files[f"v1/heads/{version.name}/digests/{version.root.hex()}"] = version.envelope
    files[f"v1/heads/{version.name}/tags/{version.tag}"] = version.envelope
    for path, body in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)
