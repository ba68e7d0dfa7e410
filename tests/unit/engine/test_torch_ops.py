"""Every operator that torch runs gives what onnxruntime gives, on random inputs."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.unit.engine.tiny_engine import constant, onnx_type

torch = pytest.importorskip("torch", reason="torch is not installed (extra torch)")
onnxruntime = pytest.importorskip("onnxruntime")

from p2psync.engine.torch_backend import Torch, TorchSession  # noqa: E402 - after what may be missing
from p2psync.engine.torch_graph import read  # noqa: E402
from p2psync.engine.torch_ops import OPERATORS  # noqa: E402
from p2psync.errors import UnsupportedModelError  # noqa: E402

# By device, how far a float may be off: a GPU convolves in TF32.
BOUNDS = {"cpu": 2e-5} | ({"cuda": 2e-2} if torch.cuda.is_available() else {})
F32, F16, I64, I8, U8 = np.float32, np.float16, np.int64, np.int8, np.uint8
RANDOM = np.random.RandomState(7)


def some(*shape, dtype=F32, low=-2, high=2):
    return (RANDOM.random_sample(shape) * (high - low) + low).astype(dtype)


def ints(*values):
    return np.array(values, I64)


X = some(2, 3, 4, 5)
TOKENS = some(2, 6, 16)
CLIP = some(1, 4, 5, 6, 7)

# Operator, inputs, attributes. An input in a list is a constant of the graph; None is left out.
CASES = [
    *(
        (name, [X], {})
        for name in ("Abs", "Cos", "Erf", "Exp", "Neg", "Relu", "Sigmoid", "Sin", "Softmax", "Tanh", "Identity")
    ),
    *((name, [some(3, 4, low=0.1)], {}) for name in ("Log", "Sqrt", "Reciprocal")),
    *((name, [X, some(5)], {}) for name in ("Add", "Sub", "Mul", "Div", "Greater", "Less")),
    *((name, [ints(1, 2, 3), ints(3, 2, 1)], {}) for name in ("Equal", "GreaterOrEqual", "LessOrEqual", "Sub")),
    ("Div", [ints(-7, 7, -1, 9), ints(2)], {}),
    ("Div", [ints(-7, 7), ints(-2, -2)], {}),
    *((name, [X > 0, X > 1], {}) for name in ("And", "Or")),
    ("Not", [X > 0], {}),
    *((name, [X, some(4, 5), some(1)], {}) for name in ("Max", "Min", "Mean")),
    ("Pow", [X, [np.array(2, F32)]], {}),
    ("Pow", [some(3, 4, low=0.1), [np.array([0.5], F32)]], {}),
    ("Pow", [some(3, 4, low=0.1), some(4)], {}),
    ("Where", [X > 0, X, some(5)], {}),
    ("Clip", [X, np.array(-1, F32), np.array(1, F32)], {}),
    ("Clip", [X, None, [np.array(0.5, F32)]], {}),
    ("Clip", [X, [np.array(0.5, F32)]], {}),
    ("Gelu", [X], {"approximate": "tanh"}),
    ("Gelu", [X], {}),
    ("Softmax", [X], {"axis": 1}),
    *(("Cast", [X], {"to": kind}) for kind in (TensorProto.FLOAT16, TensorProto.INT64, TensorProto.BOOL)),
    ("Cast", [some(4, dtype=F16)], {"to": TensorProto.FLOAT}),
    ("ReduceMean", [X, [ints(-1)]], {}),
    ("ReduceMean", [X, [ints(1, 2)]], {"keepdims": 0}),
    ("ReduceMean", [X], {"noop_with_empty_axes": 1}),
    ("ReduceMean", [X], {}),
    ("ReduceL2", [X, [ints(1)]], {"keepdims": 1}),
    ("ReduceL2", [X], {"noop_with_empty_axes": 1}),
    ("Shape", [X], {}),
    ("Shape", [X], {"start": -3, "end": -1}),
    ("Reshape", [X, [ints(0, -1, 5)]], {}),
    ("Reshape", [some(0, 3), [ints(0, 7)]], {"allowzero": 1}),
    ("Expand", [some(3, 1), [ints(2, 1, 4)]], {}),
    ("Squeeze", [some(1, 3, 1), [ints(-1)]], {}),
    ("Squeeze", [some(1, 3, 1)], {}),
    ("Unsqueeze", [some(3, 4), [ints(-1, 0)]], {}),
    ("Transpose", [X], {"perm": [0, 2, 3, 1]}),
    ("Transpose", [X], {}),
    ("Concat", [X, X], {"axis": -2}),
    ("Split", [X, [ints(1, 3)]], {"axis": 2}),
    ("Split", [X], {"axis": -1, "num_outputs": 2}),
    ("Slice", [X, [ints(1)], [ints(2**62)]], {}),
    ("Slice", [X, [ints(0, -2)], [ints(-1, 9)], [ints(3, 2)], [ints(2, 1)]], {}),
    ("Slice", [X, [ints(-1)], [ints(-(2**62))], [ints(-1)], [ints(-2)]], {}),
    ("Slice", [X, [ints(3)], [ints(1)], [ints(2)]], {}),
    ("Gather", [X, [ints(1)]], {"axis": 2}),
    ("Gather", [X, [np.array(-1, I64)]], {"axis": -1}),
    ("Gather", [X, np.array([[0, -1], [2, 1]], I64)], {"axis": 1}),
    ("GatherND", [X, np.array([[0, 1], [-1, 2]], I64)], {"batch_dims": 0}),
    ("Range", [[np.array(2, I64)], [np.array(11, I64)], [np.array(3, I64)]], {}),
    ("Range", [[np.array(0, F32)], [np.array(1, F32)], [np.array(0.25, F32)]], {}),
    ("ConstantOfShape", [[ints(2, 3)]], {"value": helper.make_tensor("", TensorProto.INT64, [1], [4])}),
    ("ConstantOfShape", [[ints(2, 3)]], {}),
    ("Pad", [X, [ints(0, 1, 0, 2, 0, 0, 3, 1)]], {"mode": "constant"}),
    ("Pad", [X, [ints(1, 2)], [np.array(1.5, F32)], [ints(-1)]], {}),
    ("Pad", [X, [ints(0, 0, 0, -1, 0, 0, 0, -1)]], {}),
    (
        "Resize",
        [CLIP, None, [np.array([1, 1, 1, 2, 2], F32)]],
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", "antialias": 0},
    ),
    ("Resize", [X, None, [np.array([1, 1, 3, 4], F32)]], {"mode": "nearest"}),
    ("Resize", [X, None, None, [ints(2, 3, 8, 15)]], {"mode": "nearest"}),
    ("MatMul", [TOKENS, some(16, 8)], {}),
    ("MatMul", [X, some(2, 3, 5, 4)], {}),
    ("Gemm", [some(4, 3), some(5, 4), some(5)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [some(3, 4), some(4, 5)], {}),
    ("Conv", [CLIP, some(6, 4, 3, 3, 3), some(6)], {"pads": [2, 1, 1, 0, 1, 1], "kernel_shape": [3, 3, 3]}),
    ("Conv", [CLIP, some(6, 4, 3, 3, 3), some(6)], {"pads": [1, 1, 1, 1, 1, 1]}),
    ("Conv", [CLIP, some(6, 4, 1, 2, 2)], {"strides": [1, 2, 2], "auto_pad": "NOTSET"}),
    ("Conv", [CLIP, some(6, 4, 2, 2, 2)], {"strides": [2, 2, 2]}),
    ("Conv", [X, some(6, 1, 3, 3), some(6)], {"group": 3, "pads": [1, 0, 0, 1], "dilations": [1, 2]}),
    ("Conv", [some(2, 3, 9), some(4, 3, 3)], {"pads": [1, 1], "strides": [2]}),
    ("LayerNormalization", [TOKENS, some(16), some(16)], {"axis": -1, "epsilon": 1e-6, "stash_type": 1}),
    ("LayerNormalization", [X, some(4, 5)], {"axis": 2}),
    ("SimplifiedLayerNormalization", [TOKENS, some(16)], {"axis": -1, "epsilon": 1e-6, "stash_type": 1}),
    ("com.microsoft:MultiHeadAttention", [TOKENS, some(2, 9, 16), some(2, 9, 16)], {"num_heads": 4, "scale": 0.3}),
    ("com.microsoft:MultiHeadAttention", [TOKENS, TOKENS, TOKENS], {"num_heads": 2}),
    *(
        (
            "com.microsoft:RotaryEmbedding",
            [TOKENS, place, some(9, 4), some(9, 4)],
            {"interleaved": interleaved, "num_heads": 2},
        )
        for interleaved in (0, 1)
        for place in (ints(0), np.array([[0, 3, 1, 2, 5, 4], [1, 2, 3, 4, 5, 8]], I64))
    ),
    ("QuantizeLinear", [some(5, 8, low=-300, high=300), np.array(1, F32), [np.array(0, I8)]], {}),
    ("QuantizeLinear", [np.array([[0.5, 1.5, 2.5, -0.5, 300]], F32), np.array(1, F32), [np.array(7, U8)]], {}),
    ("QuantizeLinear", [some(4, 3), some(3, low=0.01, high=0.1), [np.array([0, 1, -2], I8)]], {"axis": 1}),
    ("QuantizeLinear", [some(4, 3, low=0), np.array(0.01, F32)], {}),
    ("DequantizeLinear", [some(4, 3, dtype=I8, low=-128, high=127), some(3), [np.array([0, 5, -9], I8)]], {"axis": 1}),
    ("DequantizeLinear", [some(4, 3, dtype=U8, low=0, high=255), np.array(0.1, F32), np.array(128, U8)], {}),
    ("DequantizeLinear", [some(4, 3, dtype=I8, low=-128, high=127), some(4)], {"axis": -2}),
]


def model(operator, inputs, attributes, *, opset=20):
    """A model of one operator, and its feeds. A list around an input makes it a constant."""
    domain, _, name = operator.rpartition(":")
    names = ["" if value is None else f"i{place}" for place, value in enumerate(inputs)]
    count = 2 if operator == "Split" else 1
    node = helper.make_node(name, names, [f"o{place}" for place in range(count)], domain=domain, **attributes)
    feeds = {key: value for key, value in zip(names, inputs, strict=True) if isinstance(value, np.ndarray)}
    constants = [constant(key, value[0]) for key, value in zip(names, inputs, strict=True) if isinstance(value, list)]
    takes = [helper.make_tensor_value_info(key, onnx_type(v.dtype), [None] * v.ndim) for key, v in feeds.items()]
    graph = helper.make_graph([node], "g", takes, [], initializer=constants)
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    made = helper.make_model(graph, opset_imports=imports, ir_version=10)
    # Types of outputs are inferred by onnxruntime; both want them named.
    kinds = output_kinds(operator, inputs, attributes)
    made.graph.output.extend(helper.make_tensor_value_info(f"o{place}", kinds, None) for place in range(count))
    return made.SerializeToString(), feeds


def output_kinds(operator, inputs, attributes):
    if operator == "Cast":
        return attributes["to"]
    if operator in {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}:
        return TensorProto.BOOL
    if operator == "Shape" or (operator == "ConstantOfShape" and attributes):
        return TensorProto.INT64
    if operator == "ConstantOfShape":
        return TensorProto.FLOAT
    if operator == "QuantizeLinear":
        return onnx_type(inputs[2][0].dtype) if len(inputs) > 2 else TensorProto.UINT8
    place = 1 if operator in {"Where", "DequantizeLinear"} else 0
    first = inputs[place]
    return onnx_type((first[0] if isinstance(first, list) else first).dtype)


def torch_run(data, feeds, *, packed=True, device="cpu"):
    session = TorchSession(read(memoryview(data), "a test", Path()), "a test", Torch(device)._device(), packed=packed)
    return session.run(feeds)


@pytest.mark.parametrize("device", BOUNDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_is_what_onnxruntime_gives(case, device):
    """Values, types and shapes; INT8 codes and integers are equal."""
    operator, inputs, attributes = case
    data, feeds = model(operator, inputs, attributes)
    wanted = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, feeds)
    for packed in (True, False):
        found = torch_run(data, feeds, packed=packed, device=device)
        assert [(a.dtype, a.shape) for a in found] == [(a.dtype, a.shape) for a in wanted]
        for ours, theirs in zip(found, wanted, strict=True):
            if ours.dtype.kind == "f":
                assert np.allclose(ours, theirs, rtol=BOUNDS[device], atol=BOUNDS[device])
            else:
                assert np.array_equal(ours, theirs)


def test_every_operator_is_compared():
    """No operator is run that is not compared with onnxruntime; those that are fused here are compared elsewhere."""
    compared = {case[0] for case in CASES}
    assert {name for name in OPERATORS if not name.startswith("torch:")} - compared == {"Constant"}


def test_axes_were_attributes_before_set_18():
    """ReduceMean of set 17 says its axes in an attribute."""
    data, feeds = model("ReduceMean", [X], {"axes": [1, -1], "keepdims": 0}, opset=17)
    assert np.allclose(torch_run(data, feeds)[0], X.mean((1, 3)), atol=1e-6)


def test_constants_are_values():
    """A Constant is what it says."""
    node = helper.make_node("Constant", [], ["c"], value=constant("", X))
    add = helper.make_node("Add", ["x", "c"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, X.shape) for name in ("x", "y")]
    graph = helper.make_graph([node, add], "g", values[:1], values[1:])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()
    assert np.array_equal(torch_run(data, {"x": X})[0], X + X)


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "named"),
    [
        ("Hardmax", [X], {}, "operator Hardmax"),
        ("com.microsoft:FusedGelu", [X], {}, "operator com.microsoft:FusedGelu"),
        ("Resize", [X, None, [np.array([1, 1, 2, 2], F32)]], {"mode": "linear"}, "Resize with mode=linear"),
        ("Pad", [X, [ints(0, 0, 0, 1, 0, 0, 0, 1)]], {"mode": "reflect"}, "Pad with mode=reflect"),
        ("Conv", [X, some(6, 3, 3, 3)], {"auto_pad": "SAME_UPPER"}, "Conv with auto_pad=SAME_UPPER"),
        ("Softmax", [X], {"temperature": 2.0}, "Softmax with temperature=2.0"),
        ("Gelu", [X, X], {}, "Gelu with 2 inputs"),
        (
            "com.microsoft:MultiHeadAttention",
            [TOKENS, TOKENS, TOKENS, some(48)],
            {"num_heads": 2},
            "MultiHeadAttention with 4 inputs",
        ),
    ],
)
def test_what_is_not_run_is_named_when_it_is_opened(operator, inputs, attributes, named):
    """An unknown operator, or a known one that asks for more, is an error before anything runs."""
    data, _ = model(operator, inputs, attributes)
    with pytest.raises(UnsupportedModelError, match=named):
        torch_run(data, {})


def test_resize_by_no_whole_number_is_an_error():
    """What is found out in a run is our error too."""
    data, feeds = model("Resize", [X, None, [np.array([1, 1, 1.5, 2], F32)]], {"mode": "nearest"})
    with pytest.raises(UnsupportedModelError, match="not whole numbers"):
        torch_run(data, feeds)
