"""A part on disk: skeletons of tens of kilobytes and the one weights file that they map."""

from __future__ import annotations

import mmap
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from p2psync import disk
from p2psync.compress.forms import consumers
from p2psync.compress.tensors import Source, Spot, write_tensors
from p2psync.compress.trace import Graph, Port
from p2psync.content import Digest
from p2psync.errors import MalformedError


@dataclass(frozen=True, slots=True)
class Written:
    """One skeleton and its weights, by file name within their directory, with the digests of the whole files."""

    skeleton: str
    weights: str
    skeleton_digest: Digest
    weights_digest: Digest
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def write_part(directory: str, weights: str, graphs: Mapping[str, Graph]) -> dict[str, Written]:
    """Write the graphs of a part beside the weights that they share.

    Args:
        directory: Where to; it must exist.
        weights: Name of the safetensors file.
        graphs: Skeletons by file name.

    Returns:
        For each skeleton what was written.

    Raises:
        MalformedError: two graphs mean different tensors by one name.
    """
    merged: dict[str, Source] = {}
    for graph in graphs.values():
        used = consumers(graph.proto.graph.node)
        for name, source in graph.tensors.items():
            if not used[name]:
                continue
            known = merged.setdefault(name, source)
            if (known.dtype, known.shape) != (source.dtype, source.shape):
                raise MalformedError(f"tensor {name} is {known.dtype} {known.shape} and {source.dtype} {source.shape}")
    places = write_tensors(os.path.join(directory, weights), merged)
    weights_digest = file_digest(os.path.join(directory, weights))
    written = {}
    for name, graph in graphs.items():
        data = _bound(graph, weights, places)
        disk.write_new(Path(directory, name), data)
        written[name] = Written(
            name, weights, Digest.of(data), weights_digest, tuple(graph.inputs()), tuple(graph.outputs())
        )
    return written


def file_digest(path: str) -> Digest:
    """BLAKE3 of a whole file, through a map: no copy of it in memory."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return Digest.of(b"")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return Digest.of(memoryview(view))


def _bound(graph: Graph, weights: str, places: Mapping[str, Spot]) -> bytes:
    """The skeleton's bytes: each large tensor points to its place in the weights file, none is inside.

    ONNX external data: https://github.com/onnx/onnx/blob/main/docs/ExternalData.md. The location is a bare file name,
    since a runtime refuses data outside the model's directory.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    users = consumers(proto.graph.node)
    kept = [tensor for tensor in proto.graph.initializer if users[tensor.name]]
    fresh = [_pointing(t, weights, places[t.name]) if t.name in graph.tensors else t for t in kept]
    copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in fresh]
    proto.graph.ClearField("initializer")
    proto.graph.initializer.extend(sorted(copies, key=lambda tensor: tensor.name))
    _shorten(proto.graph, {*graph.tensors, *(value.name for value in (*proto.graph.input, *proto.graph.output))})
    return bytes(proto.SerializeToString(deterministic=True))


def _shorten(graph: onnx.GraphProto, meant: Collection[str]) -> None:
    """Number every name that nobody outside the graph uses: names are half of a skeleton, and tell how it was made."""
    short: dict[str, str] = {"": ""}

    def name_of(name: str) -> str:
        if name in meant:
            return name
        return short.setdefault(name, f"_{len(short)}")

    for tensor in graph.initializer:
        tensor.name = name_of(tensor.name)
    for node in graph.node:
        node.ClearField("name")
        for names in (node.input, node.output):
            names[:] = [name_of(name) for name in names]


def _pointing(tensor: TensorProto, weights: str, place: Spot) -> TensorProto:
    fresh = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    fresh.data_location = TensorProto.EXTERNAL
    for key, value in (("location", weights), ("offset", place.offset), ("length", place.size_bytes)):
        fresh.external_data.add(key=key, value=str(value))
    return fresh
