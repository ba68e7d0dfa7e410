"""What the backend torch adds to what every backend keeps to: mapped weights, outputs of their own, fused operators."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from p2psync.engine.torch_backend import Torch
from p2psync.errors import BackendUnavailableError, IncompleteModelError, UnsupportedModelError
from tests.unit.engine.tiny_engine import constant, external
from tests.unit.engine.torch_graphs import evaluated, opened, rewritten

torch = pytest.importorskip("torch", reason="torch is not installed (extra torch)")

RANDOM = np.random.RandomState(3)
HERE = Torch("cpu")


def some(*shape, dtype=np.float32):
    return RANDOM.standard_normal(shape).astype(dtype)


def value(name, dims, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, dims)


def test_weights_are_mapped_and_packing_widens_them(tmp_path):
    """Half weights stay pages of their file unless they are packed; the answers are equal."""
    from safetensors.numpy import save_file

    weight, x = some(256, 256, dtype=np.float16), some(5, 256)
    save_file({"w": weight}, tmp_path / "m.safetensors")
    nodes = [
        helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "wide"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [value("x", ["n", 256])], [value("y", ["n", 256])])
    graph.initializer.append(external("w", weight, tmp_path / "m.safetensors"))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "m.onnx")
    mapped, packed = (HERE.open(tmp_path / "m.onnx", packed=flag, threads=1) for flag in (False, True))
    assert str(tmp_path / "m.safetensors") in Path("/proc/self/maps").read_text()
    assert mapped._program._constants["w"].dtype == torch.float16
    assert {tensor.dtype for tensor in packed._program._constants.values()} == {torch.float32}
    first, second = mapped.run({"x": x})[0], packed.run({"x": x})[0]
    assert np.array_equal(first, second)
    assert np.allclose(first, x @ weight.astype(np.float32), atol=1e-3)
    (tmp_path / "m.safetensors").write_bytes((tmp_path / "m.safetensors").read_bytes()[:-2])
    with pytest.raises(IncompleteModelError, match="tensor w is not whole"):
        HERE.open(tmp_path / "m.onnx", packed=False)


def test_outputs_are_nobody_elses():
    """What a step gives stays as it is when its input changes, and is no view of something bigger."""
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Slice", ["x", "zero", "one"], ["row"]),
        helper.make_node("Identity", ["c"], ["fixed"]),
    ]
    inside = [constant("zero", np.array([0])), constant("one", np.array([1])), constant("c", some(4, 4))]
    session = opened(nodes, [value("x", ["n", 4])], ["same", "row", "fixed"], inside)
    x = some(3, 4)
    held, before = session.step({"x": x}), x.copy()
    x[:] = 0
    assert np.array_equal(held[0].numpy(), before)
    assert np.array_equal(held[1].numpy(), before[:1])
    assert held[1].value.untyped_storage().nbytes() == 16
    held[2].numpy()[:] = 0
    assert session.run({"x": x})[2].any()


def test_takes_any_array():
    """Arrays that cannot be written to, or lie in another order, are inputs like others."""
    session = opened([helper.make_node("Neg", ["x"], ["y"])], [value("x", ["n", 3])], ["y"])
    fixed = some(3, 3)
    fixed.flags.writeable = False
    for array in (fixed, fixed.T, fixed[::-1], np.broadcast_to(np.float32(2), (2, 3))):
        assert np.array_equal(session.run({"x": array})[0], -array)


def test_wrong_feeds_are_named():
    """A missing input, another type or shape, and a closed session are errors of ours."""
    session = opened([helper.make_node("Neg", ["x"], ["y"])], [value("x", ["n", 3])], ["y"])
    with pytest.raises(UnsupportedModelError, match="input x was not given"):
        session.run({})
    with pytest.raises(UnsupportedModelError, match="input x is float32"):
        session.run({"x": np.zeros((1, 3))})
    with pytest.raises(UnsupportedModelError, match="input x is float32"):
        session.run({"x": np.zeros((3, 1), np.float32)})
    session.close()
    with pytest.raises(UnsupportedModelError, match="was closed"):
        session.run({"x": np.zeros((1, 3), np.float32)})


def test_shapes_are_remembered_by_the_shapes_of_inputs():
    """A second run at a size computes no shape again; another size does, and a few sizes are kept."""
    nodes = [
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("Add", ["size", "one"], ["more"]),
        helper.make_node("Expand", ["c", "more"], ["y"]),
    ]
    inside = [constant("one", np.array([1])), constant("c", np.ones(1, np.float32))]
    session = opened(nodes, [value("x", ["n", "m"])], ["y"], inside)
    for sizes in [(2, 3), (2, 3), *((n, 1) for n in range(1, 8)), (2, 3)]:
        assert session.run({"x": np.zeros(sizes, np.float32)})[0].shape == (sizes[0] + 1, sizes[1] + 1)
    assert len(session._program._known) == 4


def test_shapes_that_follow_from_values_are_not_remembered():
    """Two runs of one shape may have outputs of two."""
    inputs = [value("sizes", [2], TensorProto.INT64)]
    inside = [constant("c", np.ones(1, np.float32))]
    session = opened([helper.make_node("Expand", ["c", "sizes"], ["y"])], inputs, ["y"], inside)
    for sizes in ([2, 3], [4, 1]):
        assert session.run({"sizes": np.array(sizes)})[0].shape == tuple(sizes)


def attention_nodes(mask=False):
    nodes = [helper.make_node("MatMul", ["q", "k"], ["scores"])]
    if mask:
        nodes.append(helper.make_node("Add", ["scores", "m"], ["masked"]))
    nodes.append(helper.make_node("Softmax", ["masked" if mask else "scores"], ["weights"], axis=-1))
    return [*nodes, helper.make_node("MatMul", ["weights", "v"], ["y"])]


@pytest.mark.parametrize("batch", [(2, 3), (2,)])
def test_attention_is_one_operator(batch):
    """Written out or not, attention gives the same, and its scores are not kept."""
    q, k, v = some(*batch, 7, 8), some(*batch, 8, 5), some(*batch, 5, 4)
    draft = rewritten(attention_nodes(), {}, ["y"])
    assert [node.operator for node in draft.nodes] == ["torch:Attention"]
    scores = q @ k
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = weights / weights.sum(-1, keepdims=True) @ v
    assert np.allclose(evaluated(draft, {"q": q, "k": k, "v": v}), wanted, atol=1e-5)


def test_masked_attention_stays_written_out():
    """A mask may be infinite, or hide a whole row: that is computed as it is written."""
    draft = rewritten(attention_nodes(mask=True), {}, ["y"])
    assert "torch:Attention" not in [node.operator for node in draft.nodes]


def test_scores_that_are_read_twice_are_kept():
    """What another node reads too cannot be fused away."""
    draft = rewritten([*attention_nodes(), helper.make_node("Neg", ["scores"], ["z"])], {}, ["y", "z"])
    assert "torch:Attention" not in [node.operator for node in draft.nodes]


def test_a_norm_is_one_operator():
    """The root mean square as skeletons write it out."""
    inside = {
        "two": np.array(2, np.float32),
        "last": np.array([-1]),
        "epsilon": np.array(1e-6, np.float32),
        "weight": some(8),
    }
    nodes = [
        helper.make_node("Pow", ["x", "two"], ["square"]),
        helper.make_node("ReduceMean", ["square", "last"], ["mean"], keepdims=1),
        helper.make_node("Add", ["mean", "epsilon"], ["sum"]),
        helper.make_node("Sqrt", ["sum"], ["root"]),
        helper.make_node("Div", ["x", "root"], ["normed"]),
        helper.make_node("Mul", ["normed", "weight"], ["y"]),
    ]
    x = some(2, 5, 8)
    wanted = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * inside["weight"]
    draft = rewritten(nodes, inside, ["y"])
    assert [node.operator for node in draft.nodes] == ["SimplifiedLayerNormalization"]
    assert np.allclose(evaluated(draft, {"x": x}), wanted, atol=1e-5)
    cubes = rewritten(nodes, inside | {"two": np.array(3, np.float32)}, ["y"])
    assert len(cubes.nodes) == 6


def quantized_nodes():
    """A linear layer between INT8 codes, with its bias."""
    return [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "sx", "zx"], ["again"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wide"], axis=1),
        helper.make_node("MatMul", ["again", "wide"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["y"]),
    ]


def quantized_constants(**changes):
    return {
        "sx": np.array(0.02, np.float32),
        "zx": np.zeros((), np.int8),
        "w": RANDOM.randint(-127, 128, (32, 16)).astype(np.int8),
        "sw": RANDOM.random_sample(16).astype(np.float32),
        "zw": np.zeros(16, np.int8),
        "b": some(16),
    } | changes


@pytest.mark.parametrize("rows", [(2, 20), (1, 3), (1,)])
def test_integers_give_what_the_graph_says(rows):
    """Codes times codes, scaled once: equal to dequantising first, but for the rounding of float32."""
    inside, x = quantized_constants(), some(*rows, 32)
    exact = rewritten(quantized_nodes(), inside, ["y"], integers=False)
    integers = rewritten(quantized_nodes(), inside, ["y"], integers=True)
    assert [node.operator for node in integers.nodes] == ["torch:Codes", "torch:IntegerProduct"]
    assert len(integers.nodes[1].inputs) == 4
    assert np.allclose(evaluated(integers, {"x": x}), evaluated(exact, {"x": x}), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"zx": np.array(1, np.int8)},
        {"zx": np.array(128, np.uint8)},
        {"zw": np.ones(16, np.int8)},
        {"w": np.ones((30, 16), np.int8)},
        {"w": np.ones((32, 12), np.int8), "sw": np.ones(12, np.float32), "zw": np.zeros(12, np.int8), "b": some(12)},
        {"w": np.ones((32, 16), np.uint8), "zw": np.zeros(16, np.uint8)},
    ],
    ids=["a zero point", "unsigned", "a zero point of weights", "30 rows", "12 columns", "unsigned weights"],
)
def test_other_codes_are_computed_as_written(change):
    """What the integer kernel cannot do, or would do otherwise, is dequantised."""
    draft = rewritten(quantized_nodes(), quantized_constants(**change), ["y"], integers=True)
    operators = [node.operator for node in draft.nodes]
    assert operators[0] == "QuantizeLinear"
    assert "torch:IntegerProduct" not in operators


def test_halves_are_for_graphs_of_tokens():
    """On a GPU weights that are stored narrow are multiplied so, with attention; an encoder of text stays wide."""
    cast = [
        helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "wide"], ["q"]),
    ]
    weight = {"w": some(8, 8, dtype=np.float16)}
    tokens = rewritten([*cast, *attention_nodes()], weight, ["y"], halves=True)
    assert [(node.operator, dict(node.attributes)) for node in tokens.nodes] == [
        ("torch:HalfProduct", {}),
        ("torch:Attention", {"half": 1}),
    ]
    text = rewritten([*cast, *attention_nodes(mask=True)], weight, ["y"], halves=True)
    assert "torch:HalfProduct" not in [node.operator for node in text.nodes]
    x, k, v = some(1, 2, 4, 8), some(1, 2, 8, 4), some(1, 2, 4, 8)
    wide = rewritten([*cast, *attention_nodes()], weight, ["y"])
    feeds = {"x": x, "k": k, "v": v}
    assert np.abs(evaluated(tokens, feeds) - evaluated(wide, feeds)).max() < 5e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("rows", [3, 100])
def test_a_gpu_gives_what_processors_give(rows):
    """Integer products to the rounding of float32, products and attention in halves to 11 bits."""
    x = some(rows, 32)
    inside = [constant(name, array) for name, array in quantized_constants().items()]
    made = [
        opened(quantized_nodes(), [value("x", ["n", 32])], ["y"], inside, device).run({"x": x})[0]
        for device in ("cuda", "cpu")
    ]
    assert np.allclose(*made, rtol=1e-4, atol=1e-3)
    nodes = [
        helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "wide"], ["q"]),
        *attention_nodes(),
    ]
    inside = [constant("w", some(32, 32, dtype=np.float16))]
    inputs = [value("x", [1, 2, "n", 32]), value("k", [1, 2, 32, "m"]), value("v", [1, 2, "m", 32])]
    feeds = {"x": some(1, 2, rows, 32) / 8, "k": some(1, 2, 32, 40), "v": some(1, 2, 40, 32)}
    halves = [opened(nodes, inputs, ["y"], inside, device).run(feeds)[0] for device in ("cuda", "cpu")]
    assert np.abs(halves[0] - halves[1]).max() < 3e-2


def test_without_the_library(monkeypatch):
    """Without torch nothing is usable, and the way to it is named."""
    monkeypatch.setitem(sys.modules, "torch", None)
    found = Torch().probe()
    assert not found.usable
    assert "not installed" in found.why_not
    assert Torch().rate("float32") is None
    with pytest.raises(BackendUnavailableError) as caught:
        Torch().open(Path("m.onnx"), packed=False)
    assert "p2psync[torch]" in caught.value.hint


def test_processors_are_no_gpu():
    """Without a GPU nothing but float32 is fast, and the probe says where it computes."""
    found = HERE.probe()
    assert found.usable
    assert found.processor
    assert found.precisions == {"float32", "float16", "int8"}
    assert found.fast == {"float32"}
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailableError, match="no CUDA device"):
            Torch("cuda").open(Path("m.onnx"), packed=False)
        assert not Torch("cuda").probe().usable
