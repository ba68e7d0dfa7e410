"""A node that is watched: what it tells of its health, its numbers and its log, as those who watch read them."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.integration.conftest import Shop
from tests.integration.lab import Home, Publisher, Serving, until
from tests.integration.models import make_model, size_of

Labels = tuple[tuple[str, str], ...]
Mount = Callable[[Path, str], Path]

# The real program, whose node looks at its disk all the time.
ALERT = (
    sys.executable,
    "-c",
    """
from p2psync.cli.main import entry
from p2psync.node import watching
watching.CHECK_S, watching.FRESH_S, watching.USAGE_S = 0.2, 0.0, 0.0
entry()
""",
)
# What a label may say: words of the program, its versions, and nothing that grows with a site or with its models.
LABELS = {
    "direction",
    "link",
    "resource",
    "status",
    "reason",
    "kind",
    "outcome",
    "part",
    "version",
    "protocol",
    "python",
}


def read(url: str) -> tuple[int, str, str]:
    """Status, content type and text of a page."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def scrape(serving: Serving) -> dict[tuple[str, Labels], float]:
    """Every sample of a node, read by the parser of those who scrape."""
    status, kind, text = read(f"{serving.url}/metrics")
    assert status == 200
    assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def value(serving: Serving, name: str, **labels: str) -> float:
    return scrape(serving)[name, tuple(sorted(labels.items()))]


def health(serving: Serving) -> tuple[int, dict[str, Any]]:
    status, kind, text = read(f"{serving.url}/healthz")
    assert kind == "application/json"
    return status, json.loads(text)


def records(serving: Serving) -> list[dict[str, Any]]:
    """The log: every line of standard error is one object."""
    return [json.loads(line) for line in serving.stderr.splitlines()]


def test_numbers_of_a_pull_agree_on_both_sides(publisher: Publisher, tmp_path: Path) -> None:
    """What one node counts as sent the other counts as received, and the chunks and the pull are told by both."""
    folder = make_model(tmp_path / "model")
    publisher.publish(folder, "acme/model", "--no-forms")
    seed_home = Home(publisher.home.path, ALERT)
    with seed_home.serve() as seed, publisher.node(tmp_path / "node", ALERT).serve() as node:
        assert value(node, "p2psync_store_versions") == 0
        Home(tmp_path / "node").pull("acme/model", "--from", seed.url)
        got, gave = scrape(node), scrape(seed)
    wan = got["p2psync_bytes_total", (("direction", "received"), ("link", "wan"))]
    assert wan >= size_of(folder)
    assert gave["p2psync_bytes_total", (("direction", "sent"), ("link", "lan"))] >= size_of(folder)
    assert gave["p2psync_chunks_served_total", ()] >= got["p2psync_chunks_proved_total", ()] > 0
    assert got["p2psync_pulls_total", (("outcome", "done"),)] == 1
    assert got["p2psync_pulls_running", ()] == 0
    assert got["p2psync_asks_total", (("outcome", "corrupt"),)] == 0
    assert got["p2psync_store_versions", ()] == gave["p2psync_store_versions", ()] == 1
    assert got["p2psync_store_bytes", (("part", "models"),)] >= size_of(folder)
    assert gave["p2psync_requests_total", (("resource", "chunks"), ("status", "2xx"))] > 0
    for side in (got, gave):
        assert side["p2psync_healthy", ()] == 1
        assert side["process_open_fds", ()] > 3
        assert 0 < side["p2psync_anonymous_memory_bytes", ()] < side["process_resident_memory_bytes", ()]


def test_labels_name_no_model_and_no_peer(shop: Shop, tmp_path: Path) -> None:
    """Labels are a few words of the program: a scrape of a busy node tells nobody's name, id, digest or address."""
    node = shop.node(tmp_path / "node", ALERT)
    with node.serve("--site", "hall") as one, shop.node(tmp_path / "other").serve("--site", "hall", "--peer", one.url):
        until(lambda: value(one, "p2psync_peers") == 1, "the neighbour is met")
        Home(node.path).pull("acme/model", "--from", shop.seed.url)
        read(f"{one.url}/v1/acme/model")
        Home(node.path).run("pull", "acme/absent", "--from", shop.seed.url, code=3)
        samples = scrape(one)
        assert value(one, "p2psync_control_bytes_total") > 0
    assert sum(count for (name, _), count in samples.items() if name == "p2psync_pulls_total") == 2
    assert {label for _, labels in samples for label, _ in labels} <= LABELS
    said = {word for _, labels in samples for _, word in labels}
    assert all(re.fullmatch(r"[a-z0-9_.]{1,32}", word) for word in said), said
    assert {word for word in said if "acme" in word or "model" in word} == {"models", "model_not_found"}
    assert one.node[:16] not in str(samples)


