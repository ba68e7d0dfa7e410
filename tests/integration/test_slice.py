"""The main job, command by command: publish, serve, pull, verify, and what each step moves."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

import p2psync
from tests.integration.conftest import Shop
from tests.integration.lab import PROGRAM, Home, Publisher, hasty, until
from tests.integration.models import (
    WEIGHTS,
    assert_equal_files,
    bytes_of,
    files_of,
    make_model,
    new_bytes,
    pieces_of,
    size_of,
    tensors_of,
    write_safetensors,
    write_settings,
)
from tests.integration.relay import Relay
from tests.web import NGINX, nginx

VARIANTS = """
[variants.full]
files = ["model.safetensors"]
default = true

[variants.small]
files = ["small/**"]
needs = { backend = "ort-cpu", precision = "int8", memory_bytes = 1000000 }
"""


def test_publish_serve_pull_verify_in_plain_text(tmp_path: Path) -> None:
    """Each verb ends with the line that shells rely on, and the pulled files are the published ones, read-only."""
    folder = make_model(tmp_path / "model")
    seed, node = Home(tmp_path / "seed"), Home(tmp_path / "node")
    key = seed.run("key", "new", "release").line
    assert seed.run("key", "export", "release").stdout == f"{key}\n"
    reference = seed.run("publish", folder, "acme/model:v1", "--key", "release").line
    assert reference.startswith("acme/model:v1@b3:")
    node.run("trust", "add", "acme/*", key)
    with seed.serve() as serving:
        path = Path(node.run("pull", reference, "--from", serving.url).line)
    assert path.is_absolute()
    assert path.is_relative_to(node.path)
    assert_equal_files(path, folder)
    assert {(path / file).stat().st_mode & 0o777 for file in files_of(folder)} == {0o444}
    assert node.run("verify").code == 0
    assert node.run("verify", reference).code == 0
    assert "acme/model:v1" in node.run("ls").stdout
    assert node.json("show", reference)["path"] == str(path)


def test_serve_says_where_it_listens_on_its_first_line(tmp_path: Path) -> None:
    """Without --json the first line of serve is `listening URL node=ID`, and SIGTERM ends it with 0."""
    home = Home(tmp_path / "home")
    home.run("key", "new", "k")
    with home.start("serve") as running:
        until((home.path / "serve.sock").exists, "serve takes verbs")
        running.signal(signal.SIGTERM)
        done = running.wait(0)
    first = done.stdout.splitlines()[0].split(" ")
    assert first[0] == "listening"
    assert first[1].startswith("http://127.0.0.1:")
    assert first[2].startswith("node=")


def test_every_byte_crosses_the_link_once(shop: Shop, tmp_path: Path) -> None:
    """A first pull asks for each chunk once, and its JSON says what came from where."""
    node = shop.node(tmp_path / "node")
    with Relay(shop.seed.url) as relay:
        result = node.pull("acme/model", "--from", relay.url)
        assert set(relay.asked) == {piece.digest for piece in pieces_of(shop.folder)}
        assert set(relay.asked.values()) == {1}
        assert result["wire"]["wan"] == relay.sent + relay.received
    assert result["bytes"] == {
        "total": size_of(shop.folder),
        "reused": 0,
        "patched": 0,
        "lan": 0,
        "wan": size_of(shop.folder),
    }
    assert result["digest"] == shop.published["digest"]
    assert not result["unchanged"]
    assert_equal_files(result["path"], shop.folder)


def test_second_version_moves_what_changed(publisher: Publisher, tmp_path: Path) -> None:
    """Two of six layers change: their chunks move and no others, unchanged files are links, both versions stay."""
    first = make_model(tmp_path / "v1")
    second = make_model(tmp_path / "v2", changed={1: 77, 4: 78})
    node = publisher.node(tmp_path / "node")
    with publisher.home.serve() as seed:
        publisher.publish(first)
        before = node.pull("acme/model", "--from", seed.url)
        published = publisher.publish(second)
        after = node.pull("acme/model", "--from", seed.url)
    expected = new_bytes(first, second)
    assert 0 < expected < size_of(second) / 2
    assert published["version"] == 2
    assert published["new_bytes"] == expected
    assert after["bytes"]["wan"] == expected
    assert after["bytes"]["reused"] == size_of(second) - expected
    assert_equal_files(after["path"], second)
    assert_equal_files(before["path"], first)
    for file in ("config.json", "tokenizer/vocab.txt"):
        assert (Path(before["path"]) / file).stat().st_ino == (Path(after["path"]) / file).stat().st_ino
    node.run("verify")
    difference = node.json("diff", f"acme/model@{before['digest']}", "acme/model")
    assert difference["bytes"] == {"total": size_of(second), "reused": size_of(second) - expected, "missing": expected}
    assert [layer["name"] for layer in difference["layers"] if layer["bytes"]] == ["layers.1", "layers.4"]


def test_complete_peer_spares_the_outside_link(shop: Shop, tmp_path: Path) -> None:
    """With a peer that has everything and a seed outside, every model byte comes from the peer."""
    near, far = shop.node(tmp_path / "near"), shop.node(tmp_path / "far")
    near.pull("acme/model", "--from", shop.seed.url)
    with near.serve() as peer:
        result = far.pull("acme/model", "--from", shop.seed.url, "--peer", peer.address)
    assert result["bytes"]["lan"] == size_of(shop.folder)
    assert result["bytes"]["wan"] == 0
    assert {source["kind"] for source in result["sources"]} == {"lan", "wan"}
    assert_equal_files(result["path"], shop.folder)


def test_two_sources_of_one_kind_share_the_work(shop: Shop, tmp_path: Path) -> None:
    """Two peers that have everything are both asked, and no chunk is asked twice while both deliver."""
    near, next_door, far = (shop.node(tmp_path / name) for name in ("near", "next door", "far"))
    for node in (near, next_door):
        node.pull("acme/model", "--from", shop.seed.url)
    # Both are slow enough that neither has given everything before the other is asked.
    with near.serve("--upload-limit", "4M") as one, next_door.serve("--upload-limit", "4M") as other:
        result = far.pull("acme/model", "--peer", one.address, "--peer", other.address)
    assert sum(source["bytes"] > 0 for source in result["sources"]) == 2
    assert_equal_files(result["path"], shop.folder)


def test_variants_are_pulled_alone_and_a_partial_peer_serves_its_part(publisher: Publisher, tmp_path: Path) -> None:
    """A variant brings its files and those of all; a node that holds only that part serves it, the seed the rest."""
    folder = make_model(tmp_path / "model")
    make_model(folder / "small", seed=9, layers=2)
    (folder / "p2psync.toml").write_text(VARIANTS)
    shared = ["config.json", "tokenizer/vocab.txt"]
    small = [*shared, *(f"small/{file}" for file in files_of(folder / "small"))]
    publisher.publish(folder)
    with publisher.home.serve() as seed:
        alone, default = publisher.node(tmp_path / "alone"), publisher.node(tmp_path / "default")
        part = alone.pull("acme/model", "--from", seed.url, "--variant", "small")
        assert_equal_files(part["path"], folder, only=small)
        assert part["bytes"]["total"] == sum((folder / file).stat().st_size for file in small)
        whole = default.pull("acme/model", "--from", seed.url)
        assert_equal_files(whole["path"], folder, only=[*shared, WEIGHTS])
        alone.fails("pull", "acme/model", "--from", seed.url, "--variant", "smal", code=3, named="variant_not_found")
        with alone.serve() as peer:
            again = default.pull("acme/model", "--from", seed.url, "--peer", peer.address, "--variant", "small")
            assert again["bytes"]["wan"] == 0
            both = publisher.node(tmp_path / "both")
            rest = both.pull("acme/model", "--from", seed.url, "--peer", peer.address)
    assert_equal_files(again["path"], folder)
    common = bytes_of([piece for piece in pieces_of(folder) if piece.path in shared])
    assert rest["bytes"]["lan"] == common
    assert rest["bytes"]["wan"] == (folder / WEIGHTS).stat().st_size
    variants = {row["name"]: row for row in alone.json("show", "acme/model")["variants"]}
    assert variants["small"]["installed"]
    assert not variants["full"]["installed"]
    assert variants["small"]["memory_bytes"] == 1_000_000


def test_settings_with_an_unknown_key_name_the_nearest(publisher: Publisher, tmp_path: Path) -> None:
    """A misspelt key in p2psync.toml ends the publish with exit 2, and the message names the right one."""
    folder = make_model(tmp_path / "model", layers=1)
    (folder / "p2psync.toml").write_text('[variants.int8]\nfils = ["*"]\n')
    done = publisher.home.run("publish", folder, "acme/model", "--key", "maker", code=2)
    assert "files" in done.stderr


def test_export_is_a_copy_or_read_only_links(shop: Shop, tmp_path: Path) -> None:
    """--to writes independent files; with --link they are the store's own inodes, read-only."""
    node = shop.node(tmp_path / "node")
    copies = node.pull("acme/model", "--from", shop.seed.url, "--to", tmp_path / "copies")
    assert copies["path"] == str(tmp_path / "copies")
    links = node.pull("acme/model", "--from", shop.seed.url, "--to", tmp_path / "links", "--link")
    installed = Path(node.json("show", "acme/model")["path"])
    assert_equal_files(tmp_path / "copies", shop.folder)
    assert_equal_files(tmp_path / "links", shop.folder)
    assert links["unchanged"]
    for file in files_of(shop.folder):
        assert not (tmp_path / "copies" / file).samefile(installed / file)
        assert (tmp_path / "links" / file).samefile(installed / file)
        assert (tmp_path / "links" / file).stat().st_mode & 0o222 == 0
    (tmp_path / "copies" / "config.json").chmod(0o644)
    (tmp_path / "copies" / "config.json").write_text("mine")
    node.run("verify")


