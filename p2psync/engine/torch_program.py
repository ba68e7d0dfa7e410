"""A graph as the torch calls that run it: constants placed or computed, values freed after their last use.

Numbers that only follow from shapes are computed in this machine's memory and remembered by the shapes of the inputs:
all steps of a clip share them, and a GPU is never waited for to learn a shape.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from p2psync.engine import torch_ops_math
from p2psync.engine.torch_graph import Constant, Graph, Node
from p2psync.engine.torch_ops import OPERATORS, arguments
from p2psync.engine.torch_ops_shape import READ_HERE
from p2psync.engine.torch_rewrite import Draft, rewrite
from p2psync.errors import IncompleteModelError

# Of more than this nothing is computed at load unless weights are to be packed, and nothing that is this much bigger.
_GROWTH_BYTES_MAX: Final = 1 << 16
# Sizes whose shapes are remembered: a pipeline has one or two of each part.
_SIZES_MAX: Final = 4
# Operators that take a single number from this machine's memory, whatever the device.
_TAKE_NUMBERS: Final = frozenset({"Gather", "com.microsoft:RotaryEmbedding"})

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class _Step:
    """One call. ``here`` is work of this machine, whatever the device; ``last`` are names that nothing reads later."""

    call: Callable[..., Any]
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    here: bool
    last: tuple[str, ...]


class Program:
    """A graph that runs on one device.

    Args:
        graph: What to run.
        name: Of the graph, for messages.
        device: Where.
        packed: Widen weights that are stored narrow once, instead of in every run.

    Raises:
        UnsupportedModelError: an operator is unknown.
        IncompleteModelError: weights are missing.
    """

    def __init__(self, graph: Graph, name: str, device: torch.device, *, packed: bool) -> None:
        gpu = device.type == "cuda"
        draft = Draft(
            [_prepared(node, name) for node in graph.nodes],
            load_constants(graph.constants, name),
            tuple(tensor.name for tensor in graph.outputs),
        )
        small = {key for key in draft.constants if graph.constants[key].file is None}
        rewrite(draft, integers=gpu, halves=gpu)
        small |= _fold(draft, small, packed=packed)
        self._device = device
        self._outputs = draft.outputs
        self._inputs = tuple(tensor.name for tensor in graph.inputs)
        read = {name for node in draft.nodes for name in _read_here(node)}
        here = {key for key, value in draft.constants.items() if key in read or (key in small and _stays(value))}
        self._constants = {
            key: value if key in here else _placed(value, device, by_columns=key in draft.columns)
            for key, value in draft.constants.items()
        }
        self._steps = tuple(_steps(draft, here))
        # Where a shape follows from values, it is not the same for all inputs of one shape.
        self._remembers = read <= here
        self._known: dict[Shapes, dict[str, torch.Tensor]] = {}

    def run(self, feeds: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """All outputs in graph order, each in memory of its own."""
        values: dict[str, torch.Tensor] = dict(self._constants)
        values |= {name: feeds[name] for name in self._inputs}
        shapes = tuple(tuple(feeds[name].shape) for name in self._inputs)
        known, fresh = self._known.get(shapes), dict[str, torch.Tensor]()
        values |= known or {}
        for step in self._steps:
            if known is None or not step.here:
                given = dict(zip(step.outputs, self._call(step, values), strict=True))
                values |= given
                fresh |= given if step.here else {}
            for name in step.last:
                del values[name]
        if known is None:
            self._remember(shapes, fresh)
        taken = {value.untyped_storage().data_ptr() for value in (*feeds.values(), *self._constants.values())}
        return [_own(values[name].to(self._device), taken) for name in self._outputs]

    def _call(self, step: _Step, values: Mapping[str, torch.Tensor]) -> Sequence[torch.Tensor]:
        inputs = [values[name] if name else None for name in step.inputs]
        if not step.here and self._device.type != "cpu":
            inputs = self._brought(step, inputs)
        made = step.call(*inputs, **step.attributes)
        return (made,) if isinstance(made, torch.Tensor) else made

    def _brought(self, step: _Step, inputs: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """Inputs where the call wants them: on the device, but for what it reads here."""
        stays = READ_HERE.get(step.operator, frozenset())
        plain = step.operator in torch_ops_math.OPERATORS
        brought = list(inputs)
        for place, value in enumerate(inputs):
            if value is None or place in stays or value.device == self._device:
                continue
            number = value.numel() == 1
            rank = max((other.dim() for other in inputs if other is not None and other is not value), default=0)
            if number and plain and value.dim() <= rank:
                # A number without axes is an argument of the kernel and needs no copy.
                brought[place] = value.reshape(())
            elif not (number and step.operator in _TAKE_NUMBERS):
                brought[place] = value.to(self._device)
        return brought

    def _remember(self, shapes: Shapes, fresh: dict[str, torch.Tensor]) -> None:
        """Keep what follows from these shapes, whole, so that another thread finds all or nothing."""
        if not self._remembers:
            return
        while len(self._known) >= _SIZES_MAX:
            self._known.pop(next(iter(self._known)), None)
        self._known[shapes] = fresh


def load_constants(constants: Mapping[str, Constant], name: str) -> dict[str, torch.Tensor]:
    """Tensors over the files that hold them, which are mapped: nothing is read yet, and nothing copied.

    Raises:
        IncompleteModelError: a file is missing or too short.
    """
    files: dict[Path, mmap.mmap] = {}
    tensors: dict[str, torch.Tensor] = {}
    for key, constant in constants.items():
        dtype = getattr(torch, constant.dtype)
        count = torch.Size(constant.dims).numel()
        if not count:
            tensors[key] = torch.empty(constant.dims, dtype=dtype)
            continue
        if constant.file is None:
            # A view of a read-only mapping cannot be a tensor; what stands in a skeleton is small.
            data: mmap.mmap | bytearray = bytearray(constant.data)
        else:
            data = files.setdefault(constant.file, _mapped(constant.file, name))
        if constant.offset + count * dtype.itemsize > len(data):
            raise IncompleteModelError(
                f"{name} cannot be loaded: its tensor {key} is not whole",
                hint="p2psync verify --repair, or pull the version again",
            )
        tensors[key] = torch.frombuffer(data, dtype=dtype, count=count, offset=constant.offset).reshape(constant.dims)
    return tensors


def _mapped(path: Path, name: str) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            # Private, so that torch may believe that it could write; it never does.
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise IncompleteModelError(f"{name} cannot be loaded: {path.name}: {error}") from error


def _prepared(node: Node, name: str) -> Node:
    """The node with the attributes that its function takes; tensors among them become torch's.

    A Split need not say in how many pieces, because its outputs do.
    """
    taken: dict[str, Any] = dict(arguments(node, name))
    if node.operator == "Split":
        taken["num_outputs"] = len(node.outputs)
    tensors = {key: value for key, value in taken.items() if isinstance(value, Constant)}
    return replace(node, attributes=taken | load_constants(tensors, name))


def _fold(draft: Draft, small: set[str], *, packed: bool) -> set[str]:
    """Compute what follows from constants alone. Returns the names of results that follow from ``small`` ones."""
    kept: list[Node] = []
    fresh: set[str] = set()
    for node in draft.nodes:
        names = [name for name in node.inputs if name]
        big = any(_bytes([draft.constants.get(name)]) > _GROWTH_BYTES_MAX for name in names)
        if not all(name in draft.constants for name in names) or (big and not packed):
            kept.append(node)
            continue
        inputs = [draft.constants[name] if name else None for name in node.inputs]
        made = OPERATORS[node.operator](*inputs, **node.attributes)
        results = (made,) if isinstance(made, torch.Tensor) else tuple(made)
        if not packed and _bytes(results) > _bytes(inputs) + _GROWTH_BYTES_MAX:
            kept.append(node)
            continue
        draft.constants.update(zip(node.outputs, results, strict=True))
        if all(name in small or name in fresh for name in names):
            fresh.update(node.outputs)
    draft.nodes = kept
    draft.replace(lambda _: None)
    return fresh


def _read_here(node: Node) -> Iterable[str]:
    """The inputs that the operator reads in this machine's memory."""
    places = READ_HERE.get(node.operator, frozenset())
    return (name for place, name in enumerate(node.inputs) if name and place in places)


