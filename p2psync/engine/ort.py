"""onnxruntime, on the CPU and on CUDA: the one home of that library. Its exceptions end here.

Weights are ONNX external data in a file beside the skeleton, which onnxruntime maps; without packing they stay pages
of that file, shared between processes and given up under pressure. What a session runs on is read back after it was
made: onnxruntime falls back to the CPU without failing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from p2psync.engine import memory, tiny_graphs
from p2psync.engine.backends import CUDA_HINT, Array, Held, Probe
from p2psync.engine.description import Tensor
from p2psync.errors import (
    BackendUnavailableError,
    IncompleteModelError,
    MemoryShortError,
    P2PSyncError,
    UnsupportedModelError,
)

_CPU: Final = "CPUExecutionProvider"
_CUDA: Final = "CUDAExecutionProvider"
_DTYPES: Final = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}
# Work that must not wander from the device that was asked for. Shapes are computed on the CPU by design.
_HEAVY: Final = frozenset(
    {"MatMul", "Gemm", "Conv", "MultiHeadAttention", "Attention", "FusedMatMul", "MatMulInteger", "QLinearConv"}
)
# A product and its bias as one Gemm: on CUDA the bias is first written out as large as the result, which was a quarter
# of the time of a transformer block.
_AS_GEMM: Final = "MatMulAddFusion"
# What it logs as an error it also raises, and then we say it.
_FATAL_ONLY: Final = 4
# What says in an exception of the library, or of the compiler's, that memory or the room for a thread was refused.
_SHORT: Final = ("bad_alloc", "Failed to allocate memory", "out of memory", "CUDA failure 2:", "pthread_create failed")
# Kernels for INT8 that are faster than FP32 and do not saturate: without one of these, u8 x s8 on x86 adds pairs of
# products in 16 bits, unless weights are widened first, which is right and slow.
_INT8_FLAGS: Final = frozenset({"avx512_vnni", "avx_vnni", "asimddp", "i8mm"})
# A product of this size keeps all processors busy for milliseconds.
_RATE_SIDE: Final = 768
_RATE_RUNS: Final = 4


class OrtCpu:
    """onnxruntime on this machine's processors."""

    name = "ort-cpu"

    def open(self, skeleton: Path, *, packed: bool, threads: int | None = None) -> OrtSession:
        """Load a graph; see ``Backend.open``."""
        return OrtSession(_load(str(skeleton), [_CPU], packed=packed, threads=threads), "cpu")

    def probe(self) -> Probe:
        """Run what engines need. INT8 counts as fast only where the processor multiplies it without saturating."""
        precisions, operators, fault = _try_all(lambda model: _load(model, [_CPU], packed=True, threads=1))
        fast = {"float32"} | ({"int8"} & precisions if _INT8_FLAGS & memory.processor_flags() else set())
        return Probe(
            self.name,
            usable="float32" in precisions,
            why_not=fault,
            device=f"{memory.processors()} processors",
            precisions=precisions,
            fast=frozenset(fast),
            operators=operators,
            memory_bytes=memory.available_bytes(),
        )

    def rate(self, precision: str) -> float | None:
        """Operations per second of one large product; see ``Backend.rate``."""
        return _rate(lambda model: _load(model, [_CPU], packed=True, threads=None), precision)


class OrtCuda:
    """onnxruntime on one NVIDIA GPU."""

    name = "ort-cuda"

    def open(self, skeleton: Path, *, packed: bool, threads: int | None = None) -> OrtSession:
        """Load a graph; see ``Backend.open``. ``packed`` means nothing here: weights are copied to the device."""
        return OrtSession(_load(str(skeleton), [_CUDA, _CPU], packed=packed, threads=threads), "cuda")

    def probe(self) -> Probe:
        """Run what engines need. INT8 is dequantised by this provider, slower than FP16, so it never counts as fast."""
        precisions, operators, fault = _try_all(lambda model: _load(model, [_CUDA, _CPU], packed=True, threads=1))
        return Probe(
            self.name,
            usable="float32" in precisions,
            why_not=fault,
            device="CUDA device 0",
            precisions=precisions,
            fast=precisions & {"float16", "float32"},
            operators=operators,
            memory_bytes=None,
        )

    def rate(self, precision: str) -> float | None:
        """Operations per second of one large product; see ``Backend.rate``."""
        return _rate(lambda model: _load(model, [_CUDA, _CPU], packed=True, threads=None), precision)


