"""Any ONNX model is a function: load it, give it arrays by name, get arrays in graph order."""

import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from p2psync.engine import load, memory
from p2psync.engine.model import packs, weights_bytes
from p2psync.errors import IncompleteModelError, IntegrityError, ModelError, UnsupportedModelError, UsageError
from tests.unit.engine.tiny_engine import constant


@pytest.fixture
def model(tmp_path):
    """A model with its weights inside: y = x @ w, z = x + 1."""
    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Add", ["x", "one"], ["z"])]
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])]
    outs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "yz"]
    graph = helper.make_graph(
        nodes, "g", values, outs, [constant("w", weight), constant("one", np.ones(1, np.float32))]
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


def test_run(model):
    """Outputs come in graph order, from a file or from the directory that holds it."""
    x = np.ones((2, 3), np.float32)
    for path in (model, str(model), model.parent):
        with load(path) as loaded:
            y, z = loaded.run({"x": x})
        assert np.array_equal(y, x @ np.arange(12, dtype=np.float32).reshape(3, 4))
        assert np.array_equal(z, x + 1)


def test_describes_itself(model):
    """Names, types and dimensions are readable; a dimension that may change has a name."""
    with load(model) as loaded:
        (x,) = loaded.inputs
        assert (x.name, x.dtype, x.dims) == ("x", "float32", ("n", 3))
        assert [tensor.name for tensor in loaded.outputs] == ["y", "z"]
        assert loaded.backend == "ort-cpu"


@pytest.mark.parametrize(
    ("feeds", "named"),
    [
        ({}, "takes x"),
        ({"y": np.ones((1, 3), np.float32)}, "takes x"),
        ({"x": np.ones((1, 4), np.float32)}, "shape"),
        ({"x": np.ones(3, np.float32)}, "shape"),
        ({"x": np.array([["a", "b", "c"]])}, "float32"),
        ({"x": np.ones((1, 3), np.complex64)}, "float32"),
    ],
)
def test_wrong_feeds(model, feeds, named):
    """What does not fit the graph is the caller's error, and says what would fit."""
    with load(model) as loaded, pytest.raises(UsageError, match=named):
        loaded.run(feeds)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32"])
def test_converts_numbers(model, dtype):
    """Numbers of another width are converted."""
    with load(model) as loaded:
        y, _ = loaded.run({"x": np.ones((1, 3), dtype)})
    assert y.dtype == np.float32


def test_external_data(shared_engine):
    """Weights in a safetensors file beside the skeleton are found, packed or mapped, with the same answers."""
    x = np.random.RandomState(0).standard_normal((1, 4, 1, 2, 2)).astype(np.float32)
    answers = []
    for packed in (None, True, False):
        with load(shared_engine / "decode_first.onnx", packed=packed, threads=1) as loaded:
            answers.append(loaded.run({"latents": x})[0])
    assert answers[0].shape == (1, 3, 1, 16, 16)
    assert np.abs(answers[0] - answers[2]).max() < 1e-6
    assert np.abs(answers[0] - answers[1]).max() < 1e-6


def test_counts_external_data(shared_engine, model):
    """The size of a model counts the files that it points into."""
    path = shared_engine / "text.onnx"
    assert weights_bytes(path) == path.stat().st_size + (13 * 8 + 8 * 8) * 4
    assert weights_bytes(model) == model.stat().st_size


def test_packs_what_is_small(monkeypatch):
    """Small weights are copied for speed where there is room, large ones stay mapped."""
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 40)
    assert packs(100 << 20)
    assert packs(256 << 20)
    assert not packs(257 << 20)
    monkeypatch.setattr(memory, "available_bytes", lambda: 300 << 20)
    assert not packs(100 << 20)


def test_large_weights_are_mapped(tmp_path):
    """Mapped weights are pages of the file that was delivered: 64 MB of them take less than 16 MB of this process."""
    import subprocess
    import sys

    from p2psync.limits import MIB

    code = """
import sys
from p2psync.engine import load, memory
before = memory.anonymous_bytes()
with load(sys.argv[1], packed=sys.argv[2] == "packed") as model:
    print(memory.anonymous_bytes() - before, "w.safetensors" in open("/proc/self/maps").read())
"""
    make_large(tmp_path)
    took = {
        how: subprocess.run([sys.executable, "-c", code, tmp_path, how], capture_output=True, check=True).stdout.split()
        for how in ("mapped", "packed")
    }
    assert int(took["mapped"][0]) < 16 * MIB
    assert took["mapped"][1] == b"True"
    assert int(took["packed"][0]) > 60 * MIB


def make_large(directory):
    """A model with one weight of 64 MB outside."""
    from safetensors.numpy import save_file

    from tests.unit.engine.tiny_engine import external

    weight = np.zeros((4096, 4096), np.float32)
    save_file({"w": weight}, directory / "w.safetensors")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4096])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4096])],
        [external("w", weight, directory / "w.safetensors")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    (directory / "model.onnx").write_bytes(model.SerializeToString())


def test_missing(tmp_path, shared_engine):
    """No file, no .onnx, two of them, or no weights: each is named."""
    with pytest.raises(IncompleteModelError, match="no model"):
        load(tmp_path / "none.onnx")
    with pytest.raises(IncompleteModelError, match=r"0 \.onnx files"):
        load(tmp_path)
    with pytest.raises(IncompleteModelError, match=r"\.onnx files, not one"):
        load(shared_engine)
    shutil.copy(shared_engine / "text.onnx", tmp_path)
    with pytest.raises(IncompleteModelError, match=r"text\.onnx"):
        load(tmp_path)


def test_not_a_model(tmp_path):
    """Bytes that are no ONNX end in a named error."""
    path = tmp_path / "model.onnx"
    for data in (b"", b"\x00" * 64, b"not a model at all", b"\xff" * 200):
        path.write_bytes(data)
        with pytest.raises((ModelError, IntegrityError)):
            load(path)


def test_unknown_operator(tmp_path):
    """An operator that the runtime does not have is named, with the runtime and its version."""
    graph = helper.make_graph(
        [helper.make_node("Nonsense", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString())
    with pytest.raises(UnsupportedModelError, match=r"onnxruntime .* does not load") as caught:
        load(path)
    assert caught.value.exit_code == 9


def test_escaping_weights(tmp_path, shared_engine):
    """A model that points outside its directory is refused before a byte there is read."""
    shutil.copytree(shared_engine, tmp_path / "a" / "b")
    data = (tmp_path / "a" / "b" / "high.onnx").read_bytes()
    # Of the same length, so that the message stays well-formed.
    evil = data.replace(b"high.safetensors", b"../../etc/passwd")
    assert evil != data
    (tmp_path / "a" / "b" / "high.onnx").write_bytes(evil)
    with pytest.raises(IntegrityError):
        load(tmp_path / "a" / "b" / "high.onnx")
