"""TensorRT-RTX parses every kind of skeleton and builds a plan of it, which it does without a GPU.

It runs where requirements/tensorrt.txt is installed; what a plan computes is tested where there is a GPU, by the
contract suite of backends.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from p2psync.engine import plans, tiny_graphs
from p2psync.engine.plans import Builder, load_library
from p2psync.errors import BackendUnavailableError, IncompleteModelError, UnsupportedModelError
from tests.unit.engine.tiny_engine import make_engine

SQUARE = (16, 16)
PRODUCT = tiny_graphs.graph("MatMul", [(tiny_graphs.FLOAT, SQUARE)] * 2, (tiny_graphs.FLOAT, SQUARE))
PARTS = ["text", "high", "low", "decode_first", "decode_next"]


@pytest.fixture(scope="module")
def builder():
    try:
        return Builder("tensorrt-rtx", "SM89")
    except BackendUnavailableError as error:
        pytest.skip(error.message)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return make_engine(tmp_path_factory.mktemp("plans") / "fp32")


def sizes_of(border):
    """Each input at some size that fits: the first free dimension is a batch of one, others are four."""
    free = {0: 1}
    return {
        tensor.name: tuple(
            size if isinstance(size, int) else free.get(axis, 4) for axis, size in enumerate(tensor.dims)
        )
        for tensor in border.inputs
    }


def test_a_library_that_is_not_here_is_named(monkeypatch):
    """What is not installed is an error of ours, with what to install."""
    monkeypatch.setitem(plans.MODULES, "tensorrt", "p2psync_has_no_such_module")
    with pytest.raises(BackendUnavailableError, match="p2psync_has_no_such_module is not installed") as caught:
        load_library("tensorrt")
    assert "p2psync[tensorrt]" in caught.value.hint


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_parsed_and_built(builder, engine, part):
    """Dynamic axes take the sizes that a run has."""
    border = builder.border(engine / f"{part}.onnx")
    assert border.inputs
    assert border.outputs
    assert all(np.dtype(tensor.dtype) for tensor in (*border.inputs, *border.outputs))
    assert len(builder.build(engine / f"{part}.onnx", sizes_of(border))) > 1000


@pytest.mark.parametrize("kind", [tiny_graphs.FLOAT, tiny_graphs.FLOAT16])
def test_plain_products_are_built(builder, kind):
    """Types are those of the graph."""
    model = tiny_graphs.graph("MatMul", [(kind, SQUARE)] * 2, (kind, SQUARE))
    assert {t.dtype for t in builder.border(model).inputs} == {"float32" if kind == tiny_graphs.FLOAT else "float16"}
    assert builder.build(model, {"x": SQUARE, "y": SQUARE})


def test_int8_is_what_the_graph_quantises(builder):
    """Explicit QuantizeLinear and DequantizeLinear are taken."""
    assert builder.build(tiny_graphs.quantized_product(SQUARE), {"x": SQUARE, "y": SQUARE})


@pytest.mark.parametrize("shape", [(16, 17), (16,), (0, 16)])
def test_shapes_that_do_not_fit_are_refused(builder, shape):
    """The message names the input and both shapes."""
    with pytest.raises(UnsupportedModelError, match="input x is"):
        builder.build(PRODUCT, {"x": shape, "y": SQUARE})


def test_what_is_no_graph_is_refused(builder, tmp_path, engine):
    """Rubbish, a missing skeleton, missing weights, and an operator that nobody knows."""
    with pytest.raises(UnsupportedModelError, match="does not read"):
        builder.border(b"rubbish")
    with pytest.raises(IncompleteModelError, match="missing"):
        builder.border(tmp_path / "none.onnx")
    (tmp_path / "alone.onnx").write_bytes((engine / "high.onnx").read_bytes())
    with pytest.raises((IncompleteModelError, UnsupportedModelError)):
        builder.build(tmp_path / "alone.onnx", sizes_of(builder.border(tmp_path / "alone.onnx")))
    with pytest.raises(UnsupportedModelError):
        builder.border(tiny_graphs.graph("NoSuchOperator", [(tiny_graphs.FLOAT, SQUARE)], (tiny_graphs.FLOAT, SQUARE)))


def test_a_plan_that_is_none_is_refused(builder):
    """Whatever is wrong with a plan, or with this machine, is one error that says so."""
    with pytest.raises(UnsupportedModelError, match="does not load a plan"):
        builder.load(b"no plan at all")


class Played:
    """A library without a GPU: it parses what it is told to, builds nothing, and loads nothing."""

    __version__ = "1"

    NetworkDefinitionCreationFlag = SimpleNamespace()
    ILogger = type("ILogger", (), {"ERROR": 1, "INTERNAL_ERROR": 0})

    def __init__(self, shape):
        self.taken = SimpleNamespace(name="x", shape=shape)
        self.parsed = True

    def Builder(self, logger):  # noqa: N802 - the library's name.
        logger.log(1, "the last word")
        profile = SimpleNamespace(set_shape=lambda *_: None)
        network = SimpleNamespace(num_inputs=1, get_input=lambda _: self.taken)
        return SimpleNamespace(
            create_network=lambda _: network,
            create_builder_config=lambda: SimpleNamespace(add_optimization_profile=lambda _: None),
            create_optimization_profile=lambda: profile,
            build_serialized_network=lambda *_: None,
        )

    def OnnxParser(self, _network, _logger):  # noqa: N802 - the library's name.
        said = SimpleNamespace(desc=lambda: "not this")
        return SimpleNamespace(
            parse=lambda _: self.parsed, parse_from_file=lambda _: self.parsed, num_errors=1, get_error=lambda _: said
        )

    def Runtime(self, _logger):  # noqa: N802 - the library's name.
        return SimpleNamespace(deserialize_cuda_engine=lambda _: None)


@pytest.fixture
def library(monkeypatch):
    """The library played, with a graph whose input is (any, 4)."""
    played = Played((-1, 4))
    monkeypatch.setattr(plans, "load_library", lambda _: played)
    return played


def test_shapes_are_held_against_the_graph_before_anything_is_built(library):
    """Free dimensions take any size, fixed ones theirs, and none is left out."""
    for shape in ((2, 5), (4,), (1, 2, 4)):
        with pytest.raises(UnsupportedModelError, match=r"input x is \(-1, 4\) and was given"):
            Builder("tensorrt").build(b"graph", {"x": shape})
    with pytest.raises(UnsupportedModelError, match="tensorrt 1 builds no plan of a small graph: the last word"):
        Builder("tensorrt").build(b"graph", {"x": (2, 4)})


def test_what_the_library_says_nothing_of_is_an_error(library, tmp_path):
    """It returns None or False; what it logged is all that there is to say."""
    with pytest.raises(UnsupportedModelError, match="tensorrt 1 does not load a plan: no reason given"):
        Builder("tensorrt").load(b"plan")
    with pytest.raises(IncompleteModelError, match=r"none\.onnx is missing"):
        Builder("tensorrt").border(tmp_path / "none.onnx")
    library.parsed = False
    with pytest.raises(UnsupportedModelError, match="tensorrt 1 does not read a small graph: not this"):
        Builder("tensorrt").border(b"graph")
