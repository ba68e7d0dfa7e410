"""The libraries that run an engine, by name: which are here, what each really runs, and how one is opened.

A backend is taken for usable only after it ran small graphs: a provider that is listed may lack its driver, and what
it cannot do it may hand to another device without a word. That is an error here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from p2psync.engine.description import Tensor
from p2psync.errors import BackendUnavailableError, MemoryShortError

Array = NDArray[Any]

# From the one that is tried first.
NAMES: Final = ("tensorrt", "tensorrt-rtx", "ort-cuda", "torch", "ort-cpu")
_HOMES: Final[Mapping[str, tuple[str, str]]] = {
    "tensorrt": ("trt", "TensorRt"),
    "tensorrt-rtx": ("trt", "TensorRtRtx"),
    "ort-cuda": ("ort", "OrtCuda"),
    "torch": ("torch_backend", "Torch"),
    "ort-cpu": ("ort", "OrtCpu"),
}

# What a GPU that torch knows looks like on Linux.
_GPU_NODES: Final = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))
CUDA_HINT: Final = "pip install 'p2psync[gpu]', with a driver and the CUDA and cuDNN that onnxruntime-gpu names"


@dataclass(frozen=True, slots=True)
class Probe:
    """What a backend showed that it can do. ``why_not`` says why it is not usable; ``memory_bytes`` is free memory.

    ``precisions`` it runs at all, ``fast`` are those that it has kernels for; ``operators`` beyond the plain ones.
    ``processor`` says that a backend that can have a GPU found none, and computes on this machine's processors.
    """

    backend: str
    usable: bool
    why_not: str = ""
    device: str = ""
    precisions: frozenset[str] = frozenset()
    fast: frozenset[str] = frozenset()
    operators: frozenset[str] = frozenset()
    memory_bytes: int | None = None
    processor: bool = False


class Held(Protocol):
    """A tensor that stays where the backend made it."""

    def numpy(self) -> Array:
        """Its values, copied to this machine's memory."""
        ...


class Session(Protocol):
    """One graph that is loaded."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What it takes, in graph order."""
        ...

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """What it gives, in graph order."""
        ...

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """All outputs in graph order."""
        ...

    def step(self, feeds: Mapping[str, Array | Held]) -> list[Held]:
        """All outputs in graph order, kept on the device, so that the next call can take them from there."""
        ...

    def close(self) -> None:
        """Give back memory and mappings. Nothing else works afterwards."""
        ...


class Backend(Protocol):
    """One library on one kind of device."""

    @property
    def name(self) -> str:
        """One of ``NAMES``."""
        ...

    def probe(self) -> Probe:
        """Run small graphs and report."""
        ...

    def rate(self, precision: str) -> float | None:
        """Operations per second of one large product in a precision of ``Probe``; None where it does not run."""
        ...

    def open(self, skeleton: Path, *, packed: bool, threads: int | None = None) -> Session:
        """Load a graph and map its weights.

        Args:
            skeleton: The .onnx file; its external data lies in the same directory.
            packed: Copy weights into the layout of the kernels: faster runs, for memory and a slower start.
            threads: Of one run; None means one per processor.

        Raises:
            BackendUnavailableError: the library or device is not here, or would hand work to another device.
            UnsupportedModelError: the graph holds what this backend does not run.
            IncompleteModelError: a file is missing or is another one than the graph needs.
            MemoryShortError: it does not fit in memory. Sessions raise that in a run, too.
        """
        ...


def backend(name: str) -> Backend:
    """The backend of that name; its library is not loaded before it is used.

    Raises:
        BackendUnavailableError: there is none of that name.
    """
    if name not in NAMES:
        raise BackendUnavailableError(f"there is no backend {name!r}", hint=f"one of: {', '.join(NAMES)}")
    module, kind = _HOMES[name]
    made: Backend = getattr(importlib.import_module(f"p2psync.engine.{module}"), kind)()
    return made


@cache
def probe(name: str) -> Probe:
    """What the backend of that name can do here, found out once per process.

    Raises:
        MemoryShortError: there was not enough to try it; that is not remembered.
    """
    try:
        return backend(name).probe()
    except BackendUnavailableError as error:
        return Probe(name, usable=False, why_not=error.message)


def probes() -> tuple[Probe, ...]:
    """One probe per name, in the order in which backends are tried.

    torch is left out where it would not be taken, without a GPU and beside onnxruntime: loading it takes seconds.

    Raises:
        MemoryShortError: there was not enough to try one, and no other is usable.
    """
    found: dict[str, Probe] = {}
    short: list[MemoryShortError] = []

    def add(name: str) -> None:
        try:
            found[name] = probe(name)
        except MemoryShortError as error:
            short.append(error)
            found[name] = Probe(name, usable=False, why_not=error.message)

    for name in NAMES:
        if name != "torch":
            add(name)
    if not found["ort-cpu"].usable or any(node.exists() for node in _GPU_NODES):
        add("torch")
    if short and not any(tried.usable for tried in found.values()):
        raise short[0]
    return tuple(found[name] for name in NAMES if name in found)


def cast(array: Array, dtype: str) -> Array:
    """The array in the type that an input has. bfloat16, which numpy lacks, is refused where sessions open."""
    return np.ascontiguousarray(array, dtype=np.dtype(dtype))


def by_position(session: Session, values: Sequence[Array | Held]) -> dict[str, Array | Held]:
    """Feeds for a session whose inputs are filled in graph order."""
    return {tensor.name: value for tensor, value in zip(session.inputs, values, strict=True)}
