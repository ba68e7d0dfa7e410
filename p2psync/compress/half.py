"""The float16 form of a fused graph, for a GPU: everything that grows with the clip is computed in float16.

What follows from the timestep alone stays in float32: the sines of up to a thousand radians need it, and it is a few
vectors. So do rotary angles, which are constants. Inputs and outputs stay float32, they are cast at the edge.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import onnx
from onnx import TensorProto, helper

from p2psync.compress.forms import set_nodes, store_half_weights
from p2psync.compress.trace import Graph

_TIMESTEP: Final = "timestep"
# Where the modulation of each block begins: from here on there is one vector per block.
_TABLE: Final = "scale_shift_table"
# They read a shape, whatever the type.
_TYPELESS: Final = frozenset({"Shape", "Size"})


def half(graph: Graph) -> Graph:
    """Compute an expert's fused graph in float16; weights of products are stored as float16.

    Args:
        graph: From ``forms.fused``, weights float32.

    Returns:
        A graph of the same inputs and outputs, which are still float32.
    """
    fresh = graph.copy()
    proto = fresh.proto.graph
    stored = store_half_weights(fresh)
    exact = _exact_tensors(proto)
    single = exact | _float_names(proto)
    nodes: list[onnx.NodeProto] = []
    for node in proto.node:
        if node.output[0] in exact:
            _cast_inputs(node, nodes, stored, TensorProto.FLOAT, "wide")
        elif node.op_type not in _TYPELESS:
            _cast_inputs(node, nodes, single, TensorProto.FLOAT16, "half")
            _narrow_cast(node)
        nodes.append(node)
    _widen_outputs(nodes, [value.name for value in proto.output])
    set_nodes(proto, nodes)
    return fresh


def _exact_tensors(graph: onnx.GraphProto) -> set[str]:
    """What follows from the timestep alone, before a block's own table is added."""
    sources: dict[str, frozenset[str]] = {value.name: frozenset({value.name}) for value in graph.input}
    sources |= {t.name: frozenset({_TABLE}) for t in graph.initializer if t.name.endswith(_TABLE)}
    exact: set[str] = set()
    for node in graph.node:
        found = frozenset[str]().union(*(sources.get(name, frozenset()) for name in node.input))
        for name in node.output:
            sources[name] = found
            if found == {_TIMESTEP}:
                exact.add(name)
    return exact


def _float_names(graph: onnx.GraphProto) -> set[str]:
    names = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    return names | {v.name for v in graph.input if v.type.tensor_type.elem_type == TensorProto.FLOAT}


def _cast_inputs(node: onnx.NodeProto, nodes: list[onnx.NodeProto], names: set[str], kind: int, label: str) -> None:
    """Let ``node`` read a cast of those of its inputs that are in ``names``; the cast is made once."""
    made = {other.output[0] for other in nodes if other.op_type == "Cast"}
    for place, name in enumerate(node.input):
        if name in names:
            cast = f"{name}/{label}"
            if cast not in made:
                made.add(cast)
                nodes.append(helper.make_node("Cast", [name], [cast], to=kind))
            node.input[place] = cast


def _narrow_cast(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16


def _widen_outputs(nodes: list[onnx.NodeProto], outputs: Iterable[str]) -> None:
    for output in outputs:
        for node in nodes:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    if name == output:
                        names[place] = f"{output}/half"
        nodes.append(helper.make_node("Cast", [f"{output}/half"], [output], to=TensorProto.FLOAT))
