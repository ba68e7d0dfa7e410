"""INT8 in a graph: one grid of weights, two sets of activation scales, explicit quantise and dequantise nodes.

The grid (Jacob et al. 2018, https://arxiv.org/abs/1712.05877; Wu et al. 2020, https://arxiv.org/abs/2004.09602):
weights are symmetric with one scale per output channel, activations have one scale per tensor. ONNX Runtime on x86
multiplies unsigned by signed bytes, so its activations are uint8 with a zero point; TensorRT only takes int8 around
zero. The weights are the same bytes for both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from p2psync.compress.forms import set_nodes
from p2psync.compress.tensors import Source
from p2psync.compress.trace import Graph
from p2psync.errors import UnsupportedModelError

LEVEL_MAX: Final = 127
_WEIGHT: Final = ".weight.T"
# Below the normal floats a scale loses its digits; a channel that small is zero to every other.
_SMALLEST: Final = np.finfo(np.float32).tiny

Scales = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Range:
    """The interval of a layer's input that its calibration runs showed; it always holds zero."""

    low: float
    high: float

    def unsigned(self) -> tuple[np.float32, np.uint8]:
        """Scale and zero point over 0..255: a value is ``(code - zero) * scale``."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        scale = _step((high - low) / 255)
        return scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255))

    def signed(self) -> np.float32:
        """Scale over -127..127."""
        return _step(max(abs(self.low), abs(self.high)) / LEVEL_MAX)


@dataclass(frozen=True, slots=True)
class Grid:
    """What a quantised expert was quantised by: input ranges, and weight scales (out,), each by layer name."""

    ranges: Mapping[str, Range]
    scales: Mapping[str, Scales]


def _step(width: float) -> np.float32:
    scale = np.float32(width)
    return scale if scale >= _SMALLEST else np.float32(1)


def weight_scales(weight: NDArray[np.float32], *, axis: int) -> Scales:
    """One positive scale per channel of ``axis``: the largest magnitude over 127; 1 where that is no normal float.

    Raises:
        UnsupportedModelError: the weight holds NaN or infinity.
    """
    others = tuple(a for a in range(weight.ndim) if a != axis % weight.ndim)
    largest = np.abs(weight).max(axis=others)
    if not np.isfinite(largest).all():
        raise UnsupportedModelError("a weight holds NaN or infinity")
    scales = (largest / np.float32(LEVEL_MAX)).astype(np.float32)
    return np.where(scales >= _SMALLEST, scales, np.float32(1))


def weight_codes(weight: NDArray[np.float32], scales: Scales, *, axis: int) -> NDArray[np.int8]:
    """The nearest codes in -127..127, halves to even; under frozen scales a weight that grew is clipped."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    codes = np.clip(np.rint(weight / scales.reshape(shape)), -LEVEL_MAX, LEVEL_MAX)
    return np.asarray(codes, np.int8)


def layers_of(graph: Graph) -> list[str]:
    """The linear layers of a graph's blocks that can be quantised, in the order in which they run.

    Embedders and the output projection stand outside the blocks; products of two activations have no weight.
    """
    return [
        node.input[1].removesuffix(_WEIGHT)
        for node in graph.proto.graph.node
        if node.op_type == "MatMul" and node.input[1].startswith("blocks.") and node.input[1].endswith(_WEIGHT)
    ]


def quantized(graph: Graph, layers: Collection[str], grid: Grid, *, signed: bool) -> Graph:
    """Quantise ``layers`` of a portable graph whose weights are still float32.

    Args:
        graph: Portable form.
        layers: Names among ``layers_of(graph)``.
        grid: Must hold each of them.
        signed: int8 activations around zero (TensorRT) instead of uint8 with a zero point.

    Returns:
        A graph with QuantizeLinear and DequantizeLinear before each of those products. The weights are int8.
    """
    fresh = graph.copy()
    chosen = set(layers)
    nodes: list[onnx.NodeProto] = []
    inputs: dict[tuple[str, Range], str] = {}
    for node in fresh.proto.graph.node:
        layer = node.input[1].removesuffix(_WEIGHT) if node.op_type == "MatMul" else ""
        if layer in chosen:
            key = (node.input[0], grid.ranges[layer])
            if key not in inputs:
                inputs[key] = _activation(fresh, nodes, node.input[0], layer, grid.ranges[layer], signed=signed)
            weight = _weight(fresh, nodes, node.input[1], grid.scales[layer])
            node.input[0], node.input[1] = inputs[key], weight
        nodes.append(node)
    set_nodes(fresh.proto.graph, nodes)
    return fresh


