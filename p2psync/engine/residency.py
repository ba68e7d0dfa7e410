"""Which parts of an engine are loaded now. With room all stay; when memory is short, one at a time."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2psync.content import Digest
from p2psync.engine import memory
from p2psync.engine.backends import Backend, Session
from p2psync.engine.description import Description, file_bytes
from p2psync.engine.model import packs
from p2psync.errors import IncompleteModelError
from p2psync.limits import MEMORY_SHARE


class Parts:
    """The sessions of one engine, by skeleton. Not for two threads at once: a pipeline runs one request at a time.

    Skeletons are those for the backend, or for the one that ``form`` names.
    """

    def __init__(
        self,
        described: Description,
        backend: Backend,
        *,
        threads: int | None,
        keep: bool | None,
        form: str | None = None,
    ) -> None:
        self._described = described
        self._backend = backend
        self._threads = threads
        self._sessions: dict[Path, Session] = {}
        chosen = {name: part.skeleton_for(form or backend.name) for name, part in described.parts.items()}
        self._skeletons = {name: described.path(path) for name, (path, _) in chosen.items()}
        self._digests = {name: str(digest) for name, (_, digest) in chosen.items()}
        self.needs_bytes = described.weights_bytes * growth(described.precision, backend.name)
        self.keeps_all = fits_together(self.needs_bytes) if keep is None else keep
        self._packed = packs(self.needs_bytes) and self.keeps_all
        for name in described.parts:
            prove_skeleton(described, name, form or backend.name)

    @property
    def loaded(self) -> frozenset[str]:
        """The parts that are loaded now."""
        return frozenset(name for name, path in self._skeletons.items() if path in self._sessions)

    def skeleton(self, name: str) -> str:
        """The digest of the skeleton that a part runs."""
        return self._digests[name]

    @contextmanager
    def session(self, name: str) -> Iterator[Session]:
        """A part, loaded. Where not all fit, the others have been closed, and it stays until another is asked for.

        Raises:
            ModelError: it cannot be loaded.
        """
        path = self._skeletons[name]
        if path not in self._sessions:
            if not self.keeps_all:
                self._close_others(name)
            file_bytes(path, name)
            self._described.bytes_of(name)
            self._sessions[path] = self._backend.open(path, packed=self._packed, threads=self._threads)
        yield self._sessions[path]

    def load_all(self) -> None:
        """Load every part once, so that what is missing is known, and the first request does not wait.

        Raises:
            ModelError: a part cannot be loaded.
        """
        for name in self._described.parts:
            with self.session(name):
                continue

    def close(self) -> None:
        """Give back all memory and mappings."""
        while self._sessions:
            self._sessions.popitem()[1].close()

    def _close_others(self, name: str) -> None:
        """Close what is not used in one turn with ``name``: the graphs of the decoder alternate, and share weights."""
        turn = {path for other, path in self._skeletons.items() if _is_decoder(other) and _is_decoder(name)}
        for path in [path for path in self._sessions if path not in turn]:
            self._sessions.pop(path).close()


def _is_decoder(part: str) -> bool:
    return part.startswith("decode")


def growth(precision: str, backend: str) -> int:
    """How many times its size on disk an engine takes in memory: a processor computes FP16 weights as FP32."""
    return 2 if backend == "ort-cpu" and precision == "fp16" else 1


def fits_together(count_bytes: int) -> bool:
    """Whether weights of that size may all be loaded at once. Unknown memory is enough memory."""
    free = memory.available_bytes()
    return free is None or count_bytes <= free * MEMORY_SHARE


def prove_skeleton(described: Description, name: str, backend: str) -> None:
    """Demand that the skeleton that ``backend`` runs is the one that ``engine.json`` names.

    Raises:
        IncompleteModelError: it is missing, or of another version.
    """
    relative, digest = described.parts[name].skeleton_for(backend)
    _prove(described.path(relative), digest, name)


def prove_weights(described: Description) -> None:
    """Demand the same of all weights. Reads every byte: a gigabyte takes a fraction of a second from memory.

    Raises:
        IncompleteModelError: a file is missing, or of another version.
    """
    for name, part in described.parts.items():
        if part.weights is not None and part.weights_digest is not None:
            _prove(described.path(part.weights), part.weights_digest, name)


def _prove(path: Path, digest: Digest, name: str) -> None:
    size = file_bytes(path, name)
    with path.open("rb") as file:
        if size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
                found = Digest.of(view)
        else:
            found = Digest.of(b"")
    if found != digest:
        raise IncompleteModelError(
            f"part {name}: {path.name} is not the one that engine.json was written for",
            hint="p2psync verify --repair, or pull the version again",
        )
