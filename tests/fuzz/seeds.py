"""Real values of every format, from which fuzzing begins: `python -m tests.fuzz.seeds` writes them to the corpus."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from p2psync import codec
from p2psync.content import Digest
from p2psync.engine import tiny_graphs
from p2psync.errors import P2PSyncError
from p2psync.manifest import Extent, Spot, build_tree, encode_index, forms, sign_head
from p2psync.manifest.nodes import decode_chunks, decode_file, decode_group
from p2psync.swarm import messages
from p2psync.swarm.gossip import Whereabouts, encode_gossip
from p2psync.swarm.inventory import Inventory, encode_runs
from p2psync.transport.frames import encode_digests
from p2psync.transport.handshake import Hello, encode_hello
from tests.fuzz.targets import TARGETS
from tests.manifests import PUBLISHER, sample_head, sample_manifest

CORPUS: Final = Path(__file__).parent / "corpus"
_D: Final = Digest.of(b"seed")


def seeds() -> Iterator[tuple[str, bytes]]:
    """(target, input) of each."""
    yield "head", sign_head(sample_head(), PUBLISHER)
    tree = build_tree(sample_manifest())
    yield "root_node", tree.nodes[tree.root]
    for kind, read in (("file_node", decode_file), ("group_node", decode_group), ("chunks_node", decode_chunks)):
        yield from ((kind, node) for node in [n for n in tree.nodes.values() if _reads(read, n)][:6])
    yield from _forms()
    yield "pack_index", encode_index([_D], {_D: Extent(0, 0, 40)}, [Spot(0, 40), Spot(0, 90)])
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "__metadata__": {"k": "v"}})
    yield "safetensors", struct.pack("<Q", len(header)) + header.encode() + bytes(8)
    yield "gguf", b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + _gguf_pair() + _gguf_tensor() + bytes(32)
    graph = tiny_graphs.graph("MatMul", [(1, (4, 4))] * 2, (1, (4, 4)))
    yield "onnx", graph
    yield "onnx", tiny_graphs.quantized_product((4, 4))
    yield from (("encoded_chunk", data) for data in _encoded())
    have = Inventory.from_bits(b"\xf0\x0f\xff", 100)
    jobs = (messages.Job(3, 1000, 20), messages.Job(9, 0, 0, outside=False))
    topic = messages.topic_of(_D)
    for message in (
        messages.Hello(_D, True, False, True, b"selected", have, jobs),
        messages.Claim(topic, True, False, (1, 2, 5)),
        messages.Beat(topic, True, 1000, 2000, jobs),
        messages.Have(topic, (0, 99)),
        messages.Release(topic, (7,)),
        messages.Lost(topic, (3, 4)),
        messages.Leave(topic),
    ):
        yield "channel_message", messages.encode(message)
    yield "inventory", Inventory.from_bits(b"\xf0\x0f\xff" * 9, 300).to_bytes()
    yield "inventory", Inventory.whole(300).to_bytes()
    yield "runs", encode_runs([0, 1, 2, 40, 299])
    places = [Whereabouts("0123456789abcdef", "192.0.2.1", 7000), Whereabouts("f" * 16, "2001:db8::1", 1)]
    yield "gossip", encode_gossip(places)
    yield "channel_hello", encode_hello(Hello(PUBLISHER.verify_key, bytes(32), "berlin", 7117, "p2psync/0.1"))
    yield (
        "answer_head",
        b'HTTP/1.1 206 Partial Content\r\nContent-Length: 17\r\nContent-Range: bytes 0-16/99\r\nETag: "x"',
    )
    yield "announcement_text", b"p=1\x00n=0123456789abcdef\x00later=yes"
    yield "batch_question", encode_digests([_D, _D])
    yield "batch_answer", struct.pack("<I", 2) + b"ab" + struct.pack("<I", 0) + struct.pack("<I", 1) + b"c"
    yield "reference", f"acme/wan:v3@{_D}".encode()
    yield "paths", b"a/b.safetensors\nconfig.json\nsub folder/x"
    yield (
        "settings_file",
        b'[variants.int8]\nfiles = ["int8/**"]\nneeds = {backend = "ort-cpu", memory_bytes = 9}\ndefault = true\n',
    )
    yield "recipe", b'name = "tiny"\n[sampling]\nsteps = 8\n[variants.fp16]\ndefault = true\n'
    yield from _engine()
    yield from _home()


def _reads(read: Callable[[bytes], object], node: bytes) -> bool:
    with suppress(P2PSyncError):
        read(node)
        return True
    return False


def _forms() -> Iterator[tuple[str, bytes]]:
    rows = [forms.Encoded(n, 1, Digest.of(bytes([n])), 1000 + n, (forms.Piece(_D),)) for n in range(3)]
    built, top, count = forms.build_forms([(forms.SetKind.DELTA, _D, 5000, rows)])
    assert top is not None
    for digest, node in built.items():
        yield ("forms_node", count.to_bytes(2, "big") + node) if digest == top else ("rows_node", b"\x00\x09" + node)


def _gguf_pair() -> bytes:
    return struct.pack("<Q", 1) + b"k" + struct.pack("<IQ", 8, 2) + b"ab"


def _gguf_tensor() -> bytes:
    return struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 4, 0, 0)


def _encoded() -> Iterator[bytes]:
    """One of each form, with the length and the base that the target gives it."""
    size, seed = 4096, 3
    head = (size - 1).to_bytes(2, "little") + bytes([seed])
    base = bytes((seed * (i + 7) >> 3) & 0xFF for i in range(size))
    random = np.random.default_rng(1)
    weights = random.normal(0, 0.02, size // 2).astype(np.float32)
    for dtype, raw in (
        ("BF16", (weights.view(np.uint32) >> 16).astype("<u2").tobytes()),
        ("F16", weights.astype("<f2").tobytes()),
        ("F32", weights[: size // 4].tobytes()),
        ("I8", np.clip(random.normal(0, 9, size), -127, 127).astype(np.int8).tobytes()),
        ("U8", bytes(size)),
    ):
        made = [codec.encode_full(raw, dtype), codec.encode_delta(raw, base, dtype)]
        near = bytearray(base)
        near[100] ^= 1
        made.append(codec.encode_delta(bytes(near), base, dtype))
        yield from (head + data for data in made if data is not None)


def _engine() -> Iterator[tuple[str, bytes]]:
    import tempfile

    from p2psync.engine.probe import record_at
    from tests.unit.engine.tiny_engine import PROBE_INPUTS, edit_json, make_engine

    with tempfile.TemporaryDirectory() as folder:
        engine = make_engine(Path(folder) / "fp32")
        yield "engine_json", (engine / "engine.json").read_bytes()
        yield "engine_plan", (engine / "engine.json").read_bytes()
        edit_json(engine / "engine.json", lambda top: top["video"].update(height=16, width=16, frames=1))
        golden = record_at(str(engine), PROBE_INPUTS)
        yield "probe_json", json.dumps(golden).encode()
        yield "probe_json", json.dumps(_chained(golden)).encode()


def _chained(golden: dict[str, Any]) -> dict[str, Any]:
    """The answers of a probe as format 1 writes them."""
    size = {"height": 16, "width": 16, "frames": 1}
    wish = {"prompt": "a", "seed": 1, "steps": 1, "guidance": 1.0, **size}
    expected = {name: next(iter(stage["answers"].values())) for name, stage in golden["stages"].items()}
    tolerance = {"default": dict.fromkeys(expected, 0.01)}
    return {"format": 1, "inputs": wish, "expected": expected, "tolerance": tolerance}


def _home() -> Iterator[tuple[str, bytes]]:
    """What a home keeps for itself."""
    record = struct.pack("<BI", 1, 2) + struct.pack("<2I", 5, 6)
    head = b"P2PJ\x01\x00\x00\x00" + _D + bytes(32)
    clean = struct.pack("<BI", 2, 1) + struct.pack("<QQQqq", 1, 2, 3, 4, 5)
    yield "journal", head + b"".join(part + struct.pack("<I", zlib.crc32(part)) for part in (record, clean))
    key = str(PUBLISHER.verify_key)
    bound = {"acme/*": key, "acme/wan": key, "other/tiny*": key}
    yield "trust_file", json.dumps({"entries": bound, "format": 1}).encode()
    yield "floors_file", json.dumps({"floors": {"acme/wan:latest": [3, str(_D)]}, "format": 1}).encode()
    yield "key_file", b"p2psync-secret-ed25519:%s\n" % bytes(PUBLISHER).hex().encode()
    yield "control_request", b'{"verb":"pull","args":{"reference":"acme/wan","sources":[]}}\n'
    told = {"code": "not_found", "message": "m", "hint": None, "exit_code": 3, "facts": {"pid": 7, "offset": None}}
    for answer in ('{"result": {}}', '{"event": {"a": 1}}', json.dumps({"error": told})):
        yield "control_answer", answer.encode() + b"\n"
    target = {"path": "/nowhere", "reference": "acme/wan", "digest": str(_D), "variant": "", "backend": "ort-cpu"}
    yield "pointer_file", json.dumps({"format": 1, **target}).encode()
    yield "generations_log", b'{"outcome":"done","seconds":1.5}\n{"outcome":"not_found"}\n[1]\n{"cut'
    yield "quality_json", json.dumps(_quality()).encode()
    yield "index_file", b""
    yield "index_file", struct.pack("<HB", 700, 9)
    # A path, and the size of a file.
    yield "index_file", b"\xff\xff\xff" + bytes([18, 1]) + b"other"
    yield "index_file", b"\xff\xff\xff" + bytes([10, 2]) + b"\x05\x00\x00"
    yield "checkpoint_configs", b"\x00".join(json.dumps(config).encode() for config in _checkpoint())
    tree = build_tree(sample_manifest())
    nodes = [tree.nodes[tree.root], *(node for digest, node in tree.nodes.items() if digest != tree.root)]
    yield "nodes_file", b"P2PN\x01" + b"".join(struct.pack("<I", len(node)) + node for node in nodes)
    kept = b"an encoded chunk"
    yield "kept_pack", struct.pack("<II", 9, len(kept)) + Digest.of(kept) + kept


def _quality() -> dict[str, object]:
    floors = {"ssim": 0.9, "ssim_least": 0.8, "ssim_floor": 0.7, "accuracy": None, "accuracy_floor": 0.5}
    return {"format": 1, "variant": "int8", "reference": "fp16", "clips": 3, **floors, "layers": [["a", 0.1]]}


def _checkpoint() -> Iterator[dict[str, object]]:
    """The numbers of Wan2.2's 14 B checkpoint that an estimate takes."""
    yield {"_class_name": "WanPipeline", "boundary_ratio": 0.875}
    expert = {"num_attention_heads": 40, "attention_head_dim": 128, "num_layers": 40, "ffn_dim": 13824}
    yield {**expert, "in_channels": 16, "patch_size": [1, 2, 2], "text_dim": 4096, "freq_dim": 256}
    yield {"d_model": 4096, "d_ff": 10240, "num_heads": 64, "d_kv": 64, "num_layers": 24, "vocab_size": 256384}
    yield {"base_dim": 96, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}


def main() -> None:
    """Write them, under the digest of their bytes."""
    for name, data in seeds():
        assert name in TARGETS
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / Digest.of(data).hex()[:16]).write_bytes(data)


if __name__ == "__main__":
    main()
