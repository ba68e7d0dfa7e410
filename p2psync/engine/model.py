"""One ONNX graph as a function from named arrays to arrays: ``load(path).run({name: array})``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from p2psync.content import external_tensors
from p2psync.engine import memory
from p2psync.engine.backends import Array, Session, backend, cast
from p2psync.engine.description import Tensor
from p2psync.errors import IncompleteModelError, UsageError
from p2psync.limits import PACKED_WEIGHTS_BYTES_MAX


class Model:
    """A loaded graph. Safe to call from several threads; ``close`` it, or use it as a context manager."""

    def __init__(self, session: Session, *, backend_name: str, path: Path) -> None:
        self._session = session
        self.backend = backend_name
        self.path = path

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What ``run`` takes, in graph order."""
        return self._session.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """What ``run`` returns, in graph order."""
        return self._session.outputs

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Run the graph once.

        Args:
            feeds: One array per input. Another type of the same kind is converted; shapes must fit.

        Returns:
            The outputs in graph order.

        Raises:
            UsageError: an input is missing, unknown, of another kind or of a shape that does not fit.
            UnsupportedModelError: the backend failed.
        """
        known = {tensor.name: tensor for tensor in self.inputs}
        if feeds.keys() != known.keys():
            raise UsageError(
                f"{self.path.name} takes {', '.join(known) or 'nothing'}; got {', '.join(feeds) or 'nothing'}"
            )
        return self._session.run({name: _fit(np.asarray(value), known[name]) for name, value in feeds.items()})

    def close(self) -> None:
        """Give back memory and mappings."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def load(
    path: str | os.PathLike[str],
    *,
    backend_name: str = "ort-cpu",
    packed: bool | None = None,
    threads: int | None = None,
) -> Model:
    """Load an ONNX model: a file, or a directory that holds one.

    Args:
        path: Weights may be inside, or in files beside it (safetensors or others) as ONNX external data.
        backend_name: What runs it.
        packed: Copy weights into the layout of the kernels (a third faster) instead of mapping them. None copies
            small weights where there is plenty of memory.
        threads: Of one run; None means one per processor.

    Raises:
        IncompleteModelError: there is no such file, or data that it names is missing.
        UnsupportedModelError: the backend does not run it.
        BackendUnavailableError: the backend is not here.
        IntegrityError: it is no ONNX file, or names files outside its directory.
    """
    file = _model_file(Path(path))
    if packed is None:
        packed = packs(weights_bytes(file))
    session = backend(backend_name).open(file, packed=packed, threads=threads)
    return Model(session, backend_name=backend_name, path=file)


def packs(count_bytes: int) -> bool:
    """Whether weights of that size are copied for the kernels: small ones, where there is room for the copy."""
    free = memory.available_bytes()
    return count_bytes <= PACKED_WEIGHTS_BYTES_MAX and (free is None or count_bytes * 4 <= free)


def weights_bytes(model: Path) -> int:
    """The bytes of a model with everything that it keeps in other files.

    Raises:
        IntegrityError: it is no ONNX file, or names files outside its directory.
    """
    with model.open("rb") as file:
        size = os.fstat(file.fileno()).st_size

        def read_at(offset: int, length: int) -> bytes:
            return os.pread(file.fileno(), length, offset)

        outside = external_tensors(str(model), size, read_at)
        return size + sum(tensor.length for tensors in outside.values() for tensor in tensors)


def _model_file(path: Path) -> Path:
    if path.is_dir():
        found = sorted(path.glob("*.onnx"))
        if len(found) != 1:
            raise IncompleteModelError(
                f"{path} holds {len(found)} .onnx files, not one", hint="name the file, or open_pipeline(directory)"
            )
        return found[0]
    if not path.is_file():
        raise IncompleteModelError(f"there is no model {path}")
    return path


def _fit(array: Array, tensor: Tensor) -> Array:
    if not np.can_cast(array.dtype, np.dtype(tensor.dtype), "same_kind"):
        raise UsageError(f"input {tensor.name} is {tensor.dtype}; got {array.dtype}")
    fits = len(array.shape) == len(tensor.dims) and all(
        not isinstance(want, int) or want == have for want, have in zip(tensor.dims, array.shape, strict=True)
    )
    if not fits:
        raise UsageError(f"input {tensor.name} has shape {list(tensor.dims)}; got {list(array.shape)}")
    return cast(array, tensor.dtype)
