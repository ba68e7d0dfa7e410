"""The forms of one graph: what a backend knows as one operator, it gets as one; for the others it is written out.

Every form of a graph reads the same weights file. ``portable`` runs wherever the standard operators do and computes in
float32. ``fused`` is for ONNX Runtime on CUDA: attention and norms as its own operators, in float16. Weights that only
enter products are stored as float16 in both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from p2psync.compress.graphs import DOMAIN
from p2psync.compress.tensors import Source
from p2psync.compress.trace import Graph
from p2psync.errors import UnsupportedModelError

# The operators through which a weight is a factor of products that are summed; elsewhere (norms, tables, biases) a
# rounding to 11 bits of mantissa would save nothing.
_PRODUCTS: Final = frozenset({"MatMul", "Gemm", "Conv", "Gather"})
_MICROSOFT: Final = "com.microsoft"

Expand = Callable[[onnx.NodeProto, "Writer"], None]


class Writer:
    """Nodes in order, with fresh names for what is between them."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._prefix = prefix

    def add(self, op: str, inputs: Sequence[str], output: str = "", domain: str = "", **attributes: Any) -> str:
        """Append a node and return the name of its output, a fresh one unless given."""
        name = output or f"{self._prefix}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], domain=domain, **attributes))
        return name

    def constant(self, values: NDArray[np.generic]) -> str:
        """A small constant that stays in the skeleton; equal ones are one."""
        array = np.ascontiguousarray(values)
        shape = "x".join(map(str, array.shape))
        name = f"{self._prefix}c_{array.dtype.name}_{shape}_{array.tobytes().hex()}"
        if all(known.name != name for known in self.initializers):
            self.initializers.append(onnx.numpy_helper.from_array(array, name))
        return name


def portable(graph: Graph) -> Graph:
    """Attention and norms of ``graph`` in standard operators; weights as they are."""
    table = {"Attention": _attention_written_out, "RMSNorm": _norm_written_out, "Rotate": _rotation_written_out}
    return _expanded(graph, table)


def fused(graph: Graph) -> Graph:
    """Attention and norms of ``graph`` as single operators of ONNX Runtime, computed in float32."""
    return _expanded(graph, {"Attention": _attention_node, "RMSNorm": _norm_node, "Rotate": _rotation_node})


def store_half(graph: Graph) -> Graph:
    """Store weights of products as float16 and widen them where they are used.

    Raises:
        UnsupportedModelError: when a weight is written that float16 cannot hold.
    """
    fresh = graph.copy()
    stored = store_half_weights(fresh)
    casts = []
    for name in sorted(stored):
        replace_input(fresh.proto.graph.node, name, f"{name}/wide")
        casts.append(helper.make_node("Cast", [name], [f"{name}/wide"], to=TensorProto.FLOAT))
    set_nodes(fresh.proto.graph, [*casts, *fresh.proto.graph.node])
    return fresh


def store_half_weights(graph: Graph) -> set[str]:
    """Declare the weights of products as float16, in place, and say which; the nodes still read them as they did."""
    users = consumers(graph.proto.graph.node)
    stored = set()
    for tensor in graph.proto.graph.initializer:
        if tensor.name in graph.tensors and _may_round(tensor, users[tensor.name]):
            graph.tensors[tensor.name] = half_source(tensor.name, graph.tensors[tensor.name])
            tensor.data_type = TensorProto.FLOAT16
            stored.add(tensor.name)
    return stored


def half_source(name: str, source: Source) -> Source:
    """``source`` rounded to the nearest float16; refuses, when it is read, what float16 cannot hold."""

    def read() -> NDArray[np.generic]:
        wide = source.read()
        with np.errstate(over="ignore"):
            half = wide.astype(np.float16)
        if not np.isfinite(half).all():
            kind = "values beyond float16" if np.isfinite(wide).all() else "NaN or infinity"
            raise UnsupportedModelError(f"tensor {name} holds {kind}")
        return half

    return Source("F16", source.shape, read)


def consumers(nodes: Iterable[onnx.NodeProto]) -> defaultdict[str, list[onnx.NodeProto]]:
    """The nodes that read each name."""
    users: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in nodes:
        for name in dict.fromkeys(node.input):
            users[name].append(node)
    return users


def replace_input(nodes: Iterable[onnx.NodeProto], old: str, new: str) -> None:
    """Let ``nodes`` read ``new`` where they read ``old``."""
    for node in nodes:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new


def _may_round(tensor: TensorProto, users: Sequence[onnx.NodeProto]) -> bool:
    return (
        tensor.data_type == TensorProto.FLOAT
        and len(tensor.dims) >= 2
        and bool(users)
        and all(user.op_type in _PRODUCTS for user in users)
    )