def test_numbers_stay_on_this_machine(shop: Shop, tmp_path: Path) -> None:
    """An open node tells its numbers to loopback alone, and its health to everybody."""
    host = outside_address()
    with shop.node(tmp_path / "node").serve("--open") as node:
        assert read(f"http://127.0.0.1:{node.port}/metrics")[0] == 200
        assert read(f"http://{host}:{node.port}/metrics")[0] == 403
        assert read(f"http://{host}:{node.port}/healthz")[0] == 200


def test_numbers_for_everybody_and_for_nobody(shop: Shop, tmp_path: Path) -> None:
    """--metrics open answers every address; with off there is no such resource, and health is told all the same."""
    host = outside_address()
    with shop.node(tmp_path / "open").serve("--open", "--metrics", "open") as node:
        assert read(f"http://{host}:{node.port}/metrics")[0] == 200
    with shop.node(tmp_path / "off").serve("--metrics", "off") as node:
        assert read(f"{node.url}/metrics")[0] == 404
        assert health(node) == (200, {"status": "ok"})


def outside_address() -> str:
    """An address of this machine that is not its loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # Sends nothing.
        except OSError:
            pytest.skip("this machine has no address but its loopback")
        return str(sock.getsockname()[0])


@pytest.mark.root
def test_health_of_a_full_disk(publisher: Publisher, mount_tmpfs: Mount, tmp_path: Path) -> None:
    """A disk that fills turns health to 503 with the reason, and room turns it back; both are logged."""
    small = mount_tmpfs(tmp_path / "small", "16m")
    with publisher.node(small / "node", ALERT).serve("--log-json") as node:
        assert health(node) == (200, {"status": "ok"})
        filler = small / "filler"
        with filler.open("wb") as file:
            free = os.statvfs(small).f_bavail * os.statvfs(small).f_frsize
            os.posix_fallocate(file.fileno(), 0, free)
        until(lambda: health(node)[0] == 503, "the full disk is told")
        reason = "the disk takes no writes: No space left on device"
        assert health(node) == (503, {"status": "failing", "reason": reason})
        assert value(node, "p2psync_healthy") == 0
        filler.unlink()
        until(lambda: health(node)[0] == 200, "the disk is well again")
        until(lambda: any("again" in record["message"] for record in records(node)), "it is logged")
        failing = next(record for record in records(node) if record["level"] == "warning")
    assert failing["message"] == f"health: {reason}"


def test_health_of_a_home_that_is_gone(publisher: Publisher, tmp_path: Path) -> None:
    """A home whose directory goes away under the node, as with a disk that was pulled, is told, and its return too."""
    home, moved = tmp_path / "node", tmp_path / "moved"
    with publisher.node(home, ALERT).serve() as node:
        home.rename(moved)
        until(lambda: health(node)[0] == 503, "the home that is gone is told")
        moved.rename(home)
        until(lambda: health(node)[0] == 200, "the home that is back is told")


def test_log_is_one_object_per_line(shop: Shop, tmp_path: Path) -> None:
    """--log-json makes every line of a node's log an object in UTC; a secret of a URL is in none of them."""
    node = shop.node(tmp_path / "node")
    follow = ("--follow", "acme/model", "--from", f"http://joe:hunter2@127.0.0.1:{shop.seed.port}")
    with node.serve("--log-json", *follow) as serving:
        until(lambda: any(record["event"] == "installed" for record in records(serving)), "the follower has it")
        read(f"{serving.url}/metrics")
    lines = records(serving)
    assert {"listening", "resolved", "installed", "stopped"} <= {record["event"] for record in lines}
    for record in lines:
        assert set(record) >= {"time", "level", "logger", "event", "message", "fields"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["time"])
    assert "hunter2" not in serving.stderr
