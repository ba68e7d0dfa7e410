"""A manifest of the shape of Wan2.2-T2V-A14B: its two experts, 57 GB, without one byte of weights.

Tensor names, shapes and their order are those that diffusers writes; every digest is the BLAKE3 of a generated id, so a
seed names one version and two seeds share no chunk. Nothing here reads or writes a file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator

from p2psync.content import BlobKind, Digest, FileFormat, grid_lengths
from p2psync.manifest import Blob, ChunkList, File, Manifest

EXPERTS = ("transformer", "transformer_2")
BLOCKS = 40
WIDTH = 5120
FFN_WIDTH = 13_824
CHANNELS = 16
TEXT_WIDTH = 4096
FREQUENCIES = 256
PATCH = (1, 2, 2)
TENSORS_PER_EXPERT = 1095
PARAMETERS_PER_EXPERT = 14_288_491_584
_BF16_BYTES = 2

Shape = tuple[int, ...]


def expert_tensors() -> Iterator[tuple[str, Shape]]:
    """(name, shape in elements) of each tensor of one expert, in the order of its module."""
    yield "scale_shift_table", (1, 2, WIDTH)
    yield "patch_embedding.weight", (WIDTH, CHANNELS, *PATCH)
    yield "patch_embedding.bias", (WIDTH,)
    yield from _linear("condition_embedder.time_embedder.linear_1", FREQUENCIES, WIDTH)
    yield from _linear("condition_embedder.time_embedder.linear_2", WIDTH, WIDTH)
    yield from _linear("condition_embedder.time_proj", WIDTH, 6 * WIDTH)
    yield from _linear("condition_embedder.text_embedder.linear_1", TEXT_WIDTH, WIDTH)
    yield from _linear("condition_embedder.text_embedder.linear_2", WIDTH, WIDTH)
    for number in range(BLOCKS):
        yield from _block(f"blocks.{number}")
    yield from _linear("proj_out", WIDTH, CHANNELS * math.prod(PATCH))


def wan_manifest(seed: int, changed: frozenset[str] = frozenset()) -> Manifest:
    """Both experts in BF16, one safetensors file each, with their small configuration files.

    Args:
        seed: Names the version: every digest depends on it.
        changed: Tensors, as ``transformer/NAME``, whose bytes differ from those of the same seed without them.
    """
    files = [_text_file("model_index.json", seed)]
    for expert in EXPERTS:
        files += [_text_file(f"{expert}/config.json", seed), _expert_file(expert, seed, changed)]
    return Manifest(tuple(sorted(files, key=lambda file: file.path.encode())))


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _block(block: str) -> Iterator[tuple[str, Shape]]:
    yield f"{block}.scale_shift_table", (1, 6, WIDTH)
    for attention in ("attn1", "attn2"):
        for linear in ("to_q", "to_k", "to_v", "to_out.0"):
            yield from _linear(f"{block}.{attention}.{linear}", WIDTH, WIDTH)
        yield f"{block}.{attention}.norm_q.weight", (WIDTH,)
        yield f"{block}.{attention}.norm_k.weight", (WIDTH,)
    yield f"{block}.norm2.weight", (WIDTH,)
    yield f"{block}.norm2.bias", (WIDTH,)
    yield from _linear(f"{block}.ffn.net.0.proj", WIDTH, FFN_WIDTH)
    yield from _linear(f"{block}.ffn.net.2", FFN_WIDTH, WIDTH)


def _expert_file(expert: str, seed: int, changed: frozenset[str]) -> File:
    header: dict[str, object] = {}
    tensors: list[Blob] = []
    offset = 0
    for name, shape in expert_tensors():
        length = math.prod(shape) * _BF16_BYTES
        version = "changed" if f"{expert}/{name}" in changed else ""
        chunks = _chunks(f"{seed}/{expert}/{name}/{version}", length)
        tensors.append(Blob(BlobKind.TENSOR, length, chunks, name, "BF16", shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + length]}
        offset += length
    header_bytes = 8 + -(-len(json.dumps(header, separators=(",", ":"))) // 8) * 8
    blobs = (Blob(BlobKind.HEADER, header_bytes, _chunks(f"{seed}/{expert}/header", header_bytes)), *tensors)
    path = f"{expert}/diffusion_pytorch_model.safetensors"
    size = header_bytes + offset
    return File(path, size, _sha256(f"{seed}/{path}"), FileFormat.SAFETENSORS, blobs)


def _text_file(path: str, seed: int) -> File:
    size = 460
    blob = Blob(BlobKind.BYTES, size, _chunks(f"{seed}/{path}", size))
    return File(path, size, _sha256(f"{seed}/{path}"), FileFormat.BYTES, (blob,))


def _chunks(identity: str, length: int) -> ChunkList:
    digests = (Digest.of(f"{identity}/{number}".encode()) for number, _ in enumerate(grid_lengths(length)))
    return ChunkList(b"".join(digests))


def _sha256(identity: str) -> bytes:
    return hashlib.sha256(identity.encode()).digest()
