"""What is said about bytes is bytes too: a manifest of Wan2.2's shape, the head, asking whether anything changed."""

from __future__ import annotations

import shutil
import time
import urllib.request
from dataclasses import replace
from typing import Any

from blake3 import blake3

import command
from benchmarks import measure, models
from benchmarks.counting_proxy import CountingProxy
from benchmarks.report import Bench, Group, Row
from p2psync.content import BlobKind, FileFormat
from p2psync.limits import CHUNK_BYTES, GIB, HEAD_BYTES_MAX
from p2psync.manifest import Blob, ChunkList, File, Manifest, build_tree, read_tree

_BYTES_PER_GIB_MAX = 37_000
_BYTES_PER_TENSOR_MAX = 120
_SECONDS_MAX = 2.0
_UNCHANGED_BYTES_MAX = 1_000
# BitTorrent v2 at pieces of 1 MiB, unsigned, measured for the same bytes.
_TORRENT_BYTES_PER_GIB = 33_022

_WIDTH, _FFN, _TEXT, _FREQUENCIES, _LAYERS = 5120, 13824, 4096, 256, 40


def signed_words(bench: Bench) -> Group:
    """Measure the manifest in this process, and an unchanged pull through a counting relay."""
    manifest = wan_manifest()
    tensors = sum(blob.kind is BlobKind.TENSOR for file in manifest.files for blob in file.blobs)
    runs: list[dict[str, Any]] = []
    for number in range(bench.rounds):
        began = time.perf_counter()
        tree = build_tree(manifest)
        written = time.perf_counter()
        if read_tree(tree.root, tree.nodes.get) != manifest:
            raise RuntimeError("the manifest that was read is not the one that was written")
        read = time.perf_counter()
        runs.append({"round": number, "what": "manifest", "write_s": written - began, "read_s": read - written})
    node_bytes = sum(map(len, tree.nodes.values()))
    changed = build_tree(_with_one_tensor_changed(manifest))
    new = [node for digest, node in changed.nodes.items() if digest not in tree.nodes]
    unchanged = [_unchanged(bench, number) for number in range(bench.rounds)]
    runs += unchanged
    shape = {
        "bytes": manifest.size,
        "tensors": tensors,
        "nodes": len(tree.nodes),
        "node_bytes": node_bytes,
        "bytes_allowed": round(manifest.size / GIB * _BYTES_PER_GIB_MAX + tensors * _BYTES_PER_TENSOR_MAX),
        "new_nodes_after_one_tensor": len(new),
        "new_node_bytes_after_one_tensor": sum(map(len, new)),
    }
    return _group(runs, shape, unchanged)


def _group(runs: list[dict[str, Any]], shape: dict[str, Any], unchanged: list[dict[str, Any]]) -> Group:
    both = measure.summary([run["write_s"] + run["read_s"] for run in runs if run["what"] == "manifest"])
    asked = {what: max(run[what] for run in unchanged) for what in ("requests", "connections", "bytes", "head_bytes")}
    summary = {"wan_manifest": shape, "write_read_and_check_s": both, "unchanged": asked}
    per_gib = (shape["node_bytes"] - _BYTES_PER_TENSOR_MAX * shape["tensors"]) / (shape["bytes"] / GIB)
    table = [
        Row(
            "nothing changed: the whole conversation",
            "zchunk: one small file",
            f"{asked['requests']} request, {asked['bytes']} B both ways",
            "1 request, <= 1 KB",
            asked["requests"] == 1 and asked["bytes"] <= _UNCHANGED_BYTES_MAX,
        ),
        Row(
            "head, signature included",
            "",
            f"{asked['head_bytes']} B",
            f"<= {HEAD_BYTES_MAX} B",
            asked["head_bytes"] <= HEAD_BYTES_MAX,
        ),
        Row(
            f"manifest of {shape['bytes'] / 1e9:.0f} GB in {shape['tensors']:,} tensors",
            f"BitTorrent v2, unsigned, nameless: {_TORRENT_BYTES_PER_GIB:,} B per GiB",
            f"{shape['node_bytes']:,} B ({per_gib:,.0f} B per GiB + 120 B per tensor)",
            f"<= {shape['bytes_allowed']:,} B",
            shape["node_bytes"] <= shape["bytes_allowed"],
        ),
        Row(
            "the same, written, read and checked",
            "",
            f"{both['median']:.2f} s",
            "<= 2 s",
            both["median"] <= _SECONDS_MAX,
        ),
        Row(
            "the same, one tensor changed",
            "",
            f"{shape['new_nodes_after_one_tensor']} new nodes, {shape['new_node_bytes_after_one_tensor']:,} B",
            "its list, group, file, root",
            shape["new_nodes_after_one_tensor"] <= 4,
        ),
    ]
    return Group(runs, summary, table)