def test_dry_run_moves_nothing(shop: Shop, tmp_path: Path) -> None:
    """-n says what would cross a link and what would be written, before a pull and after it, and leaves no file."""
    node = shop.node(tmp_path / "node")
    size = size_of(shop.folder)
    plan = node.json("pull", "acme/model", "--from", shop.seed.url, "-n")
    assert plan["bytes"] == {"total": size, "reused": 0, "patched": 0, "missing": size}
    assert plan["disk"]["needed"] >= size
    assert plan["disk"]["free"] > 0
    assert node.json("ls")["models"] == []
    assert not any(path.name == WEIGHTS for path in node.path.rglob("*"))
    node.pull("acme/model", "--from", shop.seed.url)
    plan = node.json("pull", "acme/model", "--from", shop.seed.url, "-n")
    assert plan["bytes"] == {"total": size, "reused": size, "patched": 0, "missing": 0}
    assert plan["disk"]["needed"] == 0


def test_offline_opens_no_connection(shop: Shop, tmp_path: Path) -> None:
    """--offline finds what is here and what file:// has, and nothing else."""
    node = shop.node(tmp_path / "node")
    with Relay(shop.seed.url) as relay:
        node.fails("pull", "acme/model", "--from", relay.url, "--offline", code=3, named="model_not_found")
        assert relay.requests == []
    shop.publisher.publish(shop.folder, "acme/offline", "--to", tmp_path / "tree")
    result = node.pull("acme/offline", "--from", tmp_path / "tree", "--offline")
    assert result["bytes"]["wan"] == size_of(shop.folder)
    again = node.pull("acme/offline", "--offline")
    assert again["unchanged"]
    assert again["path"] == result["path"]


