"""What onnxruntime says when it cannot load a graph, and which error of ours it becomes."""

from functools import cache
from types import SimpleNamespace

import pytest
from onnx import TensorProto, helper

from p2psync.engine import backends, memory, ort
from p2psync.engine.backends import backend
from p2psync.engine.ort import OrtCpu, OrtCuda, _loading, _running
from p2psync.errors import IncompleteModelError, MemoryShortError, UnsupportedModelError

LIBRARY = SimpleNamespace(__version__="1.0")


class NoSuchFile(Exception):  # noqa: N818 - the library's name.
    """What onnxruntime raises for a file that is missing."""


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (NoSuchFile("Load model from m.onnx failed"), IncompleteModelError, "cannot be loaded: Load model"),
        (RuntimeError("External data path does not exist"), IncompleteModelError, "cannot be loaded: External data"),
        (MemoryError(), MemoryShortError, r"m\.onnx cannot be loaded: not enough memory \(MemoryError\)"),
        (RuntimeError("arena.cc:1\nFailed to allocate memory for 9 bytes"), MemoryShortError, "not enough memory"),
        (RuntimeError("External initializer: std::bad_alloc"), MemoryShortError, "not enough memory"),
        (RuntimeError("env.cc:2\npthread_create failed, error code: 11"), MemoryShortError, "not enough memory"),
        (
            RuntimeError("No Op registered for Own"),
            UnsupportedModelError,
            r"onnxruntime 1\.0 does not load m\.onnx",
        ),
    ],
    ids=[
        "no file",
        "no weights",
        "no memory",
        "no memory of the library's",
        "no memory for weights",
        "no thread",
        "no operator",
    ],
)
def test_what_the_library_says_becomes_an_error_of_ours(raised, kind, message):
    """Who must act differs: pull again, make room, or take another backend."""
    with pytest.raises(kind, match=message) as caught, _loading(LIBRARY, "m.onnx"):
        raise raised
    assert caught.value.__cause__ is raised


def test_memory_that_ends_in_a_run_has_a_name():
    """The caller can ask for less; whatever else fails in a run, asking for less does not help."""
    with (
        pytest.raises(MemoryShortError, match="a step of the model cannot be run: not enough memory") as short,
        _running(),
    ):
        raise RuntimeError("Status Message: bfc_arena.cc\nFailed to allocate memory for requested buffer of size 9")
    assert "fewer frames" in short.value.hint
    with pytest.raises(UnsupportedModelError, match="failed in a run: axis"), _running():
        raise RuntimeError("axis 9 is out of range")


def test_memory_that_is_short_now_is_not_remembered(monkeypatch):
    """A backend that could not be tried for want of memory is tried again, not taken for one that runs nothing."""
    calls = []

    def short(*_, **__):
        calls.append(1)
        raise memory.short("a small graph cannot be loaded")

    probe_anew = cache(backends.probe.__wrapped__)
    monkeypatch.setattr(backends, "probe", probe_anew)
    monkeypatch.setattr(backends, "NAMES", ("ort-cpu",))
    with monkeypatch.context() as patch:
        patch.setattr(OrtCpu, "probe", short)
        for _ in range(2):
            with pytest.raises(MemoryShortError):
                backends.probes()
    assert len(calls) == 2
    assert backends.probes()[0].usable


def test_short_memory_of_one_backend_leaves_the_others(monkeypatch):
    """A GPU whose memory others have taken is passed over; the reason is told."""

    def short(*_, **__):
        raise memory.short("a small graph cannot be loaded", "CUDA failure 2: out of memory")

    monkeypatch.setattr(backends, "probe", cache(backends.probe.__wrapped__))
    monkeypatch.setattr(backends, "NAMES", ("ort-cuda", "ort-cpu"))
    monkeypatch.setattr(OrtCuda, "probe", short)
    cuda, cpu = backends.probes()
    assert (cuda.usable, cpu.usable) == (False, True)
    assert "CUDA failure 2" in cuda.why_not


def test_a_trial_that_finds_no_memory_says_so(monkeypatch):
    """What was not tried is not among what does not run."""

    def short(*_, **__):
        raise memory.short("a small graph cannot be loaded")

    monkeypatch.setattr(ort, "_load", short)
    with pytest.raises(MemoryShortError):
        OrtCpu().probe()


def test_a_tensor_of_text_does_not_cross(tmp_path):
    """What the library runs and numpy has no type for is refused when the graph is opened."""
    ends = [helper.make_tensor_value_info(name, TensorProto.STRING, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(UnsupportedModelError, match=r"tensor x is a tensor\(string\), which cannot cross"):
        backend("ort-cpu").open(tmp_path / "m.onnx", packed=False)
