"""The frozen bytes of the format: another program that follows docs/format.md must write and read exactly these."""

import json
from pathlib import Path

import pytest

from p2psync.content import BlobKind, Digest, FileFormat
from p2psync.manifest import (
    Blob,
    ChunkList,
    Extent,
    File,
    Head,
    Manifest,
    SigningKey,
    Spot,
    Variant,
    build_tree,
    decode_index,
    encode_index,
    open_head,
    read_tree,
    sign_head,
)
from tests.manifests import sample_manifest

FOLDER = Path(__file__).parents[2] / "vectors" / "manifest"


def load(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def maybe_digest(text):
    return None if text is None else Digest.parse(text)


def value_of(shown):
    """A CBOR value from how a vector shows it: bytes and maps, which JSON does not have, in an object."""
    match shown:
        case {"bytes": digits}:
            return bytes.fromhex(digits)
        case {"map": items}:
            return {int(key): value_of(item) for key, item in items.items()}
        case list():
            return [value_of(item) for item in shown]
        case _:
            return shown


def blob_of(shown):
    chunks = ChunkList(bytes.fromhex("".join(shown["digests"])), tuple(shown.get("lengths", ())))
    named = (shown.get("name", ""), shown.get("dtype", ""), tuple(shown.get("shape", ())))
    return Blob(BlobKind[shown["kind"]], shown["length"], chunks, *named)


def file_of(shown):
    blobs = tuple(blob_of(b) for b in shown["blobs"])
    fixed = (shown["path"], shown["size"], bytes.fromhex(shown["sha256"]), FileFormat[shown["format"]])
    return File(*fixed, blobs, shown["external"])


def manifest_of(shown):
    return Manifest(
        files=tuple(file_of(f) for f in shown["files"]),
        variants=tuple(Variant(**(v | {"files": tuple(v["files"])})) for v in shown["variants"]),
        bases=tuple(Digest.parse(b) for b in shown["bases"]),
        forms=maybe_digest(shown["forms"]),
        recipe=maybe_digest(shown["recipe"]),
        probes=maybe_digest(shown["probes"]),
        extra={int(key): value_of(value) for key, value in shown["extra"].items()},
    )


@pytest.mark.parametrize("name", ["small", "tree"])
def test_tree(name):
    """The manifest of the vector has exactly these nodes and this root, and they read back."""
    vector = load(name)
    tree = build_tree(manifest_of(vector["manifest"]))
    assert str(tree.root) == vector["root"]
    assert {str(d): node.hex() for d, node in tree.nodes.items()} == {n["digest"]: n["hex"] for n in vector["nodes"]}
    nodes = {Digest.parse(n["digest"]): bytes.fromhex(n["hex"]) for n in vector["nodes"]}
    assert read_tree(Digest.parse(vector["root"]), nodes.get) == manifest_of(vector["manifest"])
    assert {node[2] for node in nodes.values()} == {0, 1, 2, 3}


def test_tree_has_every_feature():
    """The larger vector is the version in which every feature of the format is used."""
    assert manifest_of(load("tree")["manifest"]) == sample_manifest()


@pytest.mark.parametrize("vector", load("head"), ids=lambda vector: vector["about"])
def test_head(vector):
    """The key and the head of the vector give exactly this envelope, and it opens as that head."""
    key = SigningKey.from_bytes(bytes.fromhex(vector["secret"]))
    shown = vector["head"]
    fixed = {"root": Digest.parse(shown["root"]), "bases": tuple(Digest.parse(b) for b in shown["bases"])}
    head = Head(**(shown | fixed))
    assert str(key.verify_key) == vector["key"]
    assert sign_head(head, key) == vector["envelope"].encode()
    assert open_head(vector["envelope"].encode(), key.verify_key) == head


def test_pack_index():
    """The places of the vector are exactly these bytes, and they read back."""
    vector = load("pack_index")
    packs = [Digest.parse(p) for p in vector["packs"]]
    nodes = {Digest.parse(n["digest"]): Extent(n["pack"], n["offset"], n["length"]) for n in vector["nodes"]}
    spots = [Spot(*place) for place in vector["chunks"]]
    assert encode_index(packs, nodes, spots).hex() == vector["hex"]
    index = decode_index(bytes.fromhex(vector["hex"]))
    assert (list(index.packs), dict(index.nodes), list(index)) == (packs, nodes, spots)