def test_origin_tree_as_files(publisher: Publisher, tmp_path: Path) -> None:
    """A tree of plain files is a source by path and by file:// URL; a second version adds only its new bytes."""
    first, tree = make_model(tmp_path / "v1"), tmp_path / "my tree"
    written = publisher.publish(first, "acme/model", "--to", tree)["origin"]
    assert written["bytes"] >= size_of(first)
    by_path, by_url = publisher.node(tmp_path / "a"), publisher.node(tmp_path / "b")
    assert_equal_files(by_path.pull("acme/model", "--from", tree)["path"], first)
    assert_equal_files(by_url.pull("acme/model", "--from", tree.as_uri())["path"], first)
    second = make_model(tmp_path / "v2", changed={0: 5})
    added = publisher.publish(second, "acme/model", "--to", tree)
    assert added["version"] == 2
    assert new_bytes(first, second) <= added["origin"]["bytes"] < size_of(second) / 2
    result = by_path.pull("acme/model", "--from", tree)
    assert result["bytes"]["wan"] == new_bytes(first, second)
    assert_equal_files(result["path"], second)
    gone = publisher.node(tmp_path / "c")
    gone.fails("pull", "acme/model", "--from", "file:///no/such/tree", code=3, named="model_not_found")


@pytest.mark.nginx
@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
async def test_origin_tree_behind_nginx_alone_and_with_a_live_peer(publisher: Publisher, tmp_path: Path) -> None:
    """Plain nginx serves the tree with no code of ours; beside a live peer it is asked only for what the peer lacks."""
    first, second, tree = make_model(tmp_path / "v1"), make_model(tmp_path / "v2", changed={2: 9}), tmp_path / "tree"
    publisher.publish(first, "acme/model", "--to", tree)
    node, other = publisher.node(tmp_path / "node"), publisher.node(tmp_path / "other")
    async with nginx(tree, tmp_path / "nginx") as url:
        alone = await asyncio.to_thread(node.pull, "acme/model", "--from", url)
        assert alone["bytes"]["wan"] == size_of(first)
        assert_equal_files(alone["path"], first)
        again = await asyncio.to_thread(node.pull, "acme/model", "--from", url)
        assert again["unchanged"]
        assert again["wire"]["wan"] <= 1024
        with node.serve() as peer:
            sources = ("--from", url, "--peer", peer.address)
            both = await asyncio.to_thread(other.pull, "acme/model", *sources)
            assert (both["bytes"]["lan"], both["bytes"]["wan"]) == (size_of(first), 0)
            publisher.publish(second, "acme/model", "--to", tree)
            newer = await asyncio.to_thread(other.pull, "acme/model", *sources)
    assert newer["version"] == 2
    assert newer["bytes"]["wan"] == new_bytes(first, second)
    assert_equal_files(newer["path"], second)


