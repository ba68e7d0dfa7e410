"""Who may say what is current: every head that must be refused, from seeds that serve it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import urllib.request
from pathlib import Path

import pytest

from p2psync.manifest import encode_json
from tests.integration.conftest import Shop
from tests.integration.lab import Home, Publisher
from tests.integration.models import assert_equal_files, make_model
from tests.integration.relay import ScriptedSeed

TAG_PATH = "/v1/heads/acme/model/tags/latest"


def fetched(url: str) -> bytes:
    """The body at a URL of a seed."""
    with urllib.request.urlopen(url) as reply:
        body: bytes = reply.read()
        return body


def assert_refused(node: Home, seed: str, named: str, reference: str = "acme/model") -> None:
    """A pull from ``seed`` ends with exit 4 and leaves nothing."""
    before = node.json("ls")
    node.fails("pull", reference, "--from", seed, code=4, named=named)
    assert node.json("ls") == before


def test_unknown_signer(shop: Shop, tmp_path: Path) -> None:
    """Without a key for the name nothing is pulled, and the hint says how to add one."""
    node = Home(tmp_path / "node").trust(shop.publisher.key, "other/*")
    done = node.fails("pull", "acme/model", "--from", shop.seed.url, code=4, named="unknown_signer")
    assert "p2psync trust add 'acme/*'" in done.error["hint"]
    assert node.json("ls")["models"] == []


def test_key_of_somebody_else(shop: Shop, publisher: Publisher, tmp_path: Path) -> None:
    """A head that another key signed than the one bound to the name is refused."""
    assert_refused(publisher.node(tmp_path / "node"), shop.seed.url, "bad_signature")


def test_longest_pattern_decides(shop: Shop, publisher: Publisher, tmp_path: Path) -> None:
    """A key bound to the very name outranks the one of its namespace; two owners of one pattern are refused."""
    node = publisher.node(tmp_path / "node")
    node.fails("trust", "add", "acme/*", shop.publisher.key, code=4, named="trust")
    node.trust(shop.publisher.key, "acme/model")
    assert_equal_files(node.pull("acme/model", "--from", shop.seed.url)["path"], shop.folder)


@pytest.mark.parametrize("part", ["signature", "payload", "type"])
def test_changed_envelope(part: str, shop: Shop, tmp_path: Path) -> None:
    """One changed character of signature, payload or payload type makes a head that nobody signed."""
    envelope = json.loads(fetched(shop.seed.url + TAG_PATH))
    if part == "signature":
        raw = bytearray(base64.b64decode(envelope["signatures"][0]["sig"]))
        raw[7] ^= 1
        envelope["signatures"][0]["sig"] = base64.b64encode(raw).decode()
    elif part == "payload":
        text = base64.b64decode(envelope["payload"])
        envelope["payload"] = base64.b64encode(text.replace(b'"version":1', b'"version":9')).decode()
    else:
        envelope["payloadType"] = envelope["payloadType"].replace("head", "other")
    node = shop.node(tmp_path / "node")
    with ScriptedSeed({TAG_PATH: encode_json(envelope)}) as liar:
        done = node.run("pull", "acme/model", "--from", liar.url, "--json", code=None)
        assert done.code in ((4, 5) if part == "type" else (4,))
        beside = node.pull("acme/model", "--from", liar.url, "--from", shop.seed.url)
    assert_equal_files(beside["path"], shop.folder)


def test_heads_for_another_name_tag_or_digest(publisher: Publisher, tmp_path: Path) -> None:
    """A head that is rightly signed for something else than was asked for is refused, whatever it is offered as."""
    one = publisher.publish(make_model(tmp_path / "one", layers=1), "acme/other")
    two = publisher.publish(make_model(tmp_path / "two", layers=1, seed=2), "acme/model:v1")
    with publisher.home.serve() as seed:
        other_name = fetched(f"{seed.url}/v1/heads/acme/other/tags/latest")
        other_tag = fetched(f"{seed.url}/v1/heads/acme/model/tags/v1")
    by_digest = f"/v1/heads/acme/model/digests/{one['digest'].removeprefix('b3:')}"
    node = publisher.node(tmp_path / "node")
    with ScriptedSeed({TAG_PATH: other_name, by_digest: other_tag}) as liar:
        assert_refused(node, liar.url, "wrong_head")
        assert_refused(node, liar.url, "wrong_head", f"acme/model@{one['digest']}")
    with ScriptedSeed({TAG_PATH: other_tag}) as liar:
        assert_refused(node, liar.url, "wrong_head")
    assert one["digest"] != two["digest"]


def test_lower_version_on_a_moving_tag(publisher: Publisher, tmp_path: Path) -> None:
    """A replayed older head is refused once a newer one was seen, even by an emptied store; a digest may go back."""
    first, second = make_model(tmp_path / "v1", layers=1), make_model(tmp_path / "v2", layers=1, seed=2)
    node, fresh = publisher.node(tmp_path / "node"), publisher.node(tmp_path / "fresh")
    with publisher.home.serve() as seed:
        old = publisher.publish(first)
        replayed = fetched(seed.url + TAG_PATH)
        publisher.publish(second)
        newest = node.pull("acme/model", "--from", seed.url)
        with ScriptedSeed({TAG_PATH: replayed}) as liar:
            assert_refused(node, liar.url, "rollback")
            assert node.pull("acme/model", "--offline")["version"] == 2
            both = fresh.pull("acme/model", "--from", liar.url, "--from", seed.url)
            assert both["version"] == 2
            node.run("rm", "acme/model")
            assert_refused(node, liar.url, "rollback")
        assert node.pull(f"acme/model@{old['digest']}", "--from", seed.url)["version"] == 1
    assert newest["version"] == 2


def test_two_contents_under_one_version(publisher: Publisher, tmp_path: Path) -> None:
    """A second content under an accepted version number is refused: somebody says two things with one key."""
    twin = Home(tmp_path / "twin")
    shutil.copytree(publisher.home.path, twin.path)
    publisher.publish(make_model(tmp_path / "a", layers=1))
    Publisher(twin, publisher.key).publish(make_model(tmp_path / "b", layers=1, seed=2))
    node = publisher.node(tmp_path / "node")
    with publisher.home.serve() as seed, twin.serve() as other:
        node.pull("acme/model", "--from", seed.url)
        assert_refused(node, other.url, "rollback")


@pytest.mark.parametrize("what", ["deleted", "garbled"])
def test_lost_floors_are_told(what: str, shop: Shop, tmp_path: Path) -> None:
    """Losing the record of accepted versions stops new pulls with a hint; it is never taken for a fresh start."""
    node = shop.node(tmp_path / "node")
    node.pull("acme/model", "--from", shop.seed.url)
    floors = node.path / "trust" / "floors.json"
    if what == "deleted":
        floors.unlink()
    else:
        floors.write_bytes(b'{"floors": {"acme')
    done = node.fails("pull", "acme/model", "--from", shop.seed.url, code=6, named="store")
    assert str(floors) in done.error["message"]
    assert node.json("verify")["ok"]


def test_trust_outranks_network(shop: Shop, publisher: Publisher, tmp_path: Path) -> None:
    """When one source is unreachable and another's head is badly signed, the exit code is that of trust."""
    node = publisher.node(tmp_path / "node")
    sources = ("--from", "http://127.0.0.1:9", "--from", shop.seed.url)
    node.fails("pull", "acme/model", *sources, code=4, named="bad_signature")
    node.run("pull", "acme/model", "--from", "http://127.0.0.1:9", code=7)


def test_secrets_are_private(shop: Shop, tmp_path: Path) -> None:
    """Keys and trust stand in 0600 files of 0700 folders; a key that others can read is not used."""
    publisher = Publisher.at(tmp_path / "home")
    publisher.home.trust(publisher.key)
    for name in ("keys", "trust"):
        place = publisher.home.path / name
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in place.iterdir() if path.is_file()} == {0o600}
    (secret,) = [path for path in (publisher.home.path / "keys").iterdir() if path.is_file() and path.stat().st_size]
    os.chmod(secret, 0o644)
    folder = make_model(tmp_path / "model", layers=1)
    done = publisher.home.run("publish", folder, "acme/model", "--key", "maker", code=None)
    assert done.code == 6
    assert "chmod" in done.stderr
