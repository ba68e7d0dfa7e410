"""INT8: the grid is what the papers say, the graph computes on it, and both activation forms share one weights file."""

import dataclasses

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra compress)")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra engine)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra compress)")

import numpy as np  # noqa: E402 - After the question whether it can be.
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra import numpy as arrays  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

from p2psync.compress import forms, lineage, parse_recipe  # noqa: E402
from p2psync.compress.calibrate import as_quantized, calibrate, layer_errors  # noqa: E402
from p2psync.compress.learn import chosen_layers  # noqa: E402
from p2psync.compress.parts import write_part  # noqa: E402
from p2psync.compress.quantize import Grid, Range, grid_of, layers_of, quantized, weight_codes, weight_scales  # noqa: E402
from p2psync.compress.recipe import VariantRecipe  # noqa: E402
from p2psync.errors import UnsupportedModelError  # noqa: E402

RECIPE = b"""
name = "tiny"
[sampling]
steps = 2
guidance = 2
[video]
height = 32
width = 32
frames = 5
[calibration]
prompts = ["a red circle moves left", "a blue square moves right"]
steps = 4
[variants.int8]
precision = "int8"
"""
FLOATS = st.floats(-100, 100, width=32)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return parse_recipe(RECIPE, directory=str(tmp_path_factory.mktemp("recipe")))


@pytest.fixture(scope="module")
def calibrated(pipeline, recipe):
    return calibrate(pipeline, recipe)


@given(arrays.arrays(np.float32, (5, 3), elements=FLOATS))
def test_weights_are_within_half_a_step(weight):
    """Codes stay in -127..127, scales are positive, and no weight moves by more than half a scale."""
    scales = weight_scales(weight, axis=1)
    codes = weight_codes(weight, scales, axis=1)
    assert scales.shape == (3,)
    assert (scales > 0).all()
    assert np.abs(codes.astype(int)).max() <= 127
    assert (np.abs(codes * scales - weight) <= scales * 0.5001).all()


@given(st.floats(-1000, 1000, width=32), st.floats(0, 1000, width=32))
def test_activations_keep_zero(low, width):
    """Zero has a code of its own in both forms, and both ends of the range are within one step."""
    interval = Range(low, low + width)
    scale, zero = interval.unsigned()
    assert 0 <= zero <= 255
    for value in (min(low, 0.0), max(low + width, 0.0)):
        code = np.clip(np.rint(value / scale) + zero, 0, 255)
        assert abs((code - zero) * scale - value) <= scale * 1.01
    assert abs(float(interval.signed()) * 127) >= max(abs(low), abs(low + width)) * 0.999


def test_weights_of_nan_are_refused():
    """There is no grid for what is no number."""
    with pytest.raises(UnsupportedModelError, match="NaN"):
        weight_scales(np.array([[np.nan, 1]], np.float32), axis=1)


def test_each_expert_is_calibrated_on_its_own_timesteps(calibrated):
    """The expert for high noise saw only steps at or above the boundary, the other only those below."""
    assert all(float(call.timestep.min()) >= 875 for call in calibrated["high"].calls)
    assert all(float(call.timestep.max()) < 875 for call in calibrated["low"].calls)
    for one in calibrated.values():
        assert one.ranges["blocks.0.ffn.net.2"].low < 0 < one.ranges["blocks.0.ffn.net.2"].high
    assert calibrated["high"].ranges != calibrated["low"].ranges


def test_first_and_last_blocks_and_patterns_stay_precise():
    """What a recipe protects is never quantised."""
    layers = [f"blocks.{block}.{part}" for block in range(12) for part in ("attn1.to_q", "ffn.net.2")]
    chosen = chosen_layers(layers, VariantRecipe("int8", keep=("blocks.3.*", "*.ffn.net.2"), keep_last=2))
    assert chosen == [f"blocks.{block}.attn1.to_q" for block in (1, 2, 4, 5, 6, 7, 8, 9)]


@pytest.mark.slow
def test_only_layers_of_blocks_can_be_quantised(expert_graph):
    """Embedders, the output projection and products of two activations are not among them."""
    layers = layers_of(forms.portable(expert_graph))
    assert len(layers) == len(set(layers)) == 2 * 10
    assert all(layer.startswith("blocks.") for layer in layers)