def _expanded(graph: Graph, table: Mapping[str, Expand]) -> Graph:
    fresh = graph.copy()
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, TensorProto] = {}
    for number, node in enumerate(fresh.proto.graph.node):
        if node.domain != DOMAIN:
            nodes.append(node)
            continue
        writer = Writer(f"x{number}")
        table[node.op_type](node, writer)
        nodes.extend(writer.nodes)
        constants.update({tensor.name: tensor for tensor in writer.initializers})
    set_nodes(fresh.proto.graph, nodes)
    fresh.proto.graph.initializer.extend(constants.values())
    _set_domains(fresh.proto)
    return fresh


def set_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Replace the nodes of ``graph``, which may be among ``nodes``, and number them anew."""
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    graph.ClearField("node")
    graph.node.extend(kept)
    for number, node in enumerate(graph.node):
        node.name = f"n{number}"


def _set_domains(proto: onnx.ModelProto) -> None:
    """Import exactly the operator sets that are used."""
    known = {entry.domain: entry.version for entry in proto.opset_import}
    used = sorted({node.domain for node in proto.graph.node} | {""})
    proto.ClearField("opset_import")
    proto.opset_import.extend(helper.make_opsetid(domain, known.get(domain, 1)) for domain in used)


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    return next(helper.get_attribute_value(a) for a in node.attribute if a.name == name)


def _attention_written_out(node: onnx.NodeProto, writer: Writer) -> None:
    heads, scale = _attribute(node, "heads"), _attribute(node, "scale")
    split = writer.constant(np.array([0, 0, heads, -1]))
    query, key, value = (writer.add("Reshape", [name, split]) for name in node.input)
    query = writer.add("Mul", [query, writer.constant(np.array(scale, np.float32))])
    query = writer.add("Transpose", [query], perm=[0, 2, 1, 3])
    key = writer.add("Transpose", [key], perm=[0, 2, 3, 1])
    value = writer.add("Transpose", [value], perm=[0, 2, 1, 3])
    weights = writer.add("Softmax", [writer.add("MatMul", [query, key])], axis=-1)
    mixed = writer.add("Transpose", [writer.add("MatMul", [weights, value])], perm=[0, 2, 1, 3])
    writer.add("Reshape", [mixed, writer.constant(np.array([0, 0, -1]))], node.output[0])


def _norm_written_out(node: onnx.NodeProto, writer: Writer) -> None:
    """In the order in which ONNX Runtime recognises the norm and fuses it."""
    hidden, weight = node.input
    square = writer.add("Pow", [hidden, writer.constant(np.array(2, np.float32))])
    mean = writer.add("ReduceMean", [square, writer.constant(np.array([-1]))], keepdims=1)
    root = writer.add(
        "Sqrt", [writer.add("Add", [mean, writer.constant(np.array(_attribute(node, "epsilon"), np.float32))])]
    )
    writer.add("Mul", [writer.add("Div", [hidden, root]), weight], node.output[0])


def _rotation_written_out(node: onnx.NodeProto, writer: Writer) -> None:
    packed, *tables = node.input
    pairs = writer.add("Reshape", [packed, writer.constant(np.array([0, 0, _attribute(node, "heads"), -1, 2]))])
    cos, sin = (writer.add("Unsqueeze", [table, writer.constant(np.array([1, 3]))]) for table in tables)
    first, second = (writer.add("Gather", [pairs, writer.constant(np.array([place]))], axis=4) for place in (0, 1))
    left = writer.add("Sub", [writer.add("Mul", [first, cos]), writer.add("Mul", [second, sin])])
    right = writer.add("Add", [writer.add("Mul", [first, sin]), writer.add("Mul", [second, cos])])
    turned = writer.add("Concat", [left, right], axis=-1)
    writer.add("Reshape", [turned, writer.constant(np.array([0, 0, -1]))], node.output[0])


def _attention_node(node: onnx.NodeProto, writer: Writer) -> None:
    heads, scale = _attribute(node, "heads"), _attribute(node, "scale")
    writer.add("MultiHeadAttention", node.input, node.output[0], _MICROSOFT, num_heads=heads, scale=scale)


def _norm_node(node: onnx.NodeProto, writer: Writer) -> None:
    epsilon = _attribute(node, "epsilon")
    writer.add("SimplifiedLayerNormalization", node.input, node.output[0], axis=-1, epsilon=epsilon, stash_type=1)


def _rotation_node(node: onnx.NodeProto, writer: Writer) -> None:
    packed, cos, sin = node.input
    start = writer.constant(np.array([0]))
    writer.add(
        "RotaryEmbedding",
        [packed, start, cos, sin],
        node.output[0],
        _MICROSOFT,
        interleaved=1,
        num_heads=_attribute(node, "heads"),
    )
