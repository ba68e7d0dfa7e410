"""What every backend keeps to. Each runs where its library and device are; a backend that is not usable says why."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from p2psync.engine import backends
from p2psync.engine.backends import NAMES
from p2psync.engine.choice import backend_for
from p2psync.engine.pipeline import open_pipeline
from p2psync.errors import BackendUnavailableError, IncompleteModelError, ModelError, UnsupportedModelError
from tests.unit.engine.tiny_engine import CHANNELS, constant, make_engine


@pytest.fixture(params=NAMES)
def backend(request):
    """Every backend that is usable here."""
    found = backends.probe(request.param)
    if not found.usable:
        pytest.skip(f"{request.param}: {found.why_not}")
    return backends.backend(request.param)


@pytest.fixture
def session(backend, shared):
    """The first decoder of a tiny engine."""
    opened = backend.open(shared / "decode_first.onnx", packed=False, threads=1)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A whole engine."""
    return make_engine(tmp_path_factory.mktemp("contract") / "fp32")


def latent(height=4, width=6, seed=0):
    return np.random.RandomState(seed).standard_normal((1, CHANNELS, 1, height, width)).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_probe_is_honest(name):
    """A probe says that a backend runs, with at least FP32, or why it does not; asking twice costs nothing."""
    found = backends.probe(name)
    assert found is backends.probe(name)
    assert found.backend == name
    assert found.usable == ("float32" in found.precisions)
    assert found.usable != bool(found.why_not)
    assert found.fast <= found.precisions


@pytest.mark.parametrize("name", NAMES)
def test_unusable_is_an_error(name, shared):
    """Opening an engine on a backend that is not usable fails; it never runs elsewhere."""
    if backends.probe(name).usable:
        with open_pipeline(shared, name) as pipeline:
            assert pipeline.backend == name
    else:
        with pytest.raises(BackendUnavailableError) as caught, open_pipeline(shared, name) as pipeline:
            pipeline.generate("a")
        assert caught.value.hint


def test_says_what_it_takes_and_gives(session):
    """Inputs and outputs have names, types and dimensions, in graph order."""
    assert [(t.name, t.dtype) for t in session.inputs] == [("latents", "float32")]
    assert [t.name for t in session.outputs] == ["frames", "next_0"]
    assert session.inputs[0].dims[1] == CHANNELS


def test_runs(session):
    """A run gives all outputs in graph order; shapes may change from run to run."""
    for size in ((4, 6), (2, 2), (4, 6)):
        frames, kept = session.run({"latents": latent(*size)})
        assert frames.shape == (1, 3, 1, size[0] * 8, size[1] * 8)
        assert np.allclose(kept, latent(*size), atol=1e-3)
        assert np.abs(frames).max() <= 1


def test_is_deterministic(session):
    """The same input gives the same bits."""
    assert np.array_equal(session.run({"latents": latent()})[0], session.run({"latents": latent()})[0])


def test_steps_keep_values_on_the_device(backend, shared, session):
    """What one step made goes into the next without a copy here, and equals what a run gives."""
    held = session.step({"latents": latent()})
    assert np.allclose(held[0].numpy(), session.run({"latents": latent()})[0], atol=1e-5)
    after = backend.open(shared / "decode_next.onnx", packed=False, threads=1)
    stepped = after.step({"latents": latent(seed=1), "cache_0": held[1]})[0].numpy()
    plain = after.run({"latents": latent(seed=1), "cache_0": latent()})[0]
    assert np.allclose(stepped, plain, atol=1e-5)
    after.close()


def test_answers_are_those_of_numpy(backend, tmp_path):
    """A product is the product, to the precision of TF32 at worst."""
    random = np.random.RandomState(0)
    x, w = random.standard_normal((2, 64, 64)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [constant("w", w)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "m.onnx")
    opened = backend.open(tmp_path / "m.onnx", packed=True)
    assert np.abs(opened.run({"x": x})[0] - x @ w).max() < 0.05
    opened.close()


def test_wrong_input_is_an_error(session):
    """An input of a shape that does not fit is our error, and the session lives on."""
    with pytest.raises(ModelError):
        session.run({"latents": np.zeros((1, CHANNELS + 1, 1, 2, 2), np.float32)})
    with pytest.raises(ModelError):
        session.step({"latents": np.zeros((1, CHANNELS + 1, 1, 2, 2), np.float32)})
    assert session.run({"latents": latent()})[0].shape == (1, 3, 1, 32, 48)


def test_missing_files_are_incomplete(backend, shared, tmp_path):
    """A skeleton without its weights is incomplete, and the skeleton is named."""
    (tmp_path / "text.onnx").write_bytes((shared / "text.onnx").read_bytes())
    with pytest.raises(IncompleteModelError, match=r"text\.onnx"):
        backend.open(tmp_path / "text.onnx", packed=False)


def test_garbage_is_unsupported(backend, tmp_path):
    """Bytes that are no graph are refused by name."""
    (tmp_path / "m.onnx").write_bytes(b"\x08\x09garbage")
    with pytest.raises(UnsupportedModelError, match=r"m\.onnx"):
        backend.open(tmp_path / "m.onnx", packed=False)


def test_makes_the_clip_of_the_reference(backend, shared):
    """A whole clip is that of ort-cpu, to within a level or two."""
    with open_pipeline(shared, backend.name) as ours, open_pipeline(shared, "ort-cpu") as reference:
        made, wanted = (pipeline.generate("a red circle", seed=5) for pipeline in (ours, reference))
    assert np.abs(made.astype(int) - wanted).max() <= 2


def test_has_a_rate(backend):
    """A rate is measured for what runs, and is None for what does not."""
    assert backend.rate("float32") > 1e8
    assert backend.rate("float4") is None


def test_listed_is_not_usable(monkeypatch):
    """A provider that the library lists and that falls back to the processor in silence is an error, not a backend."""
    import onnxruntime

    real = onnxruntime.InferenceSession

    def falls_back(model, options, providers, **_):
        return real(model, options, providers=["CPUExecutionProvider"])

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    found = backends.backend("ort-cuda").probe()
    assert not found.usable
    assert "fell back to CPUExecutionProvider" in found.why_not


def test_strayed_nodes_are_an_error():
    """A session whose heavy nodes run elsewhere than asked is refused, and the operators are named."""
    from types import SimpleNamespace

    from p2psync.engine.ort import _check_placement

    def on(provider, *operators):
        nodes = [SimpleNamespace(op_type=name) for name in operators]
        return SimpleNamespace(ep_name=provider, get_nodes=lambda: nodes)

    def made(*subgraphs):
        return SimpleNamespace(
            get_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
            get_provider_graph_assignment_info=lambda: list(subgraphs),
        )

    shapes = on("CPUExecutionProvider", "Shape", "Gather")
    _check_placement(made(on("CUDAExecutionProvider", "MatMul"), shapes), "CUDAExecutionProvider")
    with pytest.raises(BackendUnavailableError, match="no kernel for Conv"):
        _check_placement(made(on("CPUExecutionProvider", "Conv", "Shape")), "CUDAExecutionProvider")


def test_no_library(monkeypatch):
    """Without onnxruntime nothing is usable, and the way to it is named."""
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = backends.backend("ort-cpu").probe()
    assert not found.usable
    assert "not installed" in found.why_not
    with pytest.raises(BackendUnavailableError):
        backend_for("fp32", [found])
