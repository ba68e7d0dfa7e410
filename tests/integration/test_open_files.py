"""Nodes that may have few files and connections open: what they need, say, and do not let others take."""

from __future__ import annotations

import os
import random
import socket
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.integration.lab import Home, Publisher, until
from tests.integration.models import assert_equal_files

FILES = 40
# Fewer than a pull of so many files would keep open, and more than the program itself needs.
FEW = 24
# A node that serves needs some more for its index, its listeners and its own socket.
FEW_SERVING = 40


def limited(files: int) -> tuple[str, ...]:
    """The real program in a process that may have so many files open."""
    settings = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))"
    return (sys.executable, "-c", f"{settings}; from p2psync.cli.main import entry; entry()")


@pytest.fixture
def many_files(tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(FILES):
        (folder / f"{number}.bin").write_bytes(random.Random(number).randbytes(300_000 + number))
    return folder


def test_pull_with_few_files_open(publisher: Publisher, many_files: Path, tmp_path: Path) -> None:
    """More files than may be open are written all the same; with too few for the program itself the error says what to
    change, and the same pull then ends well.
    """
    reference = publisher.publish(many_files)["reference"]
    with publisher.home.serve() as seed:
        few = publisher.node(tmp_path / "few", limited(FEW))
        assert_equal_files(Path(few.run("pull", reference, "--from", seed.url).line), many_files)
        for number in (8, 12, 14, 16):
            node = publisher.node(tmp_path / f"{number}")
            least = Home(node.path, limited(number))
            failed = least.run("pull", reference, "--from", seed.url, "--json", code=None)
            if failed.code:
                assert failed.code == 6, failed.stdout
                assert failed.error["code"].startswith("store")
            path = Path(node.run("pull", reference, "--from", seed.url).line)
            assert_equal_files(path, many_files)
            assert node.run("verify").code == 0


def test_strangers_cannot_take_the_last_descriptor(publisher: Publisher, many_files: Path, tmp_path: Path) -> None:
    """Connections that ask nothing get a share of what a small limit allows. The node keeps what it needs to go on,
    and answers as before once they are gone.
    """
    reference = publisher.publish(many_files)["reference"]
    small = Home(publisher.home.path, limited(FEW_SERVING))
    node = publisher.node(tmp_path / "node")
    with small.serve() as seed:
        strangers = []
        try:
            for _ in range(2 * FEW_SERVING):
                stranger = socket.create_connection(("127.0.0.1", seed.port), 5.0)
                strangers.append(stranger)
            until(lambda: sum(map(_is_closed, strangers)) > FEW_SERVING, "most are refused")
            # Those that are refused were accepted for a moment.
            until(lambda: len(os.listdir(f"/proc/{seed.pid}/fd")) < FEW_SERVING - 10, "some descriptors are free")
        finally:
            for stranger in strangers:
                stranger.close()
        assert_equal_files(Path(node.run("pull", reference, "--from", seed.url).line), many_files)
        with urllib.request.urlopen(f"{seed.url}/healthz", timeout=60) as answer:
            assert answer.status == 200


def _is_closed(stranger: socket.socket) -> bool:
    stranger.setblocking(False)
    try:
        return stranger.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
