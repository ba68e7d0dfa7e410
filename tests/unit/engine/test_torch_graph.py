"""A skeleton is read without the library that wrote it, and without torch."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from p2psync.engine.torch_graph import Constant, read, read_file
from p2psync.errors import IncompleteModelError, UnsupportedModelError
from tests.unit.engine.tiny_engine import constant


def model(nodes, *, opset=20, initializers=(), inputs=("x",), **extra):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in inputs]
    graph = helper.make_graph(list(nodes), "g", values, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    graph.initializer.extend(initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9, **extra)


def parsed(proto, folder):
    return read(memoryview(proto.SerializeToString()), "m.onnx", folder)


def values_of(made):
    """The array of a constant."""
    return np.frombuffer(bytes(made.data), made.dtype).reshape(made.dims)


def test_a_real_skeleton(shared_engine):
    """Border, nodes in order, and constants inside and outside, as onnx reads them."""
    for path in sorted(shared_engine.glob("*.onnx")):
        found, proto = read_file(path), onnx.load(path, load_external_data=False).graph
        assert [t.name for t in found.inputs] == [value.name for value in proto.input]
        assert [t.name for t in found.outputs] == [value.name for value in proto.output]
        assert [(n.operator, n.inputs, n.outputs) for n in found.nodes] == [
            (n.op_type, tuple(n.input), tuple(n.output)) for n in proto.node
        ]
        for tensor in onnx.load(path).graph.initializer:
            made = found.constants[tensor.name]
            assert made.dims == tuple(tensor.dims)
            if made.file is not None:
                data = made.file.read_bytes()[made.offset :][: numpy_helper.to_array(tensor).nbytes]
                made = Constant(made.dtype, made.dims, data)
            assert np.array_equal(values_of(made), numpy_helper.to_array(tensor))
    assert found.inputs[0].dims == ("b", "s")
    assert found.inputs[0].dtype == "int64"


def test_attributes(tmp_path):
    """Numbers, texts, lists of them and tensors; a domain stands before a colon."""
    attributes = {
        "i": -3,
        "f": 0.5,
        "s": "text",
        "ints": [1, -(2**63), 2**63 - 1],
        "floats": [0.25, -1.0],
        "strings": ["a", "b"],
        "t": constant("", np.arange(6, dtype=np.int64).reshape(2, 3)),
    }
    node = helper.make_node("Op", ["x", "", "x"], ["y"], domain="com.microsoft", **attributes)
    made = parsed(model([node]), tmp_path).nodes[0]
    assert made.operator == "com.microsoft:Op"
    assert made.inputs == ("x", "", "x")
    tensor = made.attributes["t"]
    assert np.array_equal(values_of(tensor), np.arange(6).reshape(2, 3))
    assert {key: made.attributes[key] for key in attributes if key != "t"} == {
        **{key: attributes[key] for key in ("i", "f", "s")},
        **{key: tuple(attributes[key]) for key in ("ints", "floats", "strings")},
    }


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["float32", "float16", "int64", "int32", "int8", "uint8", "bool"]), st.integers(0, 5), st.booleans()
)
def test_constants_of_every_type(tmp_path_factory, dtype, length, raw):
    """Values stand as raw bytes or in a field of their own type; both are read."""
    array = (np.arange(length) - 2).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    data = array.tobytes() if raw else array.tolist()
    tensor = helper.make_tensor("c", kind, array.shape, data, raw=raw)
    made = parsed(model([], initializers=[tensor]), tmp_path_factory.getbasetemp()).constants["c"]
    assert made.dtype == dtype
    assert np.array_equal(values_of(made), array)


def test_constants_are_no_inputs(tmp_path):
    """Old files name their constants as inputs too."""
    proto = model([], inputs=("x", "c"), initializers=[constant("c", np.zeros((1, 3), np.float32))])
    assert [tensor.name for tensor in parsed(proto, tmp_path).inputs] == ["x"]


@pytest.mark.parametrize("opset", [16, 21])
def test_other_operator_sets_are_refused(tmp_path, opset):
    """What an operator means is its set's business: one that is not known is refused by number."""
    with pytest.raises(UnsupportedModelError, match=f"operator set {opset}"):
        parsed(model([], opset=opset), tmp_path)


def test_what_no_skeleton_holds_is_refused(tmp_path):
    """Subgraphs, functions and types without values here are refused."""
    inner = model([helper.make_node("Identity", ["x"], ["y"])]).graph
    branch = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    function = helper.make_function("d", "f", ["x"], ["y"], [], [helper.make_opsetid("", 20)])
    text = helper.make_tensor("c", TensorProto.STRING, [1], [b"text"])
    for proto, why in (
        (model([branch]), "holds a graph"),
        (model([], functions=[function]), "functions of its own"),
        (model([], initializers=[text]), "data type 8"),
    ):
        with pytest.raises(UnsupportedModelError, match=why):
            parsed(proto, tmp_path)


def test_files_that_are_not_there(shared_engine, tmp_path):
    """A missing skeleton, or one without its weights, is incomplete; an empty one is no graph."""
    with pytest.raises(IncompleteModelError, match="no model"):
        read_file(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_bytes((shared_engine / "text.onnx").read_bytes())
    with pytest.raises(IncompleteModelError, match=r"text\.onnx.*text\.safetensors is missing"):
        read_file(tmp_path / "text.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(UnsupportedModelError, match=r"empty\.onnx"):
        read_file(tmp_path / "empty.onnx")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_is_an_error_of_ours(shared_engine, data):
    """Whatever bytes a file has, what comes out is a graph or one of our errors."""
    whole = bytearray((shared_engine / "decode_next.onnx").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for damaged in (whole, whole[:cut]):
        try:
            read(memoryview(bytes(damaged)), "m.onnx", shared_engine)
        except (UnsupportedModelError, IncompleteModelError) as error:
            assert "m.onnx" in error.message  # noqa: PT017 - a graph is as good
