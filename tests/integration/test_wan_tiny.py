"""The committed engines of wan-tiny, really published: v2 reaches a node by way of a peer as deltas, and runs there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import demo_video
from tests.integration.lab import Home, Publisher

NAME = "acme/wan-tiny"
PROMPT = ("--prompt", demo_video.PROMPT, "--seed", str(demo_video.SEED))
SHARE_MAX = 0.10


@dataclass(frozen=True)
class Updated:
    """A node that a peer alone fed with two versions, and what the second pull told."""

    node: Home
    update: dict[str, Any]
    built: Path


@pytest.fixture(scope="module")
def updated(tmp_path_factory: pytest.TempPathFactory) -> Updated:
    """Publisher to peer, peer to node, one version after the other."""
    base = tmp_path_factory.mktemp("wan-tiny")
    publisher = Publisher.at(base / "publisher")
    peer, node = publisher.node(base / "peer"), publisher.node(base / "node")
    first, second = demo_video.lay_out(base)
    for version, built, words in (("v1", first, ()), ("v2", second, ("--base", f"{NAME}:v1"))):
        publisher.publish(built, f"{NAME}:{version}", *words)
        # The peer serves while it pulls: one that begins to serve only afterwards was seen to relay no encoded forms.
        with publisher.home.serve() as seed, peer.serve() as neighbour:
            peer.pull(f"{NAME}:{version}", "--from", seed.url)
            update = node.pull(f"{NAME}:{version}", "--peer", neighbour.url)
    return Updated(node, update, built)


def test_the_update_moves_deltas_and_arrives_exactly(updated: Updated) -> None:
    """At most a tenth of the variant is on the wire, nothing comes from outside, and every file is the publisher's."""
    told = updated.update
    assert told["bytes"]["patched"] > 0
    assert told["bytes"]["wan"] == 0
    assert sum(told["wire"].values()) <= SHARE_MAX * told["bytes"]["total"]
    files = [path for path in updated.built.rglob("*") if path.is_file() and path.name != "p2psync.toml"]
    assert files
    for path in files:
        assert (Path(told["path"]) / path.relative_to(updated.built)).read_bytes() == path.read_bytes()


def test_the_updated_node_answers_the_probe_and_shows_what_was_asked(updated: Updated, tmp_path: Path) -> None:
    """The signed golden probe passes, and a program that looks at the clip sees the prompt's scene."""
    updated.node.run("verify", f"{NAME}:v2", "--run")
    frames, out = tmp_path / "frames", tmp_path / "clip.mp4"
    told = updated.node.json("run", f"{NAME}:v2", *PROMPT, "--out", out, "--frames-dir", frames)
    assert told["variant"] == "int8-pruned"
    assert out.is_file()
    assert Path(told["sheet"]).is_file()
    assert demo_video.look(frames) == demo_video.SEEN