class OrtSession:
    """One graph that onnxruntime has loaded, with its tensors described in our words."""

    def __init__(self, session: Any, device: str) -> None:
        self._session = session
        self._device = device
        self.inputs = tuple(_tensor(meta) for meta in session.get_inputs())
        self.outputs = tuple(_tensor(meta) for meta in session.get_outputs())

    @property
    def providers(self) -> tuple[str, ...]:
        """What onnxruntime says it runs on, read back from the session."""
        return tuple(self._session.get_providers())

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """All outputs in graph order."""
        with _running():
            return list(self._session.run(None, dict(feeds)))

    def step(self, feeds: Mapping[str, Array | Held]) -> list[Held]:
        """All outputs in graph order, kept on the device."""
        with _running():
            binding = self._session.io_binding()
            for name, value in feeds.items():
                if isinstance(value, np.ndarray):
                    binding.bind_cpu_input(name, value)
                else:
                    binding.bind_ortvalue_input(name, value)
            for tensor in self.outputs:
                binding.bind_output(tensor.name, self._device)
            self._session.run_with_iobinding(binding)
            return list(binding.get_outputs())

    def close(self) -> None:
        """Drop the session: its memory and its mappings go with it."""
        self._session = None


def _load(model: str | bytes, providers: Sequence[str], *, packed: bool, threads: int | None) -> Any:
    """Make a session and read back what it runs on."""
    library = _library()
    if providers[0] not in library.get_available_providers():
        raise BackendUnavailableError(f"this onnxruntime has no {providers[0]}", hint=CUDA_HINT)
    options = library.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads or memory.processors()
    options.inter_op_num_threads = 1
    # Waiting threads must not spin: where anybody else wants the processors, a run gets two to four times slower.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_prepacking", "0" if packed else "1")
    if not _INT8_FLAGS & memory.processor_flags():
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    with _loading(library, model):
        left_out = [_AS_GEMM] if providers[0] == _CUDA else None
        # Its own way back to the processor prints on standard output, where programs read ours.
        session = library.InferenceSession(
            model, options, providers=list(providers), disabled_optimizers=left_out, enable_fallback=0
        )
    session.disable_fallback()
    _check_placement(session, providers[0])
    return session


def _check_placement(session: Any, provider: str) -> None:
    """Refuse a session that runs elsewhere than it was asked to, whole or in its heavy nodes."""
    got = session.get_providers()
    if provider not in got:
        raise BackendUnavailableError(
            f"onnxruntime fell back to {', '.join(got)} instead of {provider}", hint=CUDA_HINT
        )
    # Releases that cannot say where nodes went are judged by their providers alone.
    placed: list[Any] = getattr(session, "get_provider_graph_assignment_info", list)()
    strayed = sorted(
        {
            node.op_type
            for subgraph in placed
            if subgraph.ep_name != provider
            for node in subgraph.get_nodes()
            if node.op_type in _HEAVY
        }
    )
    if strayed:
        raise BackendUnavailableError(
            f"{provider} has no kernel for {', '.join(strayed)} of this graph and would run it elsewhere",
            hint="take another variant or backend",
        )


def _library() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise memory.unloadable("onnxruntime", error, "pip install 'p2psync[engine]'") from error
    return onnxruntime


