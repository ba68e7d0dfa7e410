from __future__ import annotations

import json
from pathlib import Path

import pytest
from blake3 import blake3

from p2psync.content import BlobKind, ContentCutter, Digest, external_tensors, file_layout, grid_lengths
from p2psync.errors import IntegrityError

FOLDER = Path(__file__).parents[2] / "vectors" / "cutting"


def load(name):
    return json.loads((FOLDER / f"{name}.json").read_text())["files"]


def build(parts):
    """The bytes that a vector's parts describe (docs/format.md says how)."""
    pieces = []
    for part in parts:
        match part:
            case {"hex": digits}:
                pieces.append(bytes.fromhex(digits))
            case {"text": text}:
                pieces.append(text.encode())
            case {"byte": byte, "length": length}:
                pieces.append(bytes([byte]) * length)
            case {"blake3": label, "length": length}:
                pieces.append(blake3(label.encode()).digest(length))
    return b"".join(pieces)


def reader(data):
    return lambda offset, length: data[offset : offset + length]


def layout_of(vector):
    """A vector's bytes and layout, with the external tensors of its skeletons."""
    external = []
    for skeleton in vector.get("skeletons", []):
        text = build(skeleton["parts"])
        external += external_tensors(skeleton["name"], len(text), reader(text)).get(vector["name"], [])
    data = build(vector["parts"])
    return data, file_layout(vector["name"], len(data), reader(data), external)


def chunks_of(kind, data):
    if kind is BlobKind.BYTES:
        cutter = ContentCutter()
        return [bytes(chunk) for chunk in (*cutter.feed(data), *cutter.finish())]
    chunks = []
    for length in grid_lengths(len(data)):
        chunks.append(data[:length])
        data = data[length:]
    return chunks


FILES = [pytest.param(v, id=v["name"]) for name in ("bytes", "safetensors", "gguf", "onnx_data") for v in load(name)]


@pytest.mark.parametrize("vector", FILES)
def test_a_file_is_cut_as_it_always_was(vector):
    """Format, spans, chunk lengths and chunk digests of each frozen file stay what they are."""
    data, layout = layout_of(vector)
    assert (len(data), str(Digest.of(data))) == (vector["size"], vector["digest"])
    assert layout.format.name == vector["format"]
    position = 0
    for span, frozen in zip(layout.spans, vector["spans"], strict=True):
        assert span.kind is BlobKind[frozen["kind"]]
        assert (span.length, span.name, span.dtype, list(span.shape)) == (
            frozen["length"],
            frozen.get("name", ""),
            frozen.get("dtype", ""),
            frozen.get("shape", []),
        )
        chunks = chunks_of(span.kind, data[position : position + span.length])
        assert [[len(chunk), str(Digest.of(chunk))] for chunk in chunks] == frozen["chunks"]
        position += span.length


@pytest.mark.parametrize("vector", [pytest.param(v, id=v["name"]) for v in load("refused")])
def test_a_file_is_refused_as_it_always_was(vector):
    """Each frozen broken file stays refused."""
    data = build(vector["parts"])
    read = external_tensors if vector["name"].endswith(".onnx") else file_layout
    with pytest.raises(IntegrityError):
        read(vector["name"], len(data), reader(data))


def test_a_header_edit_moves_no_tensor_byte():
    """The two frozen safetensors files that differ in their header share every chunk of every tensor."""
    first, edited = load("safetensors")[:2]
    assert first["spans"][0] != edited["spans"][0]
    assert first["spans"][1:] == edited["spans"][1:]


def test_an_insertion_moves_few_chunks():
    """The two frozen files that differ by seven bytes at their start share all later chunks."""
    first, inserted = (v for v in load("bytes") if "random" in v["name"])
    assert first["spans"][0]["chunks"][1:] == inserted["spans"][0]["chunks"][1:]