def test_rewritten_file_moves_no_tensor_byte(publisher: Publisher, tmp_path: Path) -> None:
    """An edited header, another order of tensors, and three shards instead of one file move headers alone."""
    tensors = tensors_of(seed=3)
    names = sorted(tensors)
    node = publisher.node(tmp_path / "node")
    shapes = {
        "plain": {WEIGHTS: names},
        "header": {WEIGHTS: names},
        "reordered": {WEIGHTS: names[::-1]},
        "shards": {f"model-{i}-of-3.safetensors": names[i::3] for i in range(3)},
    }
    with publisher.home.serve() as seed:
        for shape, files in shapes.items():
            folder = tmp_path / shape
            folder.mkdir()
            write_settings(folder)
            for file, order in files.items():
                write_safetensors(folder / file, tensors, order, {"note": shape})
            published = publisher.publish(folder)
            result = node.pull("acme/model", "--from", seed.url)
            headers = sum((folder / f).stat().st_size - sum(tensors[n].nbytes for n in o) for f, o in files.items())
            assert_equal_files(result["path"], folder)
            if shape != "plain":
                assert 0 < result["bytes"]["wan"] <= headers
                assert published["new_bytes"] <= headers
    node.run("verify")


def test_nothing_changed_is_one_request_of_a_kilobyte(shop: Shop, tmp_path: Path) -> None:
    """A pull of what is here asks once and moves at most 1 KB, both ways together."""
    node = shop.node(tmp_path / "node")
    with Relay(shop.seed.url) as relay:
        first = node.pull("acme/model", "--from", relay.url)
        relay.forget()
        again = node.pull("acme/model", "--from", relay.url)
        assert len(relay.requests) == 1
        assert relay.sent + relay.received <= 1024
        assert again["wire"]["wan"] == relay.sent + relay.received
    assert again["unchanged"]
    assert again["path"] == first["path"]