@contextmanager
def _loading(library: Any, model: str | bytes) -> Iterator[None]:
    """Turn what goes wrong while a graph is loaded into our errors."""
    what = "a small graph" if isinstance(model, bytes) else model
    try:
        yield
    except P2PSyncError:
        raise
    except Exception as error:
        text = _first_line(error)
        # onnxruntime tells these apart only in words. The file that did not fit in memory has a name like any other.
        if _is_short(error):
            raise memory.short(f"{what} cannot be loaded", text) from error
        if type(error).__name__ == "NoSuchFile" or "xternal" in text or "external data" in text.lower():
            raise IncompleteModelError(
                f"{what} cannot be loaded: {text}", hint="p2psync verify --repair, or pull the version again"
            ) from error
        raise UnsupportedModelError(
            f"onnxruntime {library.__version__} does not load {what}: {text}", hint="take another variant or backend"
        ) from error


@contextmanager
def _running() -> Iterator[None]:
    """Turn what goes wrong in a run into our errors."""
    try:
        yield
    except Exception as error:
        if _is_short(error):
            raise memory.short("a step of the model cannot be run", _first_line(error)) from error
        raise UnsupportedModelError(f"onnxruntime failed in a run: {_first_line(error)}") from error


def _is_short(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error) for words in _SHORT)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:400] if lines else type(error).__name__


def _tensor(meta: Any) -> Tensor:
    dtype = _DTYPES.get(meta.type)
    if dtype is None:
        raise UnsupportedModelError(f"tensor {meta.name} is a {meta.type}, which cannot cross this boundary")
    dims = tuple(size if isinstance(size, (int, str)) else "?" for size in meta.shape)
    return Tensor(meta.name, dtype, dims)


def _try_all(load: Callable[[bytes], Any]) -> tuple[frozenset[str], frozenset[str], str]:
    """Run one graph per precision and operator. The first fault says why nothing runs, if nothing does.

    Raises:
        MemoryShortError: that says nothing about what would run with more.
    """
    precisions: set[str] = set()
    operators: set[str] = set()
    fault = ""
    for name, model, feeds in _trials():
        try:
            session = load(model)
            with _running():
                (answer,) = session.run(None, feeds)
            if not np.isfinite(answer).all() or not np.any(answer):
                continue
        except MemoryShortError:
            raise
        except P2PSyncError as error:
            fault = fault or error.message
        else:
            (precisions if name.islower() else operators).add(name)
    return frozenset(precisions), frozenset(operators), "" if "float32" in precisions else fault


def _rate(load: Callable[[bytes], Any], precision: str) -> float | None:
    """Time a product of two square matrices, the best of a few."""
    side = _RATE_SIDE
    found = next((trial for trial in _trials((side, side)) if trial[0] == precision), None)
    if found is None:
        return None
    _, model, feeds = found
    try:
        session = load(model)
        seconds = []
        for _ in range(_RATE_RUNS):
            start = time.perf_counter()
            session.run(None, feeds)
            seconds.append(time.perf_counter() - start)
    except Exception:  # noqa: BLE001 - what does not run has no rate
        return None
    return 2 * side**3 / min(seconds)


def _trials(square: tuple[int, int] = (16, 16)) -> Iterator[tuple[str, bytes, dict[str, Array]]]:
    """Graphs that stand for a precision (lower case) or for an operator."""
    for name, kind in (("float32", tiny_graphs.FLOAT), ("float16", tiny_graphs.FLOAT16)):
        ones = np.ones(square, np.dtype(name))
        yield name, tiny_graphs.graph("MatMul", [(kind, square)] * 2, (kind, square)), {"x": ones, "y": ones}
    pair = [(tiny_graphs.UINT8, square), (tiny_graphs.INT8, square)]
    model = tiny_graphs.graph("MatMulInteger", pair, (tiny_graphs.INT32, square))
    yield "int8", model, {"x": np.full(square, 255, np.uint8), "y": np.ones(square, np.int8)}
    row = (1, 8, 32)
    half = np.ones(row, np.float16)
    trio = [(tiny_graphs.FLOAT16, row)] * 3
    model = tiny_graphs.graph("com.microsoft:MultiHeadAttention", trio, trio[0], num_heads=1)
    yield "MultiHeadAttention", model, {"x": half, "y": half, "w": half}
