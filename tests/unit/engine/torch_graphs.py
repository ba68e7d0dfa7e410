"""Graphs of a few nodes for the tests of the backend torch, opened or only rewritten. Whoever uses them has torch."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from p2psync.engine.torch_backend import Torch, TorchSession
from p2psync.engine.torch_graph import read


def graph_of(nodes, inputs, outputs, constants=()):
    """A graph as the backend reads it."""
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    proto = helper.make_graph(nodes, "g", inputs, given, initializer=list(constants))
    data = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()
    return read(memoryview(data), "a test", Path())


def opened(nodes, inputs, outputs, constants=(), device="cpu"):
    """A session over a graph."""
    graph = graph_of(nodes, inputs, outputs, constants)
    return TorchSession(graph, "a test", Torch(device)._device(), packed=False, threads=1)


def rewritten(nodes, constants, outputs, *, integers=False, halves=False):
    """The draft of a graph after its rewriting."""
    import torch

    from p2psync.engine.torch_program import _prepared
    from p2psync.engine.torch_rewrite import Draft, rewrite

    graph = graph_of(nodes, [], outputs)
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in constants.items()}
    draft = Draft([_prepared(node, "a test") for node in graph.nodes], tensors, tuple(outputs))
    rewrite(draft, integers=integers, halves=halves)
    return draft


def evaluated(draft, feeds):
    """The first output of a draft, node by node."""
    import torch

    from p2psync.engine.torch_ops import OPERATORS

    values = dict(draft.constants) | {name: torch.from_numpy(array) for name, array in feeds.items()}
    for node in draft.nodes:
        made = OPERATORS[node.operator](*(values[name] for name in node.inputs), **node.attributes)
        values[node.outputs[0]] = made
    return values[draft.outputs[0]].numpy()
