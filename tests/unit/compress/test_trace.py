"""A traced graph computes what the module does in every form, keeps its names, and tells nothing else."""

import os
import sys

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra compress)")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra engine)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra compress)")

import numpy as np  # noqa: E402 - After the question whether it can be.
import onnx  # noqa: E402

from p2psync.compress import forms, graphs  # noqa: E402
from p2psync.compress.half import half  # noqa: E402
from p2psync.compress.parts import file_digest, write_part  # noqa: E402
from p2psync.compress.trace import Graph, trace  # noqa: E402
from p2psync.errors import MalformedError, UnsupportedModelError  # noqa: E402

nn = torch.nn
WIDTH, HEADS = 24, 2


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.RMSNorm(WIDTH)
        self.to_q = nn.Linear(WIDTH, WIDTH)
        self.same = nn.Linear(WIDTH, WIDTH)
        self.same.weight = nn.Parameter(torch.zeros(WIDTH, WIDTH))
        self.twin = nn.Linear(WIDTH, WIDTH)
        self.twin.weight = nn.Parameter(torch.zeros(WIDTH, WIDTH))
        self.norm.weight.data += 0.1 * torch.randn(WIDTH)


class Toy(nn.Module):
    """(batch, tokens, 24) and (batch, source, 24) to (batch, tokens, 24)."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.model = graphs.prepared(Block())

    def forward(self, hidden, source):
        block = self.model
        query = block.norm(block.to_q(hidden))
        angles = torch.arange(hidden.shape[1])[:, None] * torch.linspace(0.1, 1, WIDTH // HEADS // 2)
        query = graphs.rotate(query, angles.cos(), angles.sin(), HEADS)
        return graphs.attention(query, source, source, HEADS) + block.same(hidden) + block.twin(hidden)


def inputs(batch=2, tokens=5, source=7, seed=0):
    torch.manual_seed(seed)
    return torch.randn(batch, tokens, WIDTH), torch.randn(batch, source, WIDTH)


@pytest.fixture(scope="module")
def traced():
    toy = Toy(1)
    axes = {"hidden": {0: "batch", 1: "tokens"}, "source": {0: "batch", 1: "source"}}
    return toy, trace(toy, inputs(), axes=axes, inputs=("hidden", "source"), outputs=("mixed",))


def answer(path, arguments):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {port.name: value.numpy() for port, value in zip(session.get_inputs(), arguments, strict=True)}
    return session.run(None, feed)[0]


def relative(found, right):
    return float(np.abs(found - right).max() / np.abs(right).max())


@pytest.mark.parametrize("form", ["portable", "fused", "portable_half", "half"])
def test_forms_compute_what_the_module_does(form, traced, tmp_path):
    """For the shapes of the trace and for others; to 1e-5 in float32, to 1e-3 with float16 weights."""
    toy, graph = traced
    made = {
        "portable": lambda: forms.portable(graph),
        "fused": lambda: forms.fused(graph),
        "portable_half": lambda: forms.store_half(forms.portable(graph)),
        "half": lambda: half(forms.fused(graph)),
    }[form]()
    write_part(str(tmp_path), "w.safetensors", {"g.onnx": made})
    for shape in ((2, 5, 7), (1, 1, 1), (3, 16, 2)):
        arguments = inputs(*shape, seed=3)
        found = answer(str(tmp_path / "g.onnx"), arguments)
        assert relative(found, toy(*arguments).detach().numpy()) < (2e-3 if "half" in form else 1e-5)


def test_portable_graphs_hold_standard_operators_only(traced):
    """What parsers other than ONNX Runtime must read has no operator of ours and none of Microsoft's."""
    portable = forms.portable(traced[1]).proto
    assert {node.domain for node in portable.graph.node} == {""}
    assert [entry.domain for entry in portable.opset_import] == [""]
    assert "com.microsoft" in {node.domain for node in forms.fused(traced[1]).proto.graph.node}


def test_names_are_those_of_the_checkpoint(traced):
    """Weights that stand transposed say so; equal ones stay apart, since another version may change one of them."""
    names = set(traced[1].tensors)
    assert {"to_q.weight.T", "to_q.bias", "norm.weight", "same.weight.T", "twin.weight.T"} <= names


