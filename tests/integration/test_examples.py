"""Every program in examples/ does what it says, against real homes and processes."""

import subprocess
import sys

import pytest

import command
import environment
from benchmarks import models

EXAMPLES = environment.ROOT / "examples"
REFERENCE = "example/tiny"


def example(name, *arguments, home):
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**command.environment_of_a_user(), "P2PSYNC_HOME": str(home)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def homes(tmp_path):
    """A publisher's home with one small model, and a node's home that trusts the publisher."""
    models.write(tmp_path / "model" / "model.safetensors", models.transformer(3_000_000), seed=1)
    publisher, node = command.Home(tmp_path / "publisher"), command.Home(tmp_path / "node")
    publisher.json("key", "new", "maker")
    publisher.json("publish", str(tmp_path / "model"), REFERENCE, "--key", "maker")
    node.json("trust", "add", "example/*", publisher.text("key", "export", "maker").strip())
    return publisher, node


def test_pull_and_read(homes):
    """It pulls from the seed and lists each tensor of the proved file with its dtype and shape."""
    publisher, node = homes
    with publisher.serve() as seed:
        printed = example("pull_and_read.py", REFERENCE, seed.url, home=node.path)
        again = example("pull_and_read.py", REFERENCE, seed.url, "layers.0.norm.weight", home=node.path)
    assert "layers.0.norm.weight BF16 [4096] 8192 B" in printed
    assert "layers.0.norm.weight BF16 [4096] begins with" in again


def test_seed_and_pull(homes, tmp_path):
    """Two nodes in one program: every byte reaches the second from the first."""
    publisher, node = homes
    printed = example("seed_and_pull.py", REFERENCE, publisher.path, node.path, home=tmp_path / "unused")
    size = sum(file.stat().st_size for file in (tmp_path / "model").iterdir())
    assert f"{size} B from the seed, 0 B were here before" in printed
