"""Graphs that torch does not run are refused by what is in them: when they are read, opened, or in their run."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from p2psync.engine import torch_backend
from p2psync.engine.torch_graph import read
from p2psync.errors import UnsupportedModelError

SQUARE = np.arange(16, dtype=np.float32).reshape(4, 4)


def value(name, kind=TensorProto.FLOAT, dims=(4, 4)):
    return helper.make_tensor_value_info(name, kind, dims)


def model(node=None, inputs=(), constants=()):
    """A model that adds x to itself, or makes y of it by a node, with more inputs and constants."""
    node = node or helper.make_node("Add", ["x", "x"], ["y"])
    graph = helper.make_graph([node], "g", [value("x"), *inputs], [value("y", dims=None)], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def with_sparse():
    made = model()
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    indices = numpy_helper.from_array(np.zeros(1, np.int64))
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 4]))
    return made.SerializeToString()


def with_typed(number, wire, content):
    """A model with one more node, one field of which has another type than it must have."""
    made = model()
    node = bytes([number << 3 | wire]) + content
    graph = made.graph.SerializeToString() + b"\x0a" + bytes([len(node)]) + node
    made.ClearField("graph")
    return made.SerializeToString() + b"\x3a" + bytes([len(graph)]) + graph


def with_version_as_text():
    made = model()
    made.ClearField("opset_import")
    return made.SerializeToString() + b"\x42\x04\x12\x02\x32\x30"


REFUSED = {
    "sparse tensors": (with_sparse(), "it has sparse tensors"),
    "an input of bfloat16": (
        model(inputs=[value("b", TensorProto.BFLOAT16)]).SerializeToString(),
        "tensor b has the data type 16, which cannot cross"),
    "an input of text": (
        model(inputs=[value("b", TensorProto.STRING)]).SerializeToString(), "tensor b has the data type 8"),
    "an operator that is a number": (with_typed(4, 0, b"\x01"), "a message is no message"),
    "an attribute whose kind is text": (with_typed(5, 2, b"\x05\xa2\x01\x02\x31\x37"), "a number is no number"),
    "a version that is text": (with_version_as_text(), "a number is no number"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_each_graph_is_refused_by_its_own_rule(case):
    """The file and what it holds are named, before anything is opened."""
    data, why = REFUSED[case]
    with pytest.raises(UnsupportedModelError, match=why) as caught:
        read(memoryview(data), "m.onnx", Path())
    assert caught.value.message.startswith("m.onnx is no graph that torch runs: ")


def opened(node, *constants):
    """A session of one node on the processors."""
    torch = pytest.importorskip("torch")
    data = memoryview(model(node, constants=constants).SerializeToString())
    return torch_backend.TorchSession(read(data, "m.onnx", Path()), "m.onnx", torch.device("cpu"), packed=False)


def test_an_operator_of_which_one_value_is_computed_gives_no_second():
    """What stands behind the first output is not computed, so whoever reads it is told when the graph is opened."""
    scale = numpy_helper.from_array(np.ones(4, np.float32), "scale")
    node = helper.make_node("LayerNormalization", ["x", "scale"], ["y", "mean"])
    with pytest.raises(UnsupportedModelError, match="operator LayerNormalization with 2 outputs"):
        opened(node, scale)


@pytest.mark.parametrize("place", [4, -5])
def test_a_place_that_is_not_there_ends_the_run(place):
    """No other value stands in for one that is not there."""
    at = numpy_helper.from_array(np.array(place), "at")
    session = opened(helper.make_node("Gather", ["x", "at"], ["y"]), at)
    with pytest.raises(UnsupportedModelError, match=f"{place} is no place on an axis of 4"):
        session.run({"x": SQUARE})