def _unchanged(bench: Bench, number: int) -> dict[str, Any]:
    """Pull a small model, pull it again through a relay, and count."""
    work = bench.folder("unchanged")
    models.write(work / "source" / "model.safetensors", models.transformer(1 << 24), bench.seed)
    publisher, node = command.Home(work / "publisher"), command.Home(work / "node")
    publisher.json("key", "new", "bench")
    bases: list[str] = []
    for _ in range(4):
        # Three bases make the longest head.
        answer = publisher.json("publish", str(work / "source"), "bench/small", "--key", "bench", *bases)
        bases += ["--base", answer["reference"]] if len(bases) < 6 else []
        (work / "source" / "version.txt").write_text(answer["digest"])
    node.json("trust", "add", "bench/*", publisher.text("key", "export", "bench").strip())
    with publisher.serve() as seed, CountingProxy(seed.url) as relay:
        node.json("pull", "bench/small", "--from", relay.url)
        before = (relay.requests, relay.connections, relay.bytes_asked, relay.bytes_answered)
        began = time.perf_counter()
        node.json("pull", "bench/small", "--from", relay.url)
        seconds = time.perf_counter() - began
        after = (relay.requests, relay.connections, relay.bytes_asked, relay.bytes_answered)
        with urllib.request.urlopen(f"{seed.url}/v1/heads/bench/small/tags/latest") as reply:
            head = reply.read()
    requests, connections, asked, answered = (b - a for a, b in zip(before, after, strict=True))
    found = {
        "round": number,
        "what": "nothing changed",
        "seconds": seconds,
        "requests": requests,
        "connections": connections,
        "bytes_asked": asked,
        "bytes_answered": answered,
        "bytes": asked + answered,
        "head_bytes": len(head),
    }
    shutil.rmtree(work)
    return found


def wan_manifest() -> Manifest:
    """Two experts of 1,095 BF16 tensors each, as Wan2.2-T2V-A14B has them; digests are those of generated ids."""
    return Manifest(tuple(_expert(name) for name in ("transformer", "transformer_2")))


def _expert(name: str) -> File:
    shapes = _wan_shapes()
    blobs = [_blob(name, "", BlobKind.HEADER, 100 * len(shapes))]
    for tensor, shape in sorted(shapes.items()):
        length = 2
        for side in shape:
            length *= side
        blobs.append(replace(_blob(name, tensor, BlobKind.TENSOR, length), dtype="BF16", shape=shape))
    size = sum(blob.length for blob in blobs)
    path = f"{name}/diffusion_pytorch_model.safetensors"
    return File(path, size, blake3(path.encode()).digest(), FileFormat.SAFETENSORS, tuple(blobs))


def _blob(expert: str, tensor: str, kind: BlobKind, length: int, version: int = 1) -> Blob:
    count = -(-length // CHUNK_BYTES)
    digests = b"".join(blake3(f"{expert}/{tensor}/{version}/{index}".encode()).digest() for index in range(count))
    return Blob(kind, length, ChunkList(digests), name=tensor)


def _wan_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "condition_embedder.text_embedder.linear_1.weight": (_WIDTH, _TEXT),
        "condition_embedder.text_embedder.linear_2.weight": (_WIDTH, _WIDTH),
        "condition_embedder.time_embedder.linear_1.weight": (_WIDTH, _FREQUENCIES),
        "condition_embedder.time_embedder.linear_2.weight": (_WIDTH, _WIDTH),
        "condition_embedder.time_proj.weight": (6 * _WIDTH, _WIDTH),
        "patch_embedding.weight": (_WIDTH, 16, 1, 2, 2),
        "proj_out.weight": (64, _WIDTH),
        "scale_shift_table": (1, 2, _WIDTH),
    }
    for layer in range(_LAYERS):
        block = f"blocks.{layer}."
        for attention in ("attn1", "attn2"):
            for part in ("to_q", "to_k", "to_v", "to_out.0"):
                shapes[f"{block}{attention}.{part}.weight"] = (_WIDTH, _WIDTH)
            shapes[f"{block}{attention}.norm_q.weight"] = (_WIDTH,)
            shapes[f"{block}{attention}.norm_k.weight"] = (_WIDTH,)
        shapes[f"{block}ffn.net.0.proj.weight"] = (_FFN, _WIDTH)
        shapes[f"{block}ffn.net.2.weight"] = (_WIDTH, _FFN)
        shapes[f"{block}norm2.weight"] = (_WIDTH,)
        shapes[f"{block}scale_shift_table"] = (1, 6, _WIDTH)
    # What multiplies a matrix also adds a bias; the two norms inside an attention do not.
    biased = [name for name in shapes if name.endswith(".weight") and ".norm_" not in name]
    for name in biased:
        shapes[name.removesuffix("weight") + "bias"] = (shapes[name][0],)
    return shapes


def _with_one_tensor_changed(manifest: Manifest) -> Manifest:
    first = manifest.files[0]
    place = next(i for i, blob in enumerate(first.blobs) if blob.name == "blocks.20.ffn.net.0.proj.weight")
    old = first.blobs[place]
    new = replace(old, chunks=_blob("transformer", old.name, old.kind, old.length, version=2).chunks)
    file = replace(first, blobs=(*first.blobs[:place], new, *first.blobs[place + 1 :]), sha256=bytes(32))
    return replace(manifest, files=(file, *manifest.files[1:]))
