"""The variant `small` of wan-tiny, really published: pulled alone, it makes a clip, and nodes can step down to it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import demo_video
from p2psync.engine import backends
from p2psync.engine.choice import Candidate, candidates, choose
from p2psync.errors import MemoryShortError
from p2psync.limits import MEMORY_SHARE
from tests.integration.lab import Home, Publisher

NAME = "acme/wan-tiny:v1"
PROMPT = ("--prompt", demo_video.PROMPT, "--seed", str(demo_video.SEED))
SHARED = ("shared/", "tokenizer/")


@dataclass(frozen=True)
class Pulled:
    """A node that pulled `small`, later the default variant as well, and what both pulls told."""

    publisher: Publisher
    node: Home
    built: Path
    first: dict[str, Any]
    after_first: tuple[str, ...]
    second: dict[str, Any]


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Pulled:
    """Publisher to node: `small` by name, then what a node gets that names nothing."""
    base = tmp_path_factory.mktemp("wan-small")
    publisher = Publisher.at(base / "publisher")
    node = publisher.node(base / "node")
    built, _ = demo_video.lay_out(base)
    publisher.publish(built, NAME)
    with publisher.home.serve() as seed:
        first = node.pull(NAME, "--from", seed.url, "--variant", "small")
        after_first = files_in(Path(first["path"]))
        second = node.pull(NAME, "--from", seed.url)
    return Pulled(publisher, node, built, first, after_first, second)


def files_in(folder: Path, *starts: str) -> tuple[str, ...]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return tuple(sorted(name for name in names if name != "p2psync.toml" and (not starts or name.startswith(starts))))


def bytes_of(folder: Path, *starts: str) -> int:
    return sum((folder / name).stat().st_size for name in files_in(folder, *starts))


def candidates_of(node: Home) -> tuple[Candidate, ...]:
    """What ``run`` chooses from."""
    shown = node.json("show", NAME)
    needs = {v["name"]: (v["backend"], v["memory_bytes"], v["default"]) for v in shown["variants"] if v["installed"]}
    return candidates(Path(shown["path"]), needs)


def test_only_what_small_needs_is_fetched(pulled: Pulled) -> None:
    """Its expert and what all variants share; of the default variant not one file."""
    wanted = files_in(pulled.built, "small/", *SHARED)
    assert pulled.after_first == wanted
    assert "small/low.safetensors" not in wanted
    assert pulled.first["bytes"]["total"] == bytes_of(pulled.built, "small/", *SHARED)
    path = Path(pulled.first["path"])
    assert all((path / name).read_bytes() == (pulled.built / name).read_bytes() for name in wanted)


def test_text_encoder_and_decoder_are_shared(pulled: Pulled) -> None:
    """The default variant, pulled afterwards, brings its experts alone: the rest is here by its digest."""
    told = pulled.second["bytes"]
    assert told["total"] == bytes_of(pulled.built, "int8-pruned/", *SHARED)
    assert told["reused"] >= bytes_of(pulled.built, *SHARED)
    assert told["wan"] + told["lan"] + told["patched"] <= bytes_of(pulled.built, "int8-pruned/")


def test_small_shows_what_was_asked(pulled: Pulled, tmp_path: Path) -> None:
    """It answers its signed golden probe, and a program that looks at the clip sees the prompt's scene."""
    pulled.node.run("verify", NAME, "--run", "--variant", "small")
    frames, out = tmp_path / "frames", tmp_path / "clip.mp4"
    words = ("--variant", "small", "--backend", "ort-cpu", "--out", out, "--frames-dir", frames)
    told = pulled.node.json("run", NAME, *PROMPT, *words)
    assert (told["variant"], told["backend"]) == ("small", "ort-cpu")
    assert out.is_file()
    assert demo_video.look(frames) == demo_video.SEEN


def test_the_node_steps_down_to_small_where_memory_is_short(pulled: Pulled) -> None:
    """On a processor that is quick at INT8, with room for `small` alone by the figures that were signed."""
    among = candidates_of(pulled.node)
    probe = backends.probe("ort-cpu")
    quick = [dataclasses.replace(probe, fast=probe.fast | {"int8"})]
    needs = {candidate.name: candidate.memory_bytes("ort-cpu") for candidate in among}
    assert needs["small"] < needs["int8-pruned"]
    plenty = choose(among, probes=quick, available_bytes=2 * needs["int8-pruned"])
    assert (plenty.candidate.name, plenty.steps_down) == ("int8-pruned", ())
    short = choose(among, probes=quick, available_bytes=int(needs["small"] / MEMORY_SHARE) + 1)
    assert short.candidate.name == "small"
    assert [step.partition(" of memory")[0] for step in short.steps_down] == ["int8-pruned: needs 100 MB"]
    with pytest.raises(MemoryShortError):
        choose(among, probes=quick, available_bytes=int(needs["small"] / MEMORY_SHARE) - 2)


def test_the_node_steps_down_to_small_where_int8_is_slow(pulled: Pulled) -> None:
    """What is in half precision goes first on a processor without a fast kernel for INT8."""
    probe = backends.probe("ort-cpu")
    slow = [dataclasses.replace(probe, fast=probe.fast - {"int8"})]
    found = choose(candidates_of(pulled.node), probes=slow, available_bytes=10**10)
    assert found.candidate.name == "small"
    assert found.steps_down == ("int8-pruned: no fast kernel for int8 on ort-cpu",)


def test_what_is_under_its_floor_is_not_published(pulled: Pulled, tmp_path: Path) -> None:
    """The report that came with `small` is held against its floor by ``publish``."""
    folder = tmp_path / "under"
    shutil.copytree(pulled.built, folder)
    report = folder / "small" / "quality.json"
    told = json.loads(report.read_text())
    assert told["ssim"] >= told["ssim_floor"] == 0.85
    report.write_text(json.dumps({**told, "ssim": 0.84}))
    words = ("publish", folder, "acme/wan-tiny:under", "--key", "maker")
    failed = pulled.publisher.home.fails(*words, code=9, named="quality")
    assert "variant small has SSIM 0.84" in failed.error["message"]
