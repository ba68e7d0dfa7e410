"""torch, on one NVIDIA GPU or on this machine's processors: the one home of that library, with its ``torch_`` modules.

The same skeletons and weights as elsewhere, for a machine that has torch and no onnxruntime, and for INT8 on a GPU,
whose linear layers are multiplied as integers. Weights are mapped; nothing of torch's own files is ever loaded.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from p2psync.engine import memory, tiny_graphs
from p2psync.engine.backends import Array, Held, Probe
from p2psync.engine.description import Tensor
from p2psync.engine.torch_graph import Graph, read, read_file
from p2psync.errors import BackendUnavailableError, MemoryShortError, P2PSyncError, UnsupportedModelError

HINT: Final = "pip install 'p2psync[torch]'"
# Products of these sides keep a device busy for milliseconds.
_RATE_SIDES: Final[Mapping[str, int]] = {"cpu": 768, "cuda": 4096}
_RATE_RUNS: Final = 4


class Torch:
    """torch on the first GPU that it knows, or else on the processors.

    Args:
        device: Take this one, ``cpu`` or ``cuda``.
    """

    name = "torch"

    def __init__(self, device: str | None = None) -> None:
        self._wanted = device

    def open(self, skeleton: Path, *, packed: bool, threads: int | None = None) -> TorchSession:
        """Load a graph; see ``Backend.open``. ``packed`` widens weights that are stored narrow once for all runs."""
        device = self._device()
        graph = read_file(skeleton)
        return TorchSession(graph, str(skeleton), device, packed=packed, threads=threads)

    def probe(self) -> Probe:
        """Run what engines need. INT8 is not fast: rounding and scaling cost what integer products save (docs)."""
        try:
            device = self._device()
        except BackendUnavailableError as error:
            return Probe(self.name, usable=False, why_not=error.message)
        gpu = device.type == "cuda"
        precisions, fault = _try_all(device)
        fast = precisions & ({"float16", "float32"} if gpu else {"float32"})
        return Probe(
            self.name,
            usable="float32" in precisions,
            why_not=fault,
            device=_library().cuda.get_device_name(device) if gpu else f"{memory.processors()} processors",
            precisions=precisions,
            fast=fast,
            memory_bytes=_library().cuda.mem_get_info(device)[0] if gpu else memory.available_bytes(),
            processor=not gpu,
        )

    def rate(self, precision: str) -> float | None:
        """Operations per second of one large product; see ``Backend.rate``.

        On processors every precision is computed in float32.
        """
        if precision not in {"float32", "float16", "int8"}:
            return None
        try:
            device = self._device()
            return _rate(device, precision if device.type == "cuda" else "float32")
        except P2PSyncError:
            return None

    def _device(self) -> Any:
        library = _library()
        wanted = self._wanted or ("cuda" if library.cuda.is_available() else "cpu")
        if wanted == "cuda" and not library.cuda.is_available():
            raise BackendUnavailableError("this torch sees no CUDA device", hint=HINT)
        return library.device(wanted, 0) if wanted == "cuda" else library.device(wanted)


@dataclass(frozen=True, slots=True)
class TorchHeld:
    """An output that stays with torch."""

    value: Any

    def numpy(self) -> Array:
        """Its values, copied to this machine's memory."""
        array: Array = self.value.cpu().numpy()
        return array


