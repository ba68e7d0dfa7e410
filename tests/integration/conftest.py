"""A published model and its running seed, which many tests read and none changes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.lab import Home, Publisher, Serving
from tests.integration.models import make_model


@dataclass(frozen=True, slots=True)
class Shop:
    """A publisher's home, the folder it published as acme/model, and the seed that serves it."""

    publisher: Publisher
    folder: Path
    published: dict[str, Any]
    seed: Serving

    def node(self, path: Path, program: tuple[str, ...] | None = None) -> Home:
        """A fresh home that trusts the publisher."""
        return self.publisher.node(path, program) if program else self.publisher.node(path)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """acme/model, 15 MB in six layers, published and served for the whole run."""
    base = tmp_path_factory.mktemp("shop")
    publisher = Publisher.at(base / "publisher")
    folder = make_model(base / "model")
    published = publisher.publish(folder)
    with publisher.home.serve() as seed:
        yield Shop(publisher, folder, published, seed)


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """A publisher of the test's own."""
    return Publisher.at(tmp_path / "publisher")


@pytest.fixture
def mount_tmpfs() -> Iterator[Callable[[Path, str], Path]]:
    """Mounts a small file system of its own at a path; without the right to, the test is skipped."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    with ExitStack() as mounts:

        def mount(path: Path, size: str) -> Path:
            path.mkdir(parents=True, exist_ok=True)
            done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=False)
            if done.returncode:
                pytest.skip("this machine does not let the test mount")
            mounts.callback(lambda: subprocess.run(["umount", "-l", path], check=True))
            return path

        yield mount
