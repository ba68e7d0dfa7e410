"""What onnxruntime says when it cannot load a graph, and which error of ours it becomes."""

from types import SimpleNamespace

import pytest
from onnx import TensorProto, helper

from p2psync.engine.backends import backend
from p2psync.engine.ort import _loading
from p2psync.errors import IncompleteModelError, UnsupportedModelError

LIBRARY = SimpleNamespace(__version__="1.0")


class NoSuchFile(Exception):  # noqa: N818 - the library's name.
    """What onnxruntime raises for a file that is missing."""


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (NoSuchFile("Load model from m.onnx failed"), IncompleteModelError, "cannot be loaded: Load model"),
        (RuntimeError("External data path does not exist"), IncompleteModelError, "cannot be loaded: External data"),
        (MemoryError(), UnsupportedModelError, r"m\.onnx does not fit in memory: MemoryError"),
        (RuntimeError("Failed to allocate memory for 9 bytes\nmore"), UnsupportedModelError, "does not fit in memory"),
        (
            RuntimeError("No Op registered for Own"),
            UnsupportedModelError,
            r"onnxruntime 1\.0 does not load m\.onnx",
        ),
    ],
    ids=["no file", "no weights", "no memory", "no memory of the library's", "no operator"],
)
def test_what_the_library_says_becomes_an_error_of_ours(raised, kind, message):
    """Who must act differs: pull again, make room, or take another backend."""
    with pytest.raises(kind, match=message) as caught, _loading(LIBRARY, "m.onnx"):
        raise raised
    assert caught.value.__cause__ is raised


def test_a_tensor_of_text_does_not_cross(tmp_path):
    """What the library runs and numpy has no type for is refused when the graph is opened."""
    ends = [helper.make_tensor_value_info(name, TensorProto.STRING, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(UnsupportedModelError, match=r"tensor x is a tensor\(string\), which cannot cross"):
        backend("ort-cpu").open(tmp_path / "m.onnx", packed=False)
