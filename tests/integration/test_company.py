"""Nodes of one site on loopback: they bring a version once, follow a seed, keep limits and say who is there."""

from __future__ import annotations

import filecmp
import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.lab import Home, Publisher, Serving, until
from tests.integration.models import make_model
from tests.integration.relay import Relay

SLOW = "6M"


@dataclass
class Market:
    """A publisher whose seed hands out slowly, and what it published."""

    base: Path
    publisher: Publisher
    seed: Serving
    folder: Path
    digest: str
    size: int

    def node(self, name: str) -> Home:
        return self.publisher.node(self.base / name)


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    """12 MB at a seed that gives 6 MB/s to all readers together."""
    publisher = Publisher.at(tmp_path / "publisher")
    folder = make_model(tmp_path / "model", layers=5)
    said = publisher.publish(folder, "acme/model")
    with publisher.home.serve("--upload-limit", SLOW) as seed:
        yield Market(tmp_path, publisher, seed, folder, said["digest"], said["bytes"])


def assert_same(folder: Path, installed: str) -> None:
    """The installed files are the published ones."""
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    match, mismatch, errors = filecmp.cmpfiles(folder, installed, names, shallow=False)
    assert (sorted(match), mismatch, errors) == (sorted(names), [], [])


def neighbours(home: Home) -> list[dict[str, Any]]:
    """What ``peers`` lists."""
    rows: list[dict[str, Any]] = home.json("peers")["peers"]
    return rows


def site_of(stack: ExitStack, market: Market, names: str) -> dict[str, Home]:
    """Nodes of a site of its own that know the first of them by address and the others by its word."""
    flags: tuple[object, ...] = ("--site", uuid.uuid4().hex)
    homes = {name: market.node(name) for name in names}
    for home in homes.values():
        serving = stack.enter_context(home.serve(*flags))
        flags = (*flags[:2], "--peer", serving.url) if len(flags) == 2 else flags
    for home in homes.values():
        until(lambda home=home: len(neighbours(home)) == len(names) - 1, "the nodes have met")
    return homes


def test_site_brings_each_chunk_once(market: Market) -> None:
    """Three nodes pull at once from a slow seed: together they take little more than the version over that link."""
    with ExitStack() as stack:
        homes = site_of(stack, market, "abc")
        words = ("pull", "acme/model", "--from", market.seed.url, "--json")
        running = [stack.enter_context(home.start(*words)) for home in homes.values()]
        told = [one.wait().json for one in running]
    for answer in told:
        assert_same(market.folder, answer["path"])
        assert answer["bytes"]["lan"] + answer["bytes"]["wan"] == answer["bytes"]["total"] == market.size
    # Two nodes may take one chunk in the same moment; alone they would take three times the version.
    assert sum(answer["bytes"]["wan"] for answer in told) <= market.size + 2 * 2**20


def test_latecomer_takes_nothing_from_outside(market: Market) -> None:
    """A node that joins after another has everything is served by that one."""
    with ExitStack() as stack:
        homes = site_of(stack, market, "ab")
        assert homes["a"].json("pull", "acme/model", "--from", market.seed.url)["bytes"]["wan"] == market.size
        late = homes["b"].json("pull", "acme/model", "--from", market.seed.url)
        assert late["bytes"]["lan"] == market.size
        assert late["bytes"]["wan"] == 0
        kinds = {source["url"]: source["kind"] for source in late["sources"] if source["bytes"]}
        assert list(kinds.values()) == ["lan"]
        rows = neighbours(homes["b"])
        assert rows[0]["received_bytes"] >= market.size
        links = homes["b"].json("status")["links"]
        assert links["lan"]["received"] >= market.size > links["wan"]["received"]


def test_pull_without_a_source_asks_the_neighbours(market: Market) -> None:
    """``pull REF`` on a node of the site finds the version at its neighbours, by name and by digest."""
    with ExitStack() as stack:
        homes = site_of(stack, market, "ab")
        homes["a"].json("pull", "acme/model", "--from", market.seed.url)
        got = homes["b"].json("pull", "acme/model")
        assert (got["digest"], got["bytes"]["lan"]) == (market.digest, market.size)