def test_publish_and_tag_while_serve_owns_the_home(publisher: Publisher, tmp_path: Path) -> None:
    """A running serve does the work of its home: what is published and tagged then is served at once."""
    folder = make_model(tmp_path / "model", layers=2)
    node = publisher.node(tmp_path / "node")
    with publisher.home.serve() as seed:
        published = publisher.publish(folder, "acme/model:v1")
        tagged = publisher.home.json("tag", "acme/model:v1", "stable", "--key", "maker")
        assert tagged["digest"] == published["digest"]
        assert publisher.home.run("tag", "acme/model:v1", "stable", "--key", "maker").line == (
            f"acme/model:stable@{published['digest']}"
        )
        result = node.pull("acme/model:stable", "--from", seed.url)
        assert result["version"] == 2
        assert publisher.home.json("verify")["ok"]
        assert publisher.home.json("prune")["removed"] == []
        removed = publisher.home.json("rm", "acme/model:stable")
        assert not removed["removed"]
        node.fails("pull", "acme/model:other", "--from", seed.url, code=3, named="model_not_found")
        assert publisher.home.json("status")["serving"] == seed.url
    assert_equal_files(result["path"], folder)


def test_pull_through_the_running_serve(shop: Shop, tmp_path: Path) -> None:
    """A pull on a home that a serve owns is done by that serve, which offers the bytes to others right away."""
    node, other = shop.node(tmp_path / "node"), shop.node(tmp_path / "other")
    with node.serve() as serving:
        pulled = node.pull("acme/model", "--from", shop.seed.url)
        assert_equal_files(pulled["path"], shop.folder)
        passed_on = other.pull("acme/model", "--peer", serving.address)
        assert passed_on["bytes"]["lan"] == size_of(shop.folder)
        text = node.run("pull", "acme/model", "--from", shop.seed.url)
        assert text.line == pulled["path"]
        node.fails("pull", "acme/none", "--from", shop.seed.url, code=3, named="model_not_found")
    assert_equal_files(passed_on["path"], shop.folder)


def test_running_pull_offers_what_it_has_proved(shop: Shop, tmp_path: Path) -> None:
    """While a node's own pull is held up, a second node gets from it what it has, and the rest from the seed."""
    near, far = shop.node(tmp_path / "near"), shop.node(tmp_path / "far")
    with Relay(shop.seed.url) as relay, near.serve() as peer:
        relay.hold_after(9_000_000)
        with near.start("pull", "acme/model", "--from", relay.url, "--json") as first:
            until(lambda: relay.holding, "half of the bytes are through")
            until(lambda: near.json("status")["transfers"], "the node tells of its pull")
            result = far.pull("acme/model", "--from", shop.seed.url, "--peer", peer.address)
            relay.release()
            first.wait(0)
    assert result["bytes"]["lan"] > 2_000_000
    assert result["bytes"]["wan"] > 1_000_000
    assert_equal_files(result["path"], shop.folder)


def test_explicit_digest_may_be_older(publisher: Publisher, tmp_path: Path) -> None:
    """After a newer version was accepted, the older one still comes by its digest, and the tag does not move back."""
    first, second = make_model(tmp_path / "v1", layers=2), make_model(tmp_path / "v2", layers=2, seed=2)
    node = publisher.node(tmp_path / "node")
    old = publisher.publish(first)
    publisher.publish(second)
    with publisher.home.serve() as seed:
        assert node.pull("acme/model", "--from", seed.url)["version"] == 2
        back = node.pull(f"acme/model@{old['digest']}", "--from", seed.url)
        assert back["version"] == 1
        assert node.pull("acme/model", "--from", seed.url)["version"] == 2
    assert_equal_files(back["path"], first)


def test_expired_head_is_refused_and_what_is_installed_stays(publisher: Publisher, tmp_path: Path) -> None:
    """A head past its date ends a new pull with exit 4; the node that pulled in time keeps its files."""
    folder = make_model(tmp_path / "model", layers=1)
    early, late = publisher.node(tmp_path / "early"), publisher.node(tmp_path / "late")
    with publisher.home.serve() as seed:
        publisher.publish(folder)
        result = early.pull("acme/model", "--from", seed.url)
        publisher.publish(folder, "acme/model", "--expires", "1s")
        time.sleep(1.1)
        late.fails("pull", "acme/model", "--from", seed.url, code=4, named="expired")
        early.fails("pull", "acme/model", "--from", seed.url, code=4, named="expired")
    assert early.pull("acme/model", "--offline")["path"] == result["path"]
    assert_equal_files(result["path"], folder)