def test_one_trace_serves_another_module(traced, tmp_path):
    """A module of the same shapes runs on the same skeleton, byte for byte, with its own weights."""
    other = Toy(2)
    graph = forms.portable(traced[1].with_weights_of(other))
    for folder, made in (("a", forms.portable(traced[1])), ("b", graph)):
        os.mkdir(tmp_path / folder)
        write_part(str(tmp_path / folder), "w.safetensors", {"g.onnx": made})
    assert (tmp_path / "a" / "g.onnx").read_bytes() == (tmp_path / "b" / "g.onnx").read_bytes()
    arguments = inputs(seed=4)
    assert relative(answer(str(tmp_path / "b" / "g.onnx"), arguments), other(*arguments).detach().numpy()) < 1e-5


def test_skeletons_tell_nothing_else(traced, tmp_path):
    """No source path, no stack trace, no inferred shape and no weight is in a skeleton; weights point into one file."""
    write_part(str(tmp_path), "w.safetensors", {"g.onnx": forms.portable(traced[1])})
    data = (tmp_path / "g.onnx").read_bytes()
    for secret in (
        b".py",
        b"site-packages",
        b"Traceback",
        b"torch",
        b"pkg.",
        os.getcwd().encode(),
        sys.prefix.encode(),
    ):
        assert secret not in data
    assert len(data) < 20_000
    model = onnx.load(tmp_path / "g.onnx", load_external_data=False)
    assert not model.graph.value_info
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    weights = [tensor for tensor in model.graph.initializer if tensor.name in traced[1].tensors]
    assert len(weights) == len(traced[1].tensors)
    assert all(tensor.data_location == onnx.TensorProto.EXTERNAL and not tensor.raw_data for tensor in weights)


def test_skeletons_share_one_weights_file(traced, tmp_path):
    """Both forms map the same bytes, and the digests are those of the files."""
    made = {"a.onnx": forms.portable(traced[1]), "b.onnx": forms.fused(traced[1])}
    written = write_part(str(tmp_path), "w.safetensors", made)
    assert written["a.onnx"].weights_digest == written["b.onnx"].weights_digest
    for name, one in written.items():
        assert one.skeleton_digest == file_digest(str(tmp_path / name))
        assert one.weights_digest == file_digest(str(tmp_path / "w.safetensors"))
    assert [(port.name, port.dtype, port.dims) for port in written["a.onnx"].inputs] == [
        ("hidden", "float", ("batch", "tokens", WIDTH)),
        ("source", "float", ("batch", "source", WIDTH)),
    ]


def test_one_name_for_two_tensors_is_refused(traced, tmp_path):
    """Graphs that share a file must agree on what a name means."""
    graph = forms.portable(traced[1])
    with pytest.raises(MalformedError, match="to_q"):
        write_part(str(tmp_path), "w.safetensors", {"a.onnx": graph, "b.onnx": forms.store_half(graph)})


@pytest.mark.parametrize(("value", "named"), [(float("nan"), "NaN"), (1e6, "beyond float16")])
def test_weights_that_float16_cannot_hold_are_refused(value, named, traced, tmp_path):
    """A weight of NaN, or one too large, stops the export instead of becoming infinity."""
    toy = Toy(1)
    toy.model.to_q.weight.data[0, 0] = value
    graph = forms.store_half(forms.portable(traced[1].with_weights_of(toy)))
    with pytest.raises(UnsupportedModelError, match=named):
        write_part(str(tmp_path), "w.safetensors", {"g.onnx": graph})


def test_other_shapes_are_refused(traced):
    """A module whose shapes differ does not fit the trace."""
    toy = Toy(1)
    toy.model.to_q.bias = nn.Parameter(torch.zeros(3))
    with pytest.raises(UnsupportedModelError, match=r"to_q\.bias"):
        traced[1].with_weights_of(toy)


def test_what_cannot_be_traced_is_named():
    """The exporter's refusal becomes ours, in one line."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Linear(1, 1)

        def forward(self, hidden):
            return hidden if hidden.sum() > 0 else -hidden

    with pytest.raises(UnsupportedModelError, match="Odd cannot be exported"):
        trace(Odd(), (torch.zeros(2, 1),), axes={"hidden": {0: "batch"}}, inputs=("hidden",), outputs=("x",))


def test_graphs_are_copied(traced):
    """A form never changes the graph that it is made from."""
    before = traced[1].proto.SerializeToString()
    assert isinstance(half(forms.fused(traced[1])), Graph)
    assert traced[1].proto.SerializeToString() == before