class TorchSession:
    """One graph that torch runs.

    Args:
        graph: What to run.
        name: Of the graph, for messages.
        device: Where.
        packed: See ``Torch.open``.
        threads: The same.
    """

    def __init__(self, graph: Graph, name: str, device: Any, *, packed: bool, threads: int | None = None) -> None:
        from p2psync.engine.torch_program import Program

        self.inputs: tuple[Tensor, ...] = graph.inputs
        self.outputs: tuple[Tensor, ...] = graph.outputs
        self._library = _library()
        self._name = name
        self._device = device
        self._threads = threads or memory.processors()
        with self._working(f"does not load {name}"):
            self._program: Program | None = Program(graph, name, device, packed=packed)

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """All outputs in graph order."""
        return [held.numpy() for held in self.step(feeds)]

    def step(self, feeds: Mapping[str, Array | Held]) -> list[Held]:
        """All outputs in graph order, kept where they were computed."""
        if self._program is None:
            raise UnsupportedModelError(f"{self._name} was closed")
        with self._working(f"failed in a run of {self._name}"):
            taken = {tensor.name: self._taken(tensor, feeds.get(tensor.name)) for tensor in self.inputs}
            return [TorchHeld(value) for value in self._program.run(taken)]

    def close(self) -> None:
        """Drop the graph: its memory and its mappings go with it."""
        self._program = None

    def _taken(self, tensor: Tensor, value: Array | Held | None) -> Any:
        if isinstance(value, np.ndarray):
            # torch takes no array that it may not write to, though it never does.
            array = np.require(value, requirements=["C", "W"])
            tensor_value = self._library.from_numpy(array)
        elif isinstance(value, TorchHeld):
            tensor_value = value.value
        else:
            raise UnsupportedModelError(f"input {tensor.name} was not given, or lies elsewhere")
        fits = len(tensor.dims) == tensor_value.dim() and all(
            isinstance(size, str) or size == given for size, given in zip(tensor.dims, tensor_value.shape, strict=True)
        )
        if not fits or tensor_value.dtype != getattr(self._library, tensor.dtype):
            raise UnsupportedModelError(
                f"input {tensor.name} is {tensor.dtype} {tensor.dims} and was given "
                f"{tensor_value.dtype} {tuple(tensor_value.shape)}"
            )
        return tensor_value.to(self._device)

    @contextmanager
    def _working(self, what: str) -> Iterator[None]:
        """The threads of this session, no gradients, and our errors."""
        library = self._library
        if library.get_num_threads() != self._threads:
            library.set_num_threads(self._threads)
        try:
            with library.inference_mode():
                yield
        except P2PSyncError:
            raise
        except (MemoryError, library.OutOfMemoryError) as error:
            raise memory.short(f"torch {what}", _first_line(error)) from error
        except Exception as error:
            raise UnsupportedModelError(
                f"torch {library.__version__} {what}: {_first_line(error)}", hint="take another variant or backend"
            ) from error


def _library() -> Any:
    # Waiting threads must not spin: where anybody else wants the processors, a run gets five times slower. torch reads
    # this once, when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import torch
    except (ImportError, OSError) as error:
        raise memory.unloadable("torch", error, HINT) from error
    return torch


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:400] if lines else type(error).__name__


def _try_all(device: Any) -> tuple[frozenset[str], str]:
    """Run one graph per precision. The first fault says why nothing runs, if nothing does.

    Raises:
        MemoryShortError: that says nothing about what would run with more.
    """
    square = (32, 32)
    precisions: set[str] = set()
    fault = ""
    for precision, kind in (("float32", tiny_graphs.FLOAT), ("float16", tiny_graphs.FLOAT16), ("int8", None)):
        model = (
            tiny_graphs.quantized_product(square)
            if kind is None
            else tiny_graphs.graph("MatMul", [(kind, square)] * 2, (kind, square))
        )
        ones = np.ones(square, np.float16 if precision == "float16" else np.float32)
        try:
            session = TorchSession(read(memoryview(model), "a small graph", Path()), precision, device, packed=True)
            (answer,) = session.run({"x": ones, "y": ones})
            if (answer == square[1]).all():
                precisions.add(precision)
        except MemoryShortError:
            raise
        except P2PSyncError as error:
            fault = fault or error.message
    return frozenset(precisions), "" if "float32" in precisions else fault or "it multiplies wrongly"


def _rate(device: Any, precision: str) -> float | None:
    """Time a product of two square matrices, the best of a few."""
    torch = _library()
    side = _RATE_SIDES[device.type]
    square = torch.ones((side, side), dtype=getattr(torch, precision), device=device)
    multiply = torch._int_mm if precision == "int8" else torch.mm  # noqa: SLF001 - it has no public name
    seconds = []
    try:
        for _ in range(_RATE_RUNS + 1):
            start = time.perf_counter()
            # Reading one value waits for all of them.
            multiply(square, square)[0, 0].item()
            seconds.append(time.perf_counter() - start)
    except RuntimeError:
        return None
    return float(2 * side**3 / min(seconds[1:]))
