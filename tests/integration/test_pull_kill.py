"""A pull, a publish or a seed that dies at any moment: what was proved is kept, and everything heals."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.integration.conftest import Shop
from tests.integration.lab import Home, Publisher, until
from tests.integration.models import (
    MIB,
    WEIGHTS,
    assert_equal_files,
    bytes_of,
    edit,
    held_digests,
    make_model,
    pieces_of,
    size_of,
    written_bytes,
)
from tests.integration.relay import Relay

KILLS_PER_PULL = 6
# What besides chunks crosses the link in one run: a head, an inventory, nodes.
OVERHEAD_BYTES = 20_000


def kill_at_a_random_moment(node: Home, relay: Relay, dice: random.Random, left_bytes: int) -> None:
    """Start a pull, let a random part of what is left through, wait a little, and kill it."""
    relay.hold_after(dice.randrange(OVERHEAD_BYTES + left_bytes) if dice.random() < 0.85 else left_bytes * 2)
    with node.start("pull", "acme/model", "--from", relay.url, "--json") as running:
        until(lambda: relay.holding or not running.alive, "the relay holds, or the pull is done")
        time.sleep(dice.choice([0.0, 0.005, 0.03, 0.1, 0.3]))
        running.kill()
    relay.release()


@pytest.mark.parametrize("seed", [11, 12, 13, 14, 15])
def test_killed_pull_resumes(seed: int, shop: Shop, tmp_path: Path) -> None:
    """A pull killed at six random moments ends with equal files; no chunk that stood on disk moves again.

    So the seed serves at most each chunk once and, per kill, once more what was in flight.
    """
    dice = random.Random(seed)
    node = shop.node(tmp_path / "node")
    size = {piece.digest: piece.length for piece in pieces_of(shop.folder)}
    held: set[str] = set()
    in_flight: Counter[str] = Counter()
    noted: Counter[str] = Counter()
    with Relay(shop.seed.url) as relay:
        for _ in range(KILLS_PER_PULL):
            kill_at_a_random_moment(node, relay, dice, sum(n for digest, n in size.items() if digest not in held))
            # The relay may note a dead pull's last requests later; they count as asked by the next one.
            asked = Counter(relay.asked) - noted
            noted += asked
            assert not held & set(asked), "a chunk that was on disk was asked for again"
            before, held = held, held_digests(node.path, shop.folder)
            assert before <= held, "a chunk that was on disk is lost"
            in_flight += Counter({digest: n - (digest in held) for digest, n in asked.items()})
        result = node.pull("acme/model", "--from", relay.url)
        last = Counter(relay.asked) - noted
        assert not held & set(last)
        moved = sum(size[digest] * n for digest, n in relay.asked.items())
        assert moved <= bytes_of(pieces_of(shop.folder)) + sum(size[digest] * n for digest, n in in_flight.items())
    assert result["bytes"]["reused"] == sum(size[digest] for digest in held)
    assert_equal_files(result["path"], shop.folder)
    assert node.json("verify")["ok"]
    assert node.json("status")["partials"] == []


def test_killed_pull_of_a_second_version_keeps_the_first(publisher: Publisher, tmp_path: Path) -> None:
    """An update killed at random moments never harms what is installed, and moves what changed alone."""
    dice = random.Random(5)
    first, second = make_model(tmp_path / "v1"), make_model(tmp_path / "v2", changed={0: 1, 3: 1, 5: 1})
    publisher.publish(first)
    node = publisher.node(tmp_path / "node")
    new = {piece.digest for piece in pieces_of(second)} - {piece.digest for piece in pieces_of(first)}
    with publisher.home.serve() as seed, Relay(seed.url) as relay:
        installed = node.pull("acme/model", "--from", relay.url)["path"]
        publisher.publish(second)
        relay.forget()
        for _ in range(4):
            kill_at_a_random_moment(node, relay, dice, 4_000_000)
            assert_equal_files(installed, first)
        result = node.pull("acme/model", "--from", relay.url)
        assert set(relay.asked) <= new
    assert_equal_files(result["path"], second)
    assert_equal_files(installed, first)
    assert node.json("verify")["ok"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_interrupted_pull_exits_130_and_resumes(number: signal.Signals, code: int, shop: Shop, tmp_path: Path) -> None:
    """An interrupt and SIGTERM end a pull in good order; the next one goes on where it was."""
    node = shop.node(tmp_path / "node")
    with Relay(shop.seed.url) as relay:
        relay.hold_after(8_000_000)
        with node.start("pull", "acme/model", "--from", relay.url, "--json") as running:
            until(lambda: relay.holding, "half of the bytes are through")
            until(lambda: written_bytes(node.path) > MIB, "some of them are on disk")
            running.signal(number)
            done = running.wait(code)
        assert done.error["code"] == "interrupted"
        # Before anybody reads the file: pages of holes that were read count as written.
        partials = node.json("status")["partials"]
        held = held_digests(node.path, shop.folder)
        assert held
        assert [row["name"] for row in partials] == ["acme/model"]
        assert 0 < partials[0]["done"] < partials[0]["total"] == size_of(shop.folder)
        relay.release()
        relay.forget()
        result = node.pull("acme/model", "--from", relay.url)
        assert not held & set(relay.asked)
    assert result["bytes"]["reused"] == sum(
        {p.digest: p.length for p in pieces_of(shop.folder) if p.digest in held}.values()
    )
    assert_equal_files(result["path"], shop.folder)


def test_interrupted_caller_stops_the_pull_of_the_serve(shop: Shop, tmp_path: Path) -> None:
    """A pull that the running serve does ends with its caller (130), and the serve lives on and resumes it."""
    node = shop.node(tmp_path / "node")
    with Relay(shop.seed.url) as relay, node.serve() as serving:
        relay.hold_after(8_000_000)
        with node.start("pull", "acme/model", "--from", relay.url) as running:
            until(lambda: relay.holding, "half of the bytes are through")
            until(lambda: written_bytes(node.path) > MIB, "some of them are on disk")
            running.signal(signal.SIGINT)
            running.wait(130)
        until(lambda: node.json("status")["transfers"] == [], "the serve has ended the pull")
        assert serving.alive
        held = held_digests(node.path, shop.folder)
        relay.release()
        relay.forget()
        result = node.pull("acme/model", "--from", relay.url)
        assert not held & set(relay.asked)
    assert_equal_files(result["path"], shop.folder)


def test_seed_that_dies_and_comes_back(publisher: Publisher, tmp_path: Path) -> None:
    """A seed that is killed in the middle of a pull and started again on its port: the pull goes on by itself."""
    folder = make_model(tmp_path / "model")
    publisher.publish(folder)
    node = publisher.node(tmp_path / "node")
    limit = ("--upload-limit", "5M")
    with publisher.home.serve(*limit) as first:
        with node.start("pull", "acme/model", "--from", first.url, "--json") as running:
            until(lambda: len(held_digests(node.path, folder)) > 4, "some chunks are on disk")
            first.kill()
            assert running.alive
            with publisher.home.serve(*limit, "--listen", first.address) as second:
                assert second.url == first.url
                done = running.wait(0)
        assert done.json["bytes"]["wan"] == size_of(folder)
        assert second.sent_bytes < size_of(folder)
    assert_equal_files(done.json["path"], folder)


def test_seed_that_stops_in_good_order_finishes_its_answers(shop: Shop, tmp_path: Path) -> None:
    """SIGTERM ends a serve with 0 while a pull reads from it, and the pull takes the rest from another source."""
    near, far = shop.node(tmp_path / "near"), shop.node(tmp_path / "far")
    near.pull("acme/model", "--from", shop.seed.url)
    with (
        near.serve("--upload-limit", "4M") as peer,
        far.start("pull", "acme/model", "--peer", peer.address, "--from", shop.seed.url, "--json") as running,
    ):
        until(lambda: len(held_digests(far.path, shop.folder)) > 2, "some chunks are on disk")
        peer.stop(0)
        done = running.wait(0)
    assert done.json["bytes"]["lan"] > 0
    assert done.json["bytes"]["wan"] > 0
    assert_equal_files(done.json["path"], shop.folder)


def test_killed_serve_gives_its_home_back(shop: Shop, tmp_path: Path) -> None:
    """After a SIGKILL of the serve that did a pull, the home opens again and the pull resumes, with no serve."""
    node = shop.node(tmp_path / "node")
    with Relay(shop.seed.url) as relay:
        relay.hold_after(8_000_000)
        with node.serve() as serving, node.start("pull", "acme/model", "--from", relay.url, "--json") as running:
            until(lambda: relay.holding, "half of the bytes are through")
            until(lambda: written_bytes(node.path) > MIB, "some of them are on disk")
            serving.kill()
            done = running.wait(None)
            assert done.code in (6, 7)
        held = held_digests(node.path, shop.folder)
        assert held
        relay.release()
        relay.forget()
        result = node.pull("acme/model", "--from", relay.url)
        assert not held & set(relay.asked)
    assert_equal_files(result["path"], shop.folder)
    assert node.json("status")["pid"] is None


def test_killed_publish_leaves_no_half_version(publisher: Publisher, tmp_path: Path) -> None:
    """A publish killed at random moments leaves a whole version or none; the next one works and counts on."""
    dice = random.Random(21)
    home, folder = publisher.home, make_model(tmp_path / "model")
    versions = []
    for turn in range(5):
        make_model(folder, seed=turn)
        with home.start("publish", folder, "acme/model", "--key", "maker", "--to", tmp_path / "tree") as running:
            time.sleep(dice.uniform(0.1, 1.0))
            running.kill()
        models = home.json("ls")["models"]
        assert all(row["installed"] for row in models)
        versions.append(max((row["version"] for row in models), default=0))
    assert home.json("verify")["ok"]
    assert versions == sorted(versions)
    published = publisher.publish(folder, "acme/model", "--to", tmp_path / "tree")
    assert published["version"] > versions[-1]
    home.run("prune")
    assert {row["kind"] for row in home.json("prune")["removed"]} == set()
    node, other = publisher.node(tmp_path / "node"), publisher.node(tmp_path / "other")
    with home.serve() as seed:
        assert_equal_files(node.pull("acme/model", "--from", seed.url)["path"], folder)
    assert_equal_files(other.pull("acme/model", "--from", tmp_path / "tree")["path"], folder)


def kill_after_a_while(home: Home, dice: random.Random, *words: object) -> None:
    """Start a command and kill it somewhere between its first import and its last word."""
    with home.start(*words) as running:
        time.sleep(dice.uniform(0.15, 0.6))
        running.kill()


def test_killed_repair_heals_the_next_time(shop: Shop, tmp_path: Path) -> None:
    """A repair killed at random moments loses no good byte: the next one heals the version."""
    dice = random.Random(8)
    node = shop.node(tmp_path / "node")
    path = Path(node.pull("acme/model", "--from", shop.seed.url)["path"])
    for _ in range(5):
        for weights in node.path.rglob(WEIGHTS):
            edit(weights, dice.randrange(1000, 14_000_000))
        kill_after_a_while(node, dice, "verify", "--repair", "--from", shop.seed.url)
    result = node.json("verify", "--repair", "--from", shop.seed.url)
    assert result["ok"]
    assert sum(row["fetched_bytes"] for row in result["repaired"]) <= 5 * 2 * MIB
    assert_equal_files(path, shop.folder)
    assert node.pull("acme/model", "--from", shop.seed.url)["unchanged"]
    assert node.json("status")["partials"] == []


def test_killed_export_is_whole_or_absent(shop: Shop, tmp_path: Path) -> None:
    """A directory that --to made has all files or is not there."""
    dice = random.Random(9)
    node = shop.node(tmp_path / "node")
    node.pull("acme/model", "--from", shop.seed.url)
    for turn in range(4):
        target = tmp_path / "out" / str(turn)
        kill_after_a_while(node, dice, "pull", "acme/model", "--offline", "--to", target)
        if target.exists():
            assert_equal_files(target, shop.folder)
        node.pull("acme/model", "--offline", "--to", target)
        assert_equal_files(target, shop.folder)


def test_killed_removal_takes_nothing_that_stays(publisher: Publisher, tmp_path: Path) -> None:
    """Killed at random moments, rm and prune remove a version or leave it, and never harm one that shares its files."""
    dice = random.Random(10)
    home = publisher.home
    kept = make_model(tmp_path / "kept", layers=2)
    publisher.publish(kept, "acme/kept")
    for turn in range(4):
        publisher.publish(make_model(tmp_path / "gone", layers=2, changed={1: turn}), "acme/gone")
        kill_after_a_while(home, dice, *(("rm", "acme/gone") if turn % 2 else ("prune",)))
        assert all(row["installed"] for row in home.json("ls")["models"])
    assert home.json("verify")["ok"]
    home.run("rm", "acme/gone", code=None)
    home.run("prune")
    assert [row["reference"] for row in home.json("ls")["models"]] == ["acme/kept:latest"]
    assert len(list(home.path.rglob(WEIGHTS))) == 1
    assert home.json("verify")["ok"]
    node = publisher.node(tmp_path / "node")
    with home.serve() as seed:
        assert_equal_files(node.pull("acme/kept", "--from", seed.url)["path"], kept)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_killed_pull_resumes_with_more_seeds(seed: int, shop: Shop, tmp_path: Path) -> None:
    """The same as with five seeds, with twenty others."""
    test_killed_pull_resumes(seed, shop, tmp_path)
