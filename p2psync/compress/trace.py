"""From a torch module to an ONNX graph without weights: names and shapes here, bytes where they are written.

The graph is traced once, at opset 20, with every axis named that may vary. Parameters keep the names of the
checkpoint; ``.T`` is added where the bytes are transposed. What the exporter leaves in a graph beyond what runs (source
paths, stack traces, inferred shapes) is dropped.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir
import onnxscript
import torch
from onnxscript import values
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from p2psync.compress.graphs import DOMAIN, DeployLinear
from p2psync.compress.tensors import Source
from p2psync.content import Digest
from p2psync.errors import UnsupportedModelError

OPSET: Final = 20
# A constant of fewer bytes stays in the skeleton: shapes and axes, which a runtime reads before it maps weights.
_EMBED_BYTES_MAX: Final = 1024
_IR_TYPES: Final = {"F32": onnx_ir.DataType.FLOAT, "I64": onnx_ir.DataType.INT64, "BOOL": onnx_ir.DataType.BOOL}
_OWN: Final = values.Opset(DOMAIN, 1)

Axes = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of a graph: name, ONNX type name, and axes as numbers or names."""

    name: str
    dtype: str
    dims: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """A traced graph. ``proto``'s initialisers that stand in ``tensors`` have no data; all others are embedded."""

    proto: onnx.ModelProto
    tensors: dict[str, Source]

    def copy(self) -> Graph:
        """A graph that may be rewritten; the tensors are shared, they are read only."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        return Graph(proto, dict(self.tensors))

    def with_weights_of(self, module: nn.Module) -> Graph:
        """The same graph over another module of the same shapes, traced or not.

        Raises:
            UnsupportedModelError: the shapes differ.
        """
        sources = parameter_sources(module)
        tensors = {}
        for name, source in self.tensors.items():
            tensors[name] = sources.get(name, source)
            if tensors[name].shape != source.shape:
                raise UnsupportedModelError(f"{name} is {tensors[name].shape} where {source.shape} was traced")
        return Graph(self.proto, tensors)

    def inputs(self) -> list[Port]:
        """The graph's inputs, in order."""
        return [_port(value) for value in self.proto.graph.input]

    def outputs(self) -> list[Port]:
        """The graph's outputs, in order."""
        return [_port(value) for value in self.proto.graph.output]


