"""Manifests, nodes and heads for tests: honest ones, and forged ones whose digests and signatures are right."""

import base64
from dataclasses import dataclass, field

import cbor2

from p2psync.content import BlobKind, Digest, FileFormat, grid_lengths
from p2psync.limits import CHUNK_BYTES
from p2psync.manifest import Blob, ChunkList, File, Head, Manifest, SigningKey, Variant, encode_json

PUBLISHER = SigningKey.from_bytes(bytes(range(32)))
STRANGER = SigningKey.from_bytes(bytes(range(1, 33)))
NOW_S = 1_790_000_000


def digest_of(identity):
    return Digest.of(identity.encode())


def sha256_of(identity):
    return bytes(digest_of(f"sha256 of {identity}"))


def chunks_of(identity, length, lengths=()):
    """A chunk list whose digests are those of ``identity/0``, ``identity/1`` and so on."""
    count = len(lengths) or len(list(grid_lengths(length)))
    return ChunkList(b"".join(digest_of(f"{identity}/{i}") for i in range(count)), tuple(lengths))


def tensor(name, *shape, dtype="BF16", identity=None, element_bytes=2):
    length = element_bytes
    for side in shape:
        length *= side
    return Blob(BlobKind.TENSOR, length, chunks_of(identity or name, length), name, dtype, tuple(shape))


def plain_file(path, *lengths):
    """A file of no known format: no chunk, one, or several as content-defined cutting makes them."""
    size = sum(lengths)
    blobs = (Blob(BlobKind.BYTES, size, chunks_of(path, size, lengths if len(lengths) > 1 else ())),) if size else ()
    return File(path, size, sha256_of(path), FileFormat.BYTES, blobs)


def tensor_file(path, *tensors, header_bytes=1000, external=False, form=FileFormat.SAFETENSORS):
    header = Blob(BlobKind.HEADER, header_bytes, chunks_of(f"{path}/header", header_bytes))
    blobs = (header, *tensors)
    return File(path, sum(b.length for b in blobs), sha256_of(path), form, blobs, external)


def manifest_of(*files, **fields):
    return Manifest(tuple(sorted(files, key=lambda file: file.path.encode())), **fields)


def blocks(count, identity=""):
    """The tensors of ``count`` small blocks, five each."""
    for number in range(count):
        for name, shape in (
            ("attn.to_q.weight", (64, 64)),
            ("attn.to_q.bias", (64,)),
            ("ffn.up.weight", (1024, 1024)),
            ("ffn.down.weight", (700, 1024)),
            ("norm.weight", (64,)),
        ):
            full = f"blocks.{number}.{name}"
            yield tensor(full, *shape, identity=identity + full)


def sample_manifest():
    """A version in which every feature of the format is used at least once."""
    gap = Blob(BlobKind.GAP, 60, chunks_of("gap", 60))
    data = (tensor("w", 1, 2), gap, tensor("empty", 0, 7), tensor("v", 33, dtype="F32", element_bytes=4))
    size = sum(blob.length for blob in data)
    return manifest_of(
        plain_file("config.json", 460),
        plain_file("empty.txt"),
        plain_file("int8/model.bin", 300_000, 70_000, CHUNK_BYTES, 5),
        File("int8/weights.data", size, sha256_of("data"), FileFormat.ONNX_DATA, data, external=True),
        tensor_file("model.safetensors", *blocks(12)),
        plain_file("probe.json", 99),
        plain_file("ünïcode/日本 語.txt", 3),
        variants=(
            Variant("full", (4,), default=True),
            Variant("int8", (2, 3), False, "ort-cpu", "int8", 900_000_000, "probe.json"),
        ),
        bases=(digest_of("base 1"), digest_of("base 2")),
        forms=digest_of("forms"),
        recipe=digest_of("recipe"),
        probes=digest_of("probes"),
        extra={8: "from a newer minor version", 300: [1, -2, None, {7: b"bytes"}, True, []]},
    )


def sample_head(**changed):
    fields = {
        "name": "acme/wan",
        "tag": "latest",
        "version": 3,
        "root": digest_of("root"),
        "size": 57_154_195_748,
        "created": NOW_S - 1000,
    }
    return Head(**(fields | changed))


def payload_of(**changed):
    """The payload of a head as an object, to be spoilt. A field that is ``...`` is left out."""
    fields = {
        "created": NOW_S - 1000,
        "minimum": "0.1.0",
        "name": "acme/wan",
        "refresh_after_s": 2_592_000,
        "root": str(digest_of("root")),
        "size": 57_154_195_748,
        "tag": "latest",
        "version": 3,
    }
    return {key: value for key, value in (fields | changed).items() if value is not ...}


def signed(payload, kind="application/vnd.p2psync.head.v1+json", key=PUBLISHER, **changed):
    """An envelope around any payload, with a signature that is right for its type."""
    if not isinstance(payload, bytes):
        payload = encode_json(payload)
    message = b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": kind,
        "signatures": [{"keyid": key.verify_key.key_id, "sig": base64.b64encode(key.sign(message)).decode()}],
    }
    return encode_json(envelope | changed)


@dataclass
class Forge:
    """A small honest tree, node by node as CBOR values; each may be changed, or replaced by bytes, before it is hashed.

    One safetensors file: a header, a tensor of two chunks, and a tensor of one.
    """

    chunks: object = field(default_factory=lambda: {0: 3, 1: digest_of("w/0") + digest_of("w/1")})
    rows: list = field(
        default_factory=lambda: [
            [1, 100, bytes(digest_of("header"))],
            [2, 3 << 19, [...], "w", "BF16", [768, 1024]],
            [2, 6, bytes(digest_of("b")), "b", "BF16", [3]],
        ]
    )
    group: object = ...
    file: object = ...
    row: list = field(default_factory=lambda: ["model.safetensors", 100 + (3 << 19) + 6, bytes(32), 1, ...])
    root: object = field(default_factory=lambda: {0: 0, 1: 1, 2: [...]})
    nodes: dict = field(default_factory=dict)

    def put(self, value):
        data = value if isinstance(value, bytes) else cbor2.dumps(value, canonical=True)
        digest = Digest.of(data)
        self.nodes[digest] = data
        return digest

    def build(self):
        """Hash what there is, from the leaves up, filling each ``...``. Returns the root's digest."""
        fill(self.rows, bytes(self.put(self.chunks)))
        group = self.put({0: 2, 1: self.rows} if self.group is ... else self.group)
        file = self.put({0: 1, 1: bytes(group)} if self.file is ... else self.file)
        fill(self.row, bytes(file))
        if isinstance(self.root, dict) and isinstance(self.root.get(2), list):
            fill(self.root[2], self.row)
        return self.put(self.root)


def fill(value, found):
    """Put ``found`` in the place of each ``...`` in nested lists."""
    for index, item in enumerate(value):
        if item is ...:
            value[index] = found
        elif isinstance(item, list):
            fill(item, found)
