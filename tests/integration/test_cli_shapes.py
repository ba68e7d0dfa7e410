"""The real program answers every verb in the shape that docs/cli.md freezes."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.lab import Home, Publisher, Running, until
from tests.integration.models import WEIGHTS, edit, make_model
from tests.unit.cli import shapes

VARIANTS = """
[variants.full]
files = ["model.safetensors"]
default = true

[variants.words]
files = ["tokenizer/**"]
needs = { backend = "ort-cpu", precision = "int8", memory_bytes = 1000000 }
"""


def checked(name: str, answer: dict[str, Any]) -> dict[str, Any]:
    """An answer whose shape is the frozen one."""
    assert shapes.faults(name, answer) == []
    return answer


@pytest.fixture
def two_versions(tmp_path: Path) -> tuple[Publisher, Home]:
    """A publisher with acme/model:v1 and v2, and a node that trusts it."""
    publisher = Publisher.at(tmp_path / "publisher")
    for tag, changed in (("v1", {}), ("v2", {3: 9})):
        folder = make_model(tmp_path / tag, changed=changed)
        (folder / "p2psync.toml").write_text(VARIANTS)
        publisher.publish(folder, f"acme/model:{tag}")
    return publisher, publisher.node(tmp_path / "node")


def test_answers_that_read(two_versions: tuple[Publisher, Home]) -> None:
    """``ls``, ``show``, ``diff`` and ``status`` of a home with two versions, and of an empty one."""
    publisher, node = two_versions
    home = publisher.home
    rows = checked("ls", home.json("ls"))["models"]
    assert sorted(row["reference"] for row in rows) == ["acme/model:v1", "acme/model:v2"]
    shown = checked("show", home.json("show", "acme/model:v1"))
    assert [variant["name"] for variant in shown["variants"]] == ["full", "words"]
    difference = checked("diff", home.json("diff", "acme/model:v1", "acme/model:v2"))
    assert {file["path"]: file["change"] for file in difference["files"]}[WEIGHTS] == "changed"
    assert difference["tensors"]["changed"] == 3
    changes = {layer["name"]: layer["change"] for layer in difference["layers"] if layer["kind"] == "tensors"}
    assert [name for name, change in changes.items() if change != "equal"] == ["layers.3"]
    assert checked("status", home.json("status"))["models"] == 2
    assert checked("ls", node.json("ls")) == {"models": []}
    assert checked("status", node.json("status"))["serving"] is None


def test_answers_that_move(two_versions: tuple[Publisher, Home], tmp_path: Path) -> None:
    """``publish --to``, ``pull``, its dry run, ``tag``, ``verify`` and ``status`` while a node serves."""
    publisher, node = two_versions
    tree = tmp_path / "tree"
    told = publisher.publish(tmp_path / "v1", "acme/model:v3", "--to", tree)
    assert checked("publish", told)["origin"]["bytes"] > 0
    with publisher.home.serve() as serving:
        assert checked("status", publisher.home.json("status"))["serving"] == serving.url
        planned = checked("pull --dry-run", node.json("pull", "acme/model:v3", "--from", serving.url, "-n"))
        pulled = checked("pull", node.pull("acme/model:v3", "--from", serving.url))
        assert pulled["bytes"]["wan"] == planned["bytes"]["missing"]
        again = checked("pull", node.pull("acme/model:v3", "--from", tree))
        assert again["unchanged"]
        checked("tag", publisher.home.json("tag", "acme/model:v3", "stable", "--key", "maker"))
    assert checked("verify", node.json("verify"))["checked"]["versions"] == 1


def test_answers_that_remove(two_versions: tuple[Publisher, Home]) -> None:
    """``rm`` and ``prune``, dry and for good."""
    home = two_versions[0].home
    dry = checked("rm", home.json("rm", "acme/model:v1", "-n"))
    gone = checked("rm", home.json("rm", "acme/model:v1"))
    assert {**dry, "dry_run": False} == gone
    assert checked("prune", home.json("prune", "-n"))["dry_run"]
    assert not checked("prune", home.json("prune"))["dry_run"]


def test_answers_about_damage(two_versions: tuple[Publisher, Home]) -> None:
    """``verify`` names what was edited in one object with its error; ``--repair`` heals it and says what came."""
    publisher, node = two_versions
    with publisher.home.serve() as serving:
        path = Path(node.pull("acme/model:v1", "--from", serving.url)["path"])
        edit(path / WEIGHTS, 2_000_000)
        found = node.json("verify", code=5)
        assert found.pop("error")["code"] == "damaged"
        assert [row["path"] for row in checked("verify", found)["damage"]] == [WEIGHTS]
        healed = checked("verify", node.json("verify", "--repair", "--from", serving.url))
    assert healed["ok"]
    assert len(healed["repaired"]) == 1


def test_watch_prints_each_version(two_versions: tuple[Publisher, Home], tmp_path: Path) -> None:
    """``pull --watch --json`` prints one object per version, and an interrupt ends it with 130."""
    publisher, node = two_versions
    out = tmp_path / "watched.jsonl"
    with publisher.home.serve() as serving:
        words = node.command("pull", "acme/model:v1", "--from", serving.url, "--watch", "--json")
        with Running(["sh", "-c", 'exec "$@" > "$0"', str(out), *words]) as watching:
            until(lambda: out.exists() and out.read_text().count("\n") == 1, "the first version")
            watching.signal(signal.SIGINT)
            watching.wait(130)
    first, stopped = (json.loads(line) for line in out.read_text().splitlines())
    assert checked("pull", first)["version"] == 1
    assert checked("error", stopped)["error"]["code"] == "interrupted"