def test_watch_installs_each_new_version(publisher: Publisher, tmp_path: Path) -> None:
    """--watch prints one line for what is there first and one for each version after it, until it is interrupted."""
    code = "import p2psync.node.pull as pull; pull.WATCH_S = 0.3; from p2psync.cli.main import entry; entry()"
    node = publisher.node(tmp_path / "node", (PROGRAM[0], "-c", code))
    publisher.publish(make_model(tmp_path / "v1", layers=1))
    with (
        publisher.home.serve() as seed,
        node.start("pull", "acme/model", "--from", seed.url, "--watch", "--json") as run,
    ):
        reader = Home(node.path)
        until(lambda: len(reader.json("ls")["models"]) == 1, "the first version is installed")
        publisher.publish(make_model(tmp_path / "v2", layers=1, seed=2))
        until(lambda: reader.json("show", "acme/model")["version"] == 2, "the second version is installed")
        time.sleep(0.5)
        run.signal(signal.SIGINT)
        done = run.wait(130)
    assert ['"version": 1' in line for line in done.stdout.splitlines()[:2]] == [True, False]


def test_pull_from_python(shop: Shop, tmp_path: Path) -> None:
    """p2psync.pull is one call: typed counts, progress events, and the project's own errors."""
    node = shop.node(tmp_path / "node")
    events: list[dict[str, object]] = []
    result = p2psync.pull("acme/model", home=node.path, sources=[shop.seed.url], progress=events.append)
    assert_equal_files(result.path, shop.folder)
    assert (result.total_bytes, result.wan_bytes, result.lan_bytes) == (size_of(shop.folder), size_of(shop.folder), 0)
    assert result.digest == shop.published["digest"]
    told = [event["event"] for event in events]
    assert told[:2] == ["resolved", "plan"]
    assert told[-1] == "installed"
    assert events[-2]["done"] == events[-2]["total"] == size_of(shop.folder)
    with pytest.raises(p2psync.P2PSyncError) as caught:
        p2psync.pull("acme/none", home=node.path, sources=[shop.seed.url])
    assert (caught.value.exit_code, caught.value.code) == (3, "model_not_found")


async def test_node_in_an_event_loop(shop: Shop, tmp_path: Path) -> None:
    """An async Node pulls, serves what it pulled to a process, and gives its home back at the end."""
    home, other = shop.node(tmp_path / "home"), shop.node(tmp_path / "other")
    async with p2psync.Node(home.path) as node:
        result = await node.pull("acme/model", sources=[shop.seed.url])
        assert_equal_files(result["path"], shop.folder)
        passed_on = await asyncio.to_thread(other.pull, "acme/model", "--peer", node.url)
        assert passed_on["bytes"]["lan"] == size_of(shop.folder)
        status = await asyncio.to_thread(home.json, "status")
        assert (status["pid"], status["serving"]) == (os.getpid(), node.url)
    assert home.json("verify")["ok"]


def test_in_place_publish_serves_the_files_where_they_are(publisher: Publisher, tmp_path: Path) -> None:
    """--in-place copies nothing and is called fragile; a file that changed is no longer served, and never wrongly."""
    folder = make_model(tmp_path / "model", layers=2)
    publisher.publish(folder, "acme/model", "--in-place")
    assert publisher.home.json("show", "acme/model")["fragile"]
    assert sum(path.stat().st_size for path in publisher.home.path.rglob("*") if path.is_file()) < size_of(folder) / 2
    node, late = publisher.node(tmp_path / "node"), publisher.node(tmp_path / "late", hasty(STALL_S=4.0))
    with publisher.home.serve() as seed:
        assert_equal_files(node.pull("acme/model", "--from", seed.url)["path"], folder)
        make_model(folder, layers=2, seed=5)
        late.run("pull", "acme/model", "--from", seed.url, code=7)
    assert late.json("ls")["models"] == []
