"""Processes that are stopped for a minute and go on: every deadline has passed meanwhile, and nobody is to blame."""

from __future__ import annotations

import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.integration.conftest import Shop
from tests.integration.lab import Home, Publisher, Running, until
from tests.integration.models import assert_equal_files, held_digests, make_model, pieces_of
from tests.integration.relay import Relay

pytestmark = pytest.mark.slow
STOPPED_S = 62.0
# Of the model: far enough that chunks are on disk, and far from its end.
HALF_BYTES = 4 << 20


def held_up(node: Home, relay: Relay) -> Running:
    """A pull whose source has just stopped sending."""
    relay.hold_after(HALF_BYTES)
    running = node.start("pull", "acme/model", "--from", relay.url, "--json")
    until(lambda: relay.holding, "half of it is here")
    return running


def test_a_pull_that_was_stopped_goes_on(shop: Shop, tmp_path: Path) -> None:
    """Its answers wait in the kernel, its connections may be gone: it ends well, and what was on disk does not move
    again.
    """
    node = shop.node(tmp_path / "node")
    with Relay(shop.seed.url) as relay, held_up(node, relay) as running:
        running.signal(signal.SIGSTOP)
        held, asked = held_digests(node.path, shop.folder), Counter(relay.asked)
        relay.release()
        time.sleep(STOPPED_S)
        running.signal(signal.SIGCONT)
        done = running.wait()
        assert not held & set(Counter(relay.asked) - asked)
    assert_equal_files(done.json["path"], shop.folder)


def test_a_pull_through_a_node_that_was_stopped_goes_on(shop: Shop, tmp_path: Path) -> None:
    """The command waits for the node that does its work, however long that sleeps."""
    node = shop.node(tmp_path / "node")
    with node.serve() as serving, Relay(shop.seed.url) as relay, held_up(node, relay) as running:
        serving.signal(signal.SIGSTOP)
        relay.release()
        time.sleep(STOPPED_S)
        assert running.alive
        serving.signal(signal.SIGCONT)
        done = running.wait()
    assert_equal_files(done.json["path"], shop.folder)


def test_a_seed_that_was_stopped_is_given_up_and_comes_back(publisher: Publisher, tmp_path: Path) -> None:
    """Who has no other source learns in bounded time that nothing comes; what came is kept for the next time."""
    folder = make_model(tmp_path / "model")
    publisher.publish(folder)
    node = publisher.node(tmp_path / "node")
    with publisher.home.serve() as seed, Relay(seed.url) as relay:
        with held_up(node, relay) as running:
            seed.signal(signal.SIGSTOP)
            relay.release()
            began_s = time.monotonic()
            done = running.wait(code=7)
            assert done.error["code"] in {"stalled", "source_timeout", "source_unreachable"}
            assert time.monotonic() - began_s < STOPPED_S
            held, asked = held_digests(node.path, folder), Counter(relay.asked)
            assert held
            time.sleep(max(0.0, STOPPED_S - (time.monotonic() - began_s)))
            seed.signal(signal.SIGCONT)
        result = node.pull("acme/model", "--from", relay.url)
        assert not held & set(Counter(relay.asked) - asked)
    assert result["bytes"]["reused"] >= sum(piece.length for piece in pieces_of(folder) if piece.digest in held)
    assert_equal_files(result["path"], folder)
