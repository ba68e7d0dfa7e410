"""The memory and the stream of one NVIDIA GPU, through cuda-bindings: the one home of that library.

Only what a runtime needs that brings no memory of its own: allocate, copy both ways, wait. Source: CUDA Runtime API,
sections "Memory Management" and "Stream Management".
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from p2psync.engine import memory
from p2psync.engine.backends import Array
from p2psync.errors import BackendUnavailableError, MemoryShortError, UnsupportedModelError

HINT: Final = "pip install 'p2psync[tensorrt]', on a machine with an NVIDIA GPU and its driver"
_OUT_OF_MEMORY: Final = 2


class Buffer:
    """Bytes on the device. Freed with the object; ``address`` is what kernels take."""

    def __init__(self, address: int, size_bytes: int, free: Callable[[int], None]) -> None:
        self.address = address
        self.size_bytes = size_bytes
        self._free = weakref.finalize(self, free, address)

    def close(self) -> None:
        """Give the memory back now."""
        self._free()


class Device:
    """The first GPU of this machine, with a stream of its own.

    Raises:
        BackendUnavailableError: the library, the driver or a device is not here.
    """

    def __init__(self) -> None:
        self._runtime = _library()
        if self._call("cudaGetDeviceCount") < 1:
            raise BackendUnavailableError("this machine has no CUDA device", hint=HINT)
        properties = self._call("cudaGetDeviceProperties", 0)
        name = properties.name.decode(errors="replace") if isinstance(properties.name, bytes) else properties.name
        # Plans are built for it, so whatever makes two devices differ for a builder stands in its name.
        self.name = f"{name.strip(chr(0))}, {properties.major}.{properties.minor}"
        self.stream = int(self._call("cudaStreamCreate"))

    def free_bytes(self) -> int:
        """Device memory that nobody has."""
        free, _total = self._call("cudaMemGetInfo")
        return int(free)

    def allocate(self, size_bytes: int) -> Buffer:
        """Uninitialised device memory.

        Raises:
            MemoryShortError: the device has no more.
        """
        # An empty tensor needs an address too.
        size = max(size_bytes, 1)
        code, address = self._runtime.cudaMalloc(size)
        if int(code) == _OUT_OF_MEMORY:
            raise MemoryShortError(
                f"the GPU has no {size:,} bytes left",
                needed_bytes=size,
                available_bytes=self.free_bytes(),
                hint="close what else uses the GPU, or take a smaller variant",
            )
        self._check("cudaMalloc", code)
        return Buffer(int(address), size, lambda pointer: self._runtime.cudaFree(pointer) and None)

    def upload(self, array: Array) -> Buffer:
        """A copy of an array on the device, in C order."""
        plain = np.ascontiguousarray(array)
        buffer = self.allocate(plain.nbytes)
        if plain.nbytes:
            self._copy(buffer.address, plain.ctypes.data, plain.nbytes, "cudaMemcpyHostToDevice")
            # The array may be gone once this returns.
            self.wait()
        return buffer

    def download(self, buffer: Buffer, shape: tuple[int, ...], dtype: str) -> Array:
        """An array of what the device has written, once it has finished what it was given."""
        array: Array = np.empty(shape, np.dtype(dtype))
        if array.nbytes:
            self._copy(array.ctypes.data, buffer.address, array.nbytes, "cudaMemcpyDeviceToHost")
        self.wait()
        return array

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        self._call("cudaStreamSynchronize", self.stream)

    def _copy(self, to: int, of: int, size_bytes: int, way: str) -> None:
        kind = getattr(self._runtime.cudaMemcpyKind, way)
        self._call("cudaMemcpyAsync", to, of, size_bytes, kind, self.stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        code, *results = getattr(self._runtime, name)(*arguments)
        self._check(name, code)
        return results[0] if len(results) == 1 else results

    def _check(self, name: str, code: Any) -> None:
        if int(code) == 0:
            return
        text = f"{name} failed: {getattr(code, 'name', code)}"
        if name in ("cudaGetDeviceCount", "cudaGetDeviceProperties", "cudaStreamCreate"):
            raise BackendUnavailableError(text, hint=HINT)
        raise UnsupportedModelError(text)


def _library() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise memory.unloadable("cuda-bindings", error, HINT) from error
    return runtime
