"""One place that always answers: a new version loads beside the old one and takes over between two requests.

A version takes over only after it loaded and answered its golden probe. Until then, and if it fails, the old one goes
on serving; no request waits for a load, and none is lost.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2psync.engine import memory
from p2psync.engine.pipeline import Pipeline, open_pipeline
from p2psync.engine.pointers import Pointers, Target
from p2psync.engine.probe import Answer, check, probe_of, read_probe
from p2psync.errors import IncompleteModelError, MemoryShortError, P2PSyncError
from p2psync.limits import MEMORY_SHARE


class Serving:
    """The engine of one model that answers requests. Safe for several threads; requests run one after another."""

    def __init__(self, pointers: Pointers) -> None:
        self._pointers = pointers
        self._turn = threading.Lock()
        self._changing = threading.Lock()
        self._pipeline: Pipeline | None = None
        self._answers: tuple[Answer, ...] = ()
        self.target: Target | None = None

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        """The engine that runs now, for one request.

        Raises:
            IncompleteModelError: none was activated.
        """
        with self._turn:
            if self._pipeline is None:
                raise IncompleteModelError("no engine is active", hint="p2psync pull REF")
            yield self._pipeline

    def start(self) -> Target:
        """Load what the pointers name: the current engine, or when it does not run, the last good one.

        The pointers stay where only memory was short: with more of it the current one runs.

        Raises:
            P2PSyncError: neither runs; the error is that of the current one.
        """
        faults: list[P2PSyncError] = []
        # Once one went back, both pointers name the same.
        for target in dict.fromkeys((self._pointers.current(), self._pointers.last_good())):
            if target is None:
                continue
            try:
                self._take_over(self._proved(target), target)
            except P2PSyncError as error:
                faults.append(error)
                continue
            if faults and not isinstance(faults[0], MemoryShortError):
                self._pointers.go_back()
            return target
        raise faults[0] if faults else IncompleteModelError("no engine is active", hint="p2psync pull REF")

    def activate(self, target: Target) -> tuple[Answer, ...]:
        """Load ``target`` beside the engine that runs, let it answer its probe, and let it take over.

        Returns:
            The answers to the probe; empty where the version has none.

        Raises:
            MemoryShortError: there is no room for two; the old one goes on.
            ModelError: it does not load, or answers wrongly; the old one goes on.
            StoreError: the pointers cannot be written; the old one goes on.
        """
        with self._changing:
            pipeline = self._proved(target)
            try:
                self._pointers.switch(target)
            except BaseException:
                pipeline.close()
                raise
            self._take_over(pipeline, target)
            return self._answers

    def close(self) -> None:
        """Stop answering."""
        with self._turn:
            if self._pipeline is not None:
                self._pipeline.close()
            self._pipeline = None

    def _proved(self, target: Target) -> Pipeline:
        """The engine of ``target``, loaded and probed, not yet in use."""
        pipeline = open_pipeline(Path(target.path), target.backend or None, prove=True)
        try:
            check_headroom(pipeline.parts.needs_bytes)
            pipeline.parts.load_all()
            file = probe_of(target.path)
            self._answers = () if file is None else check(pipeline, read_probe(file))
        except BaseException:
            pipeline.close()
            raise
        return pipeline

    def _take_over(self, pipeline: Pipeline, target: Target) -> None:
        with self._turn:
            before, self._pipeline, self.target = self._pipeline, pipeline, target
        if before is not None:
            before.close()


def check_headroom(needs_bytes: int) -> None:
    """Demand room for another engine beside what runs.

    Raises:
        MemoryShortError: there is not enough.
    """
    free = memory.available_bytes()
    if free is not None and needs_bytes > free * MEMORY_SHARE:
        raise MemoryShortError(
            f"a second engine needs {needs_bytes / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are available",
            needed_bytes=needs_bytes,
            available_bytes=free,
            hint="stop the engine first, or activate a smaller variant",
        )
