"""Plans: what TensorRT, or TensorRT-RTX, builds from a skeleton for one device and one set of shapes.

Types are those of the graph ("strongly typed"), INT8 is what the graph quantises by itself; there is no calibrator and
no flag of precision. Shapes are fixed when a plan is built, which gives the fastest kernels and needs no guess of a
range; another size builds another plan. Source: TensorRT 11 Python API; TensorRT-RTX 1.7 has the same names.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from p2psync.engine import memory
from p2psync.engine.cuda import HINT
from p2psync.engine.description import Tensor
from p2psync.errors import IncompleteModelError, UnsupportedModelError

Shapes = Mapping[str, tuple[int, ...]]

MODULES: Final[Mapping[str, str]] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_MESSAGES_KEPT: Final = 8
_MESSAGE_CHARS_MAX: Final = 400


@dataclass(frozen=True, slots=True)
class Border:
    """What a graph takes and gives, in graph order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Builder:
    """Parses skeletons and builds plans of them. Needs no GPU where ``capability`` names one.

    Args:
        name: ``tensorrt`` or ``tensorrt-rtx``.
        capability: A member of ``ComputeCapability``, such as ``SM89``; None builds for the GPU that is here.

    Raises:
        BackendUnavailableError: the library is not installed, or its own libraries are missing.
    """

    def __init__(self, name: str, capability: str | None = None) -> None:
        self.name = name
        self.library = load_library(name)
        self.version = f"{name} {self.library.__version__}"
        self._capability = capability
        self._logger = _logger(self.library)

    def border(self, skeleton: Path | bytes) -> Border:
        """What a graph takes and gives. Weights are not needed for it, and must be there.

        Raises:
            UnsupportedModelError: the parser knows no such operator or type.
            IncompleteModelError: a file is missing.
        """
        _builder, network = self._parse(skeleton)
        return Border(
            tuple(self._tensor(network.get_input(i)) for i in range(network.num_inputs)),
            tuple(self._tensor(network.get_output(i)) for i in range(network.num_outputs)),
        )

    def build(self, skeleton: Path | bytes, shapes: Shapes) -> bytes:
        """The plan of a graph whose inputs have exactly these shapes.

        Raises:
            UnsupportedModelError: the graph does not fit the shapes, or has no kernel.
            IncompleteModelError: a file is missing.
        """
        builder, network = self._parse(skeleton)
        config = builder.create_builder_config()
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            taken = network.get_input(index)
            shape = shapes[taken.name]
            if not _fits(tuple(taken.shape), shape):
                raise UnsupportedModelError(f"input {taken.name} is {tuple(taken.shape)} and was given {shape}")
            profile.set_shape(taken.name, shape, shape, shape)
        config.add_optimization_profile(profile)
        if self._capability is not None:
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(self.library.ComputeCapability, self._capability), 0)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise UnsupportedModelError(
                f"{self.version} builds no plan of {_said(skeleton)}: {self._logger.last()}",
                hint="take another variant or backend",
            )
        return bytes(plan)

    def load(self, plan: bytes) -> Any:
        """An ``ICudaEngine`` of a plan.

        Raises:
            UnsupportedModelError: it was built by another version or for another device.
        """
        engine = self.library.Runtime(self._logger).deserialize_cuda_engine(plan)
        if engine is None:
            raise UnsupportedModelError(f"{self.version} does not load a plan: {self._logger.last()}")
        return engine

    def _parse(self, skeleton: Path | bytes) -> tuple[Any, Any]:
        builder = self.library.Builder(self._logger)
        # Before TensorRT 11 a network is strongly typed by a flag; after it, always.
        flag = getattr(self.library.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = builder.create_network(0 if flag is None else 1 << int(flag))
        parser = self.library.OnnxParser(network, self._logger)
        if isinstance(skeleton, Path):
            if not skeleton.is_file():
                raise IncompleteModelError(f"{skeleton} is missing", hint="p2psync verify --repair")
            good = parser.parse_from_file(str(skeleton))
        else:
            good = parser.parse(skeleton)
        if not good:
            said = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))[:_MESSAGE_CHARS_MAX]
            fault = IncompleteModelError if "external" in said.lower() else UnsupportedModelError
            raise fault(f"{self.version} does not read {_said(skeleton)}: {said}")
        return builder, network

    def _tensor(self, found: Any) -> Tensor:
        try:
            dtype = self.library.nptype(found.dtype).__name__
        except TypeError as error:
            raise UnsupportedModelError(f"tensor {found.name} is a {found.dtype}, which cannot cross here") from error
        dims = tuple(int(size) if size >= 0 else f"{found.name}.{axis}" for axis, size in enumerate(found.shape))
        return Tensor(found.name, dtype, dims)


def load_library(name: str) -> Any:
    """The module of ``tensorrt`` or ``tensorrt-rtx``.

    Raises:
        BackendUnavailableError: it is not here, or does not load.
    """
    module = MODULES[name]
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise memory.unloadable(module, error, HINT) from error


def _fits(declared: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return len(declared) == len(shape) and all(size in (-1, given) for size, given in zip(declared, shape, strict=True))


def _said(skeleton: Path | bytes) -> str:
    return skeleton.name if isinstance(skeleton, Path) else "a small graph"


def _logger(library: Any) -> Any:
    """A logger that keeps the last errors: the libraries return nothing and say why only there."""

    class Logger(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._kept: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                self._kept = [*self._kept[1 - _MESSAGES_KEPT :], message[:_MESSAGE_CHARS_MAX]]

        def last(self) -> str:
            return self._kept[-1] if self._kept else "no reason given"

    return Logger()