def _activation(
    graph: Graph, nodes: list[onnx.NodeProto], name: str, layer: str, interval: Range, *, signed: bool
) -> str:
    scale, zero = (interval.signed(), np.int8(0)) if signed else interval.unsigned()
    form = "s8" if signed else "u8"
    scale_name = _add(graph, f"{layer}.input_scale_{form}", np.asarray(scale))
    zero_name = _add(graph, f"{layer}.input_zero_{form}", np.asarray(zero))
    codes, result = f"{layer}/input_codes", f"{layer}/input"
    nodes.append(helper.make_node("QuantizeLinear", [name, scale_name, zero_name], [codes]))
    nodes.append(helper.make_node("DequantizeLinear", [codes, scale_name, zero_name], [result]))
    return result


def _weight(graph: Graph, nodes: list[onnx.NodeProto], name: str, scales: Scales) -> str:
    """(in, out), so the channel is the second axis."""
    wide = graph.tensors[name]
    initializer = next(tensor for tensor in graph.proto.graph.initializer if tensor.name == name)
    initializer.data_type = TensorProto.INT8
    graph.tensors[name] = Source("I8", wide.shape, _codes_of(name, wide, scales))
    scale_name = _add(graph, f"{name}.scale", scales)
    zero_name = _add(graph, f"{name}.zero", np.zeros(scales.shape, np.int8))
    result = f"{name}/wide"
    nodes.append(helper.make_node("DequantizeLinear", [name, scale_name, zero_name], [result], axis=1))
    return result


def _codes_of(name: str, wide: Source, scales: Scales) -> Callable[[], NDArray[np.generic]]:
    def read() -> NDArray[np.generic]:
        weight = wide.read().astype(np.float32, copy=False)
        if not np.isfinite(weight).all():
            raise UnsupportedModelError(f"tensor {name} holds NaN or infinity")
        return weight_codes(weight, scales, axis=1)

    return read


def _add(graph: Graph, name: str, array: NDArray[np.generic]) -> str:
    """A tensor in the weights file; the skeleton stays the same from version to version."""
    source = Source.of(array)
    graph.tensors[name] = source
    kind = {"F32": TensorProto.FLOAT, "I8": TensorProto.INT8, "U8": TensorProto.UINT8}[source.dtype]
    graph.proto.graph.initializer.append(TensorProto(name=name, data_type=kind, dims=array.shape))
    return name


def grid_of(graph: Graph, layers: Collection[str], ranges: Mapping[str, Range], frozen: Grid | None = None) -> Grid:
    """The grid for ``layers``: ranges as calibrated, scales from the weights; where ``frozen`` knows a layer, its own.

    Freezing keeps the codes of two versions comparable: a weight that did not move keeps its code.

    Raises:
        UnsupportedModelError: a weight holds NaN or infinity, or a layer has no range.
    """
    scales: dict[str, Scales] = {}
    for layer in layers:
        source = graph.tensors[layer + _WEIGHT]
        known = frozen.scales.get(layer) if frozen else None
        if known is None or known.shape != (source.shape[1],):
            known = weight_scales(source.read().astype(np.float32, copy=False), axis=1)
        scales[layer] = known
    return Grid(_ranges(graph, layers, ranges, frozen), scales)


def _ranges(graph: Graph, layers: Collection[str], seen: Mapping[str, Range], frozen: Grid | None) -> dict[str, Range]:
    """One range per input: layers that read the same tensor share it, under the name of the first."""
    chosen: dict[str, Range] = {}
    shared: dict[str, Range] = {}
    for node in graph.proto.graph.node:
        layer = node.input[1].removesuffix(_WEIGHT) if node.op_type == "MatMul" else ""
        if layer not in layers:
            continue
        if layer not in seen:
            raise UnsupportedModelError(f"layer {layer} was never run by the calibration prompts")
        known = frozen.ranges.get(layer) if frozen else None
        chosen[layer] = shared.setdefault(node.input[0], known or seen[layer])
    return chosen