@pytest.mark.slow
def test_one_layer_is_what_torch_computes(pipeline, expert_graph, calibrated, tmp_path):
    """With one layer quantised, the simulation explains most of what ONNX Runtime answers differently.

    Not all of it: an input that lies between two codes may fall to either side by its last bit.
    """
    expert, seen = pipeline.transformer, calibrated["high"]
    plain = ask(expert, seen.calls[0])
    for layer in ("blocks.0.attn1.to_k", "blocks.1.ffn.net.2"):
        for label, form in (("portable", forms.portable), ("fused", forms.fused)):
            graph = form(expert_graph)
            grid = grid_of(graph, [layer], seen.ranges)
            name = f"{label}.{layer}.onnx"
            made = {name: quantized(graph, [layer], grid, signed=False)}
            write_part(str(tmp_path), f"{label}.{layer}.safetensors", made)
            found = run(tmp_path / name, seen.calls[0])
            with torch.no_grad(), as_quantized(expert, [layer], grid):
                right = ask(expert, seen.calls[0])
            assert 0 < np.linalg.norm(found - right) < 0.25 * np.linalg.norm(found - plain)


@pytest.mark.slow
def test_both_activation_forms_share_one_grid(pipeline, expert_graph, calibrated, tmp_path):
    """uint8 and int8 skeletons map one file, in which the weights are INT8, and both answer nearly as float32 does."""
    graph, seen = forms.portable(expert_graph), calibrated["high"]
    layers = layers_of(graph)
    grid = grid_of(graph, layers, seen.ranges)
    made = {f"{s}.onnx": forms.store_half(quantized(graph, layers, grid, signed=s == "s8")) for s in ("u8", "s8")}
    written = write_part(str(tmp_path), "w.safetensors", made)
    assert written["u8.onnx"].weights_digest == written["s8.onnx"].weights_digest
    tensors = load_file(tmp_path / "w.safetensors")
    assert all(tensors[f"{layer}.weight.T"].dtype == np.int8 for layer in layers)
    right = ask(pipeline.transformer, seen.calls[0])
    for name in made:
        found = run(tmp_path / name, seen.calls[0])
        assert 0 < np.linalg.norm(found - right) / np.linalg.norm(right) < 0.05


@pytest.mark.slow
def test_lineage_keeps_codes(pipeline, expert_graph, calibrated, tmp_path):
    """Under the grid of the version before, weights that did not move keep every code, whatever else changed."""
    graph, seen = forms.portable(expert_graph), calibrated["high"]
    layers = layers_of(graph)
    grid = grid_of(graph, layers, seen.ranges)
    write_part(str(tmp_path), "high.safetensors", {"u8.onnx": quantized(graph, layers, grid, signed=False)})
    frozen = lineage.read_grid(str(tmp_path), "high")
    assert isinstance(frozen, Grid)
    moved = {name: dataclasses.replace(one, low=one.low * 3) for name, one in seen.ranges.items()}
    again = grid_of(graph, layers, moved, frozen)
    for layer in layers:
        np.testing.assert_array_equal(again.scales[layer], grid.scales[layer])
        assert again.ranges[layer].unsigned() == grid.ranges[layer].unsigned()


def test_layers_are_ranked(pipeline, calibrated):
    """A layer whose grid is ruined comes first."""
    expert, seen = pipeline.transformer, calibrated["high"]
    layers = ["blocks.0.attn1.to_v", "blocks.0.ffn.net.0.proj", "blocks.1.attn2.to_q"]
    weights = {layer: expert.get_submodule(layer).weight.detach().numpy() for layer in layers}
    scales = {layer: weight_scales(weight, axis=0) for layer, weight in weights.items()}
    scales["blocks.0.ffn.net.0.proj"] = scales["blocks.0.ffn.net.0.proj"] * 40
    errors = layer_errors(expert, seen.calls, layers, Grid(seen.ranges, scales))
    assert next(iter(errors)) == "blocks.0.ffn.net.0.proj"
    assert list(errors.values()) == sorted(errors.values(), reverse=True)
    assert isinstance(expert.get_submodule(layers[0]), torch.nn.Linear)


def ask(expert, call):
    with torch.no_grad():
        return expert(call.latents, call.timestep, call.text, return_dict=False)[0].numpy()


def run(path, call):
    options = ort.SessionOptions()
    # Else processors without VNNI add pairs of products in 16 bits, and saturate.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    values = (call.latents, call.timestep.float(), call.text)
    return session.run(None, {port.name: v.numpy() for port, v in zip(session.get_inputs(), values, strict=True)})[0]
