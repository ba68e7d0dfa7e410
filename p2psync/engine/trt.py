"""TensorRT and TensorRT-RTX: graphs run by plans that are built on the machine that runs them.

A plan is for one set of shapes; the first run at a size builds it, which takes seconds, or reads it from the cache.
Inputs and outputs stay on the device between steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from p2psync.engine import tiny_graphs
from p2psync.engine.backends import Array, Held, Probe
from p2psync.engine.cuda import Buffer, Device
from p2psync.engine.description import Tensor
from p2psync.engine.plan_cache import PlanCache, contents_of, default_folder, key_of
from p2psync.engine.plans import Builder, Shapes
from p2psync.errors import P2PSyncError, UnsupportedModelError

# Plans that a session keeps loaded: a pipeline has one or two sizes of each part.
_LOADED_MAX: Final = 4
_RATE_SIDE: Final = 2048
_RATE_RUNS: Final = 8
_FAST: Final = frozenset({"float16", "int8"})


class TensorRt:
    """TensorRT on one NVIDIA GPU."""

    name = "tensorrt"

    def open(self, skeleton: Path, *, packed: bool, threads: int | None = None) -> TrtSession:
        """Load a graph; see ``Backend.open``. ``packed`` and ``threads`` mean nothing here."""
        builder, device = Builder(self.name), Device()
        contents = contents_of(skeleton)
        cache = PlanCache(default_folder())

        def plan(shapes: Shapes) -> bytes:
            key = key_of(contents, shapes, builder.version, device.name)
            return cache.get(key, lambda: builder.build(skeleton, shapes))

        return TrtSession(builder, device, skeleton, plan)

    def probe(self) -> Probe:
        """Build and run what engines need; every precision that runs has kernels here."""
        try:
            builder, device = Builder(self.name), Device()
        except P2PSyncError as error:
            return Probe(self.name, usable=False, why_not=error.message)
        precisions, fault = _try_all(builder, device)
        return Probe(
            self.name,
            usable="float32" in precisions,
            why_not=fault,
            device=device.name,
            precisions=precisions,
            fast=precisions & (_FAST | {"float32"}),
            memory_bytes=device.free_bytes(),
        )

    def rate(self, precision: str) -> float | None:
        """Operations per second of one large product; see ``Backend.rate``."""
        found = next((trial for trial in _trials(_RATE_SIDE) if trial[0] == precision), None)
        if found is None:
            return None
        _, model, feeds = found
        try:
            builder, device = Builder(self.name), Device()
            session = _small(builder, device, model)
            seconds = min(_timed(session, device, feeds) for _ in range(_RATE_RUNS))
        except P2PSyncError:
            return None
        return 2.0 * _RATE_SIDE**3 / seconds


class TensorRtRtx(TensorRt):
    """TensorRT-RTX on one NVIDIA GPU of compute capability 7.5, 8.x but 8.7, or 12."""

    name = "tensorrt-rtx"


@dataclass(frozen=True, slots=True)
class Kept:
    """An output that stays on the device."""

    device: Device
    buffer: Buffer
    shape: tuple[int, ...]
    dtype: str

    def numpy(self) -> Array:
        """Its values, copied to this machine's memory."""
        return self.device.download(self.buffer, self.shape, self.dtype)