def test_reader_follows_a_pull_that_is_under_way(market: Market) -> None:
    """A bare pull from a peer that is itself pulling gets each chunk when that peer has it."""
    with ExitStack() as stack:
        site = ("--site", "")
        serving = stack.enter_context(market.node("a").serve(*site))
        first = stack.enter_context(
            Home(market.base / "a").start("pull", "acme/model", "--from", market.seed.url, "--json")
        )
        until(lambda: Home(market.base / "a").json("status")["transfers"], "the first pull runs")
        got = market.node("b").json("pull", "acme/model", "--peer", serving.url, "--from", market.seed.url)
        assert first.wait().json["bytes"]["wan"] == market.size
        assert_same(market.folder, got["path"])
        assert got["bytes"]["lan"] >= got["bytes"]["wan"]


def test_other_site_is_refused(market: Market) -> None:
    """Nodes of two sites exchange nothing, and say why."""
    with market.node("a").serve("--site", "one") as one:
        other = market.node("b")
        with other.serve("--site", "two", "--peer", one.url) as two:
            until(lambda: any(event["event"] == "peer" for event in two.events), "the other node was refused")
            refused = next(event for event in two.events if event["event"] == "peer")
            assert (refused["state"], refused["reason"]) == ("refused", "site")
            assert neighbours(other) == []


def test_seed_that_follows(market: Market) -> None:
    """``serve --follow`` keeps the newest version of a tag, from its publisher, without a pull by anybody."""
    follower = market.node("follower")
    with follower.serve("--follow", "acme/model", "--from", market.seed.url) as serving:
        until(lambda: follower.json("ls")["models"], "the first version is here")
        newer = make_model(market.base / "newer", seed=2, layers=2)
        digest = market.publisher.publish(newer, "acme/model")["digest"]
        until(lambda: digest in json.dumps(follower.json("ls")), "the second version is here")
        installed = [e["result"]["digest"] for e in serving.events if e["event"] == "result"]
        assert installed == [market.digest, digest]


def test_limits_change_while_a_node_runs(market: Market) -> None:
    """``limits`` shows what ``serve`` was given, changes one and leaves the others."""
    home = market.node("a")
    with home.serve("--wan-down", "3M", "--peer-up", "1M"):
        assert home.json("limits")["limits"] == {
            "wan_down": 3e6,
            "up": None,
            "wan_up": None,
            "lan_up": None,
            "peer_up": 1e6,
        }
        home.run("limits", "--wan-down", "none", "--lan-up", "10Mbit")
        shown = home.json("status")["limits"]
        assert (shown["wan_down"], shown["lan_up"], shown["peer_up"]) == (None, 1_250_000, 1e6)


def test_other_version_of_a_neighbour_is_a_source(market: Market) -> None:
    """A node that pulls the second version gets from a neighbour that has only the first what both have in common."""
    with ExitStack() as stack:
        homes = site_of(stack, market, "ab")
        homes["a"].json("pull", "acme/model", "--from", market.seed.url)
        newer = make_model(market.base / "newer", layers=5, changed={1: 7})
        said = market.publisher.publish(newer, "acme/model")
        got = homes["b"].json("pull", "acme/model", "--from", market.seed.url)
    assert got["digest"] == said["digest"]
    assert_same(newer, got["path"])
    assert got["bytes"]["lan"] > 0.7 * got["bytes"]["total"]
    assert got["bytes"]["wan"] < 0.3 * got["bytes"]["total"]


def test_neighbour_gives_the_head_of_what_it_is_pulling(market: Market) -> None:
    """While one node's pull is held up, another that knows no source joins it by its neighbour's word alone."""
    with ExitStack() as stack:
        homes = site_of(stack, market, "ab")
        relay = stack.enter_context(Relay(market.seed.url))
        relay.hold_after(4_000_000)
        first = stack.enter_context(homes["a"].start("pull", "acme/model", "--from", relay.url, "--json"))
        until(lambda: relay.holding, "a part of the bytes is through")
        second = stack.enter_context(homes["b"].start("pull", "acme/model", "--json"))
        until(lambda: any(row["done"] for row in homes["b"].json("status")["transfers"]), "the other has a part, too")
        relay.release()
        assert first.wait().json["bytes"]["wan"] == market.size
        got = second.wait().json
    assert (got["digest"], got["bytes"]["lan"]) == (market.digest, market.size)
    assert_same(market.folder, got["path"])