def _bytes(tensors: Iterable[torch.Tensor | None]) -> int:
    return sum(value.numel() * value.itemsize for value in tensors if value is not None)


def _stays(value: torch.Tensor) -> bool:
    """Whether a constant of the skeleton is read here: a shape, an index, a number."""
    return value.numel() == 1 or not value.is_floating_point()


def _placed(value: torch.Tensor, device: torch.device, *, by_columns: bool) -> torch.Tensor:
    moved = value.to(device)
    return moved.t().contiguous().t() if by_columns else moved


def _steps(draft: Draft, here: set[str]) -> Iterable[_Step]:
    """The calls in order. Adds to ``here`` the names of what follows from shapes alone."""
    last: dict[str, int] = {}
    for at, node in enumerate(draft.nodes):
        last |= dict.fromkeys((*node.inputs, *node.outputs), at)
    kept = {"", *draft.outputs, *draft.constants}
    for at, node in enumerate(draft.nodes):
        alone = node.operator == "Shape" or all(name in here for name in node.inputs if name)
        if alone:
            here.update(node.outputs)
        done = tuple(name for name in dict.fromkeys((*node.inputs, *node.outputs)) if last[name] == at)
        yield _Step(
            OPERATORS[node.operator],
            node.operator,
            node.inputs,
            node.outputs,
            node.attributes,
            alone,
            tuple(name for name in done if name not in kept),
        )


def _own(value: torch.Tensor, taken: set[int]) -> torch.Tensor:
    """The value in memory that nobody else has and that holds nothing more."""
    storage = value.untyped_storage()
    if storage.data_ptr() in taken or storage.nbytes() != value.numel() * value.itemsize or not value.is_contiguous():
        return value.clone(memory_format=torch.contiguous_format)
    taken.add(storage.data_ptr())
    return value