class TrtSession:
    """One graph, and the plans of the sizes that it was run at.

    Args:
        builder: Loads plans.
        device: Where they run.
        skeleton: What they are built of.
        plan: Gives the plan for some shapes.
    """

    def __init__(
        self, builder: Builder, device: Device, skeleton: Path | bytes, plan: Callable[[Shapes], bytes]
    ) -> None:
        border = builder.border(skeleton)
        self.inputs: tuple[Tensor, ...] = border.inputs
        self.outputs: tuple[Tensor, ...] = border.outputs
        self._builder = builder
        self._device = device
        self._plan = plan
        self._loaded: dict[tuple[tuple[int, ...], ...], tuple[Any, Any]] = {}

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """All outputs in graph order."""
        return [held.numpy() for held in self.step(feeds)]

    def step(self, feeds: Mapping[str, Array | Held]) -> list[Held]:
        """All outputs in graph order, kept on the device."""
        taken = [self._taken(tensor, feeds) for tensor in self.inputs]
        context = self._context({tensor.name: kept.shape for tensor, kept in zip(self.inputs, taken, strict=True)})
        for tensor, kept in zip(self.inputs, taken, strict=True):
            self._set(context.set_input_shape(tensor.name, kept.shape), tensor)
            self._set(context.set_tensor_address(tensor.name, kept.buffer.address), tensor)
        given: list[Held] = []
        for tensor in self.outputs:
            shape = tuple(int(size) for size in context.get_tensor_shape(tensor.name))
            if any(size < 0 for size in shape):
                raise UnsupportedModelError(f"the shape of output {tensor.name} depends on values")
            size_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(tensor.dtype).itemsize
            kept = Kept(self._device, self._device.allocate(size_bytes), shape, tensor.dtype)
            self._set(context.set_tensor_address(tensor.name, kept.buffer.address), tensor)
            given.append(kept)
        if not context.execute_async_v3(self._device.stream):
            raise UnsupportedModelError(f"{self._builder.version} failed in a run")
        # What was uploaded for this run is freed when this returns.
        self._device.wait()
        return given

    def keep(self, array: Array) -> Kept:
        """A copy of an array on the device, which steps take from there."""
        return Kept(self._device, self._device.upload(array), array.shape, str(array.dtype))

    def close(self) -> None:
        """Drop the plans: their memory goes with them."""
        self._loaded.clear()

    def _taken(self, tensor: Tensor, feeds: Mapping[str, Array | Held]) -> Kept:
        value = feeds.get(tensor.name)
        kept = self.keep(value) if isinstance(value, np.ndarray) else value
        if not isinstance(kept, Kept):
            raise UnsupportedModelError(f"input {tensor.name} was not given, or lies on another device")
        fits = len(kept.shape) == len(tensor.dims) and all(
            isinstance(size, str) or size == given for size, given in zip(tensor.dims, kept.shape, strict=True)
        )
        if kept.dtype != tensor.dtype or not fits:
            raise UnsupportedModelError(
                f"input {tensor.name} is {tensor.dtype} {tensor.dims} and was given {kept.dtype} {kept.shape}"
            )
        return kept

    def _context(self, shapes: Shapes) -> Any:
        """The execution context of the plan for these shapes; the one that was used first makes room."""
        key = tuple(shapes[tensor.name] for tensor in self.inputs)
        if key not in self._loaded:
            while len(self._loaded) >= _LOADED_MAX:
                self._loaded.pop(next(iter(self._loaded)))
            engine = self._builder.load(self._plan(shapes))
            context = engine.create_execution_context()
            if context is None:
                raise UnsupportedModelError(f"{self._builder.version} has no memory to run this graph")
            # A context does not keep its engine.
            self._loaded[key] = engine, context
        return self._loaded[key][1]

    def _set(self, good: bool, tensor: Tensor) -> None:  # noqa: FBT001 - what the library returned
        if not good:
            raise UnsupportedModelError(f"{self._builder.version} refuses tensor {tensor.name}")


def _small(builder: Builder, device: Device, model: bytes) -> TrtSession:
    return TrtSession(builder, device, model, lambda shapes: builder.build(model, shapes))


def _timed(session: TrtSession, device: Device, feeds: Mapping[str, Array]) -> float:
    kept = {name: session.keep(array) for name, array in feeds.items()}
    session.step(kept)
    device.wait()
    start = time.perf_counter()
    session.step(kept)
    return time.perf_counter() - start


def _try_all(builder: Builder, device: Device) -> tuple[frozenset[str], str]:
    """Run one graph per precision. The first fault says why nothing runs, if nothing does."""
    precisions: set[str] = set()
    fault = ""
    for name, model, feeds in _trials(16):
        try:
            (answer,) = _small(builder, device, model).run(feeds)
        except P2PSyncError as error:
            fault = fault or error.message
            continue
        if np.isfinite(answer).all() and np.any(answer):
            precisions.add(name)
    return frozenset(precisions), "" if "float32" in precisions else fault or "a product of ones gives no number"


def _trials(side: int) -> Iterator[tuple[str, bytes, dict[str, Array]]]:
    square = (side, side)
    for name, kind in (("float32", tiny_graphs.FLOAT), ("float16", tiny_graphs.FLOAT16)):
        ones = np.ones(square, np.dtype(name))
        yield name, tiny_graphs.graph("MatMul", [(kind, square)] * 2, (kind, square)), {"x": ones, "y": ones}
    ones = np.ones(square, np.float32)
    yield "int8", tiny_graphs.quantized_product(square), {"x": ones, "y": ones}