def trace(
    module: nn.Module,
    arguments: Sequence[Any],
    *,
    axes: Axes,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> Graph:
    """Trace ``module``, whose child ``model`` holds the parameters.

    Args:
        module: A module of ``graphs``, prepared.
        arguments: Example inputs. An axis of length 1 would be taken as fixed, so give 2 where it varies.
        axes: For each argument of ``forward`` its varying axes, ``{0: "batch"}``.
        inputs: Names of the graph's inputs.
        outputs: Names of its outputs.

    Returns:
        The graph; its tensors are views of the module's parameters.

    Raises:
        UnsupportedModelError: the exporter cannot express the module.
    """
    fixed = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    with _imaginary(module, arguments) as examples:
        model = _export(module, examples, axes, inputs, outputs).model
    _as_inputs(model, fixed)
    with _quiet():
        onnxscript.optimizer.optimize_ir(model)
    tensors = _take_tensors(model, module, fixed)
    proto = onnx.ModelProto()
    proto.ParseFromString(_serialize(model))
    strip(proto)
    _name_outputs(proto, outputs)
    return Graph(proto, tensors)


def strip(proto: onnx.ModelProto) -> None:
    """Drop what only explains where a graph comes from, in place."""
    proto.ClearField("metadata_props")
    proto.ClearField("doc_string")
    proto.producer_name, proto.producer_version = "p2psync", ""
    proto.ClearField("functions")
    graph = proto.graph
    graph.name = "p2psync"
    graph.ClearField("value_info")
    for item in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    for number, node in enumerate(graph.node):
        node.name = f"n{number}"


@contextlib.contextmanager
def _imaginary(module: nn.Module, arguments: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Parameters and arguments of shape and type only, so that a trace needs neither their memory nor their values.

    A trace that saw values would fold them into the graph: two norms that are both all ones would become one tensor,
    and the graph of one expert would not fit the other. Buffers (rotary tables) stay real, they belong to the graph.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    real: list[tuple[nn.Module, str, nn.Parameter]] = []
    for child in module.modules():
        for name, parameter in list(child._parameters.items()):  # noqa: SLF001 - The only way to swap one unseen.
            if parameter is not None:
                real.append((child, name, parameter))
    try:
        with mode:
            for child, name, parameter in real:
                empty = torch.empty(parameter.shape, dtype=torch.float32)
                child._parameters[name] = nn.Parameter(empty, requires_grad=False)  # noqa: SLF001 - As above.
            examples = torch.utils._pytree.tree_map(_empty, tuple(arguments))  # noqa: SLF001 - It has no public name.
        yield examples
    finally:
        for child, name, parameter in real:
            child._parameters[name] = parameter  # noqa: SLF001 - As above.


def _empty(value: Any) -> Any:
    return torch.empty(value.shape, dtype=value.dtype) if isinstance(value, Tensor) else value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports progress on stdout and warns of what it does by design."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _export(
    module: nn.Module, arguments: tuple[Any, ...], axes: Axes, inputs: Sequence[str], outputs: Sequence[str]
) -> Any:
    table = {
        torch.ops.p2psync.attention.default: _attention_node,
        torch.ops.p2psync.rms_norm.default: _rms_norm_node,
        torch.ops.p2psync.rotate.default: _rotate_node,
    }
    try:
        with _quiet():
            return torch.onnx.export(
                module,
                arguments,
                dynamo=True,
                verify=False,
                verbose=False,
                optimize=False,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=dict(axes),
                custom_translation_table=table,
            )
    except (RuntimeError, TypeError, ValueError) as error:
        # The exporter writes a page of advice around the one line that says what happened.
        lines = str(error).splitlines()
        reason = next((line for line in lines if line.startswith("<class ")), next(iter(lines), ""))
        raise UnsupportedModelError(f"{type(module).__name__} cannot be exported: {reason[:200]}") from error


def _attention_node(query: Any, key: Any, value: Any, heads: int) -> Any:
    operator = _operator("Attention", ("query", "key", "value"), heads="INT", scale="FLOAT")
    return operator(query, key, value, heads=heads, scale=(query.shape[-1] / heads) ** -0.5)


def _rms_norm_node(hidden: Any, weight: Any, eps: float) -> Any:
    return _operator("RMSNorm", ("hidden", "weight"), epsilon="FLOAT")(hidden, weight, epsilon=eps)


def _rotate_node(packed: Any, cos: Any, sin: Any, heads: int) -> Any:
    return _operator("Rotate", ("packed", "cos", "sin"), heads="INT")(packed, cos, sin, heads=heads)


def _operator(name: str, inputs: Sequence[str], **attributes: str) -> Any:
    """An operator of our own domain over float32; the exporter wants a schema before it writes a node."""
    schema = onnx.defs.OpSchema
    return values.Op(
        _OWN,
        name,
        schema(
            name,
            DOMAIN,
            1,
            inputs=[schema.FormalParameter(label, "T") for label in inputs],
            outputs=[schema.FormalParameter("result", "T")],
            type_constraints=[("T", ["tensor(float)"], "")],
            attributes=[schema.Attribute(label, getattr(schema.AttrType, kind)) for label, kind in attributes.items()],
        ),
    )


def _as_inputs(model: Any, names: Collection[str]) -> None:
    """Turn parameters into inputs: whatever is optimised then holds for all their values."""
    for name in names:
        value = model.graph.initializers.pop(name, None)
        if value is not None:
            value.const_value = None
            model.graph.inputs.append(value)


def _take_tensors(model: Any, module: nn.Module, names: Collection[str]) -> dict[str, Source]:
    """Turn the parameters that are used back into initialisers that point at nothing yet; take large constants out."""
    sources = parameter_sources(module)
    taken: dict[str, Source] = {}
    for value in [v for v in model.graph.inputs if v.name in names]:
        model.graph.inputs.remove(value)
        if not value.uses():
            continue
        name = _deploy_name(module, value.name)
        taken[name] = sources[name]
        _unbind(value, name, taken[name])
        model.graph.register_initializer(value)
    for name, value in list(model.graph.initializers.items()):
        if name in taken or value.const_value.nbytes < _EMBED_BYTES_MAX:
            continue
        array = np.ascontiguousarray(value.const_value.numpy())
        # Named by content, so that graphs which share a weights file share their constants.
        label = f"constant.{Digest.of(array.tobytes()).hex()[:16]}"
        if label in taken:
            value.replace_all_uses_with(model.graph.initializers[label])
            model.graph.initializers.pop(name)
            continue
        taken[label] = Source.of(array)
        _unbind(value, label, taken[label])
    return taken


def parameter_sources(module: nn.Module) -> dict[str, Source]:
    """Every parameter under ``module.model`` by the name that it has in a graph."""
    return {
        _deploy_name(module, name): tensor_source(value)
        for name, value in module.named_parameters(remove_duplicate=False)
    }


def _deploy_name(module: nn.Module, name: str) -> str:
    owner, _, leaf = name.rpartition(".")
    transposed = leaf == "weight" and isinstance(module.get_submodule(owner), DeployLinear)
    return name.removeprefix("model.") + (".T" if transposed else "")


def _unbind(value: Any, name: str, source: Source) -> None:
    value.name = name
    value.const_value = onnx_ir.ExternalTensor(
        "unbound", 0, source.size_bytes, _IR_TYPES[source.dtype], shape=onnx_ir.Shape(source.shape), name=name
    )


def tensor_source(tensor: Tensor) -> Source:
    """A source that reads a float32 view of ``tensor`` when it is written."""
    if tensor.dtype in (torch.float16, torch.bfloat16, torch.float32):
        return Source("F32", tuple(tensor.shape), lambda: tensor.detach().to("cpu", torch.float32).contiguous().numpy())
    return Source.of(tensor.detach().cpu().contiguous().numpy())


def _serialize(model: Any) -> bytes:
    return onnx_ir.serde.serialize_model(model).SerializeToString()  # type: ignore[no-any-return]


def _name_outputs(proto: onnx.ModelProto, outputs: Sequence[str]) -> None:
    found = [value.name for value in proto.graph.output]
    if found != list(outputs):
        raise UnsupportedModelError(f"the exporter named the outputs {found}, not {list(outputs)}")


def _port(value: onnx.ValueInfoProto) -> Port:
    kind = value.type.tensor_type
    dims = tuple(d.dim_param or d.dim_value for d in kind.shape.dim)
    return Port(value.name, onnx.TensorProto.DataType.Name(kind.elem_type).lower(), dims)
