"""Updates of weights as users make them: encoded chunks are published, served, passed on, and decoded, exactly."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from p2psync.limits import KIB
from tests.integration.lab import Home, Publisher, Serving, until
from tests.integration.relay import Relay

WEIGHTS = "model.safetensors"
# Two layers of 1.5 million BF16 weights each (three chunks), and one small one.
SHAPES = {"blocks.0.weight": (1024, 1536), "blocks.1.weight": (1024, 1536), "head.bias": (1536,)}


def bfloat16(values: np.ndarray) -> np.ndarray:
    """The bit patterns nearest to FP32 values, as uint16."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def weights(step: int) -> dict[str, np.ndarray]:
    """Weights after some steps of training: steps are small, so that low bits change and exponents hardly do."""
    made = {}
    for number, (name, shape) in enumerate(SHAPES.items()):
        values = np.random.default_rng(number).normal(0, 0.02, shape)
        for one in range(step):
            values += np.random.default_rng([number, one + 1]).normal(0, 3e-5, shape)
        made[name] = bfloat16(values)
    return made


def write(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    """A folder with one safetensors file of BF16 tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    header, at = {}, 0
    for name, data in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(data.shape), "data_offsets": [at, at + data.nbytes]}
        at += data.nbytes
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(
        struct.pack("<Q", len(text)) + text + b"".join(t.tobytes() for t in tensors.values())
    )
    return folder


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three versions of one model."""
    top = tmp_path_factory.mktemp("versions")
    return [write(top / f"v{step}", weights(step)) for step in range(3)]


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher.at(tmp_path / "publisher")


def bytes_of(result: dict[str, object]) -> bytes:
    return (Path(str(result["path"])) / WEIGHTS).read_bytes()


def serve(home: Home) -> Serving:
    return home.serve()


def test_an_update_costs_what_changed(publisher: Publisher, versions: list[Path], tmp_path: Path) -> None:
    """The first pull moves planes, the second deltas; every byte is the publisher's, and pull -n foretold the moves."""
    node = publisher.node(tmp_path / "node")
    first = publisher.publish(versions[0], "acme/model:v1")
    assert [one["kind"] for one in first["forms"]] == ["full"]
    with serve(publisher.home) as seed:
        pulled = node.pull("acme/model:v1", "--from", seed.url)
        size = pulled["bytes"]["total"]
        assert bytes_of(pulled) == (versions[0] / WEIGHTS).read_bytes()
        assert pulled["bytes"]["wan"] == size
        assert pulled["wire"]["wan"] < 0.75 * size

        second = publisher.publish(versions[1], "acme/model:v2", "--base", "acme/model:v1")
        assert [one["kind"] for one in second["forms"]] == ["full", "delta"]
        planned = node.json("pull", "acme/model:v2", "--from", seed.url, "-n")
        assert {one["kind"] for one in planned["forms"]["chosen"]} <= {"delta", "raw"}
        updated = node.pull("acme/model:v2", "--from", seed.url)
        assert bytes_of(updated) == (versions[1] / WEIGHTS).read_bytes()
        assert updated["bytes"]["patched"] > 0.99 * size
        assert updated["bytes"]["patched"] == planned["bytes"]["patched"]
        assert updated["wire"]["wan"] < 0.25 * size
        assert planned["wire"]["bytes"] <= updated["wire"]["wan"] <= 1.1 * planned["wire"]["bytes"] + 8192

        fresh = publisher.node(tmp_path / "fresh")
        whole = fresh.pull("acme/model:v2", "--from", seed.url)
        assert whole["bytes"]["patched"] == 0
        assert bytes_of(whole) == (versions[1] / WEIGHTS).read_bytes()
        assert whole["wire"]["wan"] < 0.75 * size


def test_a_node_passes_on_what_it_decoded(publisher: Publisher, versions: list[Path], tmp_path: Path) -> None:
    """A second node gets the deltas from the first, and nothing from the publisher."""
    publisher.publish(versions[0], "acme/model:v1")
    first, second = (publisher.node(tmp_path / name) for name in ("first", "second"))
    with serve(publisher.home) as seed:
        for node in (first, second):
            node.pull("acme/model:v1", "--from", seed.url)
        publisher.publish(versions[1], "acme/model:v2", "--base", "acme/model:v1")
        with serve(first) as peer:
            first.pull("acme/model:v2", "--from", seed.url)
            size = os.path.getsize(versions[1] / WEIGHTS)
            passed = second.pull("acme/model:v2", "--peer", peer.address)
    assert bytes_of(passed) == (versions[1] / WEIGHTS).read_bytes()
    assert passed["bytes"]["patched"] > 0.99 * size
    assert 0 < passed["wire"]["lan"] < 0.25 * size
    assert passed["wire"]["wan"] == 0


def test_an_origin_tree_holds_the_forms_too(publisher: Publisher, versions: list[Path], tmp_path: Path) -> None:
    """Plain files serve an update as well as a seed does."""
    tree = tmp_path / "tree"
    node = publisher.node(tmp_path / "node")
    publisher.publish(versions[0], "acme/model:v1", "--to", tree)
    publisher.publish(versions[1], "acme/model:v2", "--to", tree, "--base", "acme/model:v1")
    node.pull("acme/model:v1", "--from", tree.as_uri())
    updated = node.pull("acme/model:v2", "--from", tree.as_uri())
    assert bytes_of(updated) == (versions[1] / WEIGHTS).read_bytes()
    assert updated["bytes"]["patched"] > 0.99 * updated["bytes"]["total"]
    assert updated["wire"]["wan"] < 0.25 * updated["bytes"]["total"]


def test_a_base_that_rotted_is_found_and_its_chunks_come_as_they_are(
    publisher: Publisher, versions: list[Path], tmp_path: Path
) -> None:
    """A flipped byte in the installed base costs one chunk in full; nobody is blamed, and the update is right."""
    node = publisher.node(tmp_path / "node")
    publisher.publish(versions[0], "acme/model:v1")
    with serve(publisher.home) as seed:
        base = Path(node.pull("acme/model:v1", "--from", seed.url)["path"]) / WEIGHTS
        publisher.publish(versions[1], "acme/model:v2", "--base", "acme/model:v1")
        facts = base.stat()
        base.chmod(0o600)
        with base.open("r+b") as file:
            file.seek(2_000_000)
            byte = file.read(1)[0]
            file.seek(2_000_000)
            file.write(bytes([byte ^ 0x10]))
        base.chmod(0o444)
        os.utime(base, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        updated = node.pull("acme/model:v2", "--from", seed.url)
    assert bytes_of(updated) == (versions[1] / WEIGHTS).read_bytes()
    assert (
        updated["bytes"]["total"] == updated["bytes"]["patched"] + updated["bytes"]["wan"] + updated["bytes"]["reused"]
    )


def test_a_node_that_serves_only_later_passes_on_what_it_decoded(
    publisher: Publisher, versions: list[Path], tmp_path: Path
) -> None:
    """It pulled by itself and serves then: the next node moves deltas, as pull -n foretells."""
    publisher.publish(versions[0], "acme/model:v1")
    publisher.publish(versions[1], "acme/model:v2", "--base", "acme/model:v1")
    first, second = (publisher.node(tmp_path / name) for name in ("first", "second"))
    with serve(publisher.home) as seed:
        second.pull("acme/model:v1", "--from", seed.url)
        for version in ("v1", "v2"):
            first.pull(f"acme/model:{version}", "--from", seed.url)
    with serve(first) as peer:
        planned = second.json("pull", "acme/model:v2", "--peer", peer.url, "-n")
        updated = second.pull("acme/model:v2", "--peer", peer.url)
    assert bytes_of(updated) == (versions[1] / WEIGHTS).read_bytes()
    assert updated["bytes"]["patched"] > 0.9 * updated["bytes"]["total"]
    assert planned["wire"]["bytes"] <= updated["wire"]["lan"] <= 1.1 * planned["wire"]["bytes"] + 8192


def test_a_pull_foretells_what_its_sources_hold(publisher: Publisher, versions: list[Path], tmp_path: Path) -> None:
    """A peer that has the chunks alone is not counted on for deltas."""
    publisher.publish(versions[0], "acme/model:v1")
    publisher.publish(versions[1], "acme/model:v2", "--base", "acme/model:v1")
    first, second = (publisher.node(tmp_path / name) for name in ("first", "second"))
    with serve(publisher.home) as seed:
        second.pull("acme/model:v1", "--from", seed.url)
        first.pull("acme/model:v2", "--from", seed.url)
    for part in (first.path / "forms").glob("*.part"):
        part.unlink()
    with serve(first) as peer:
        planned = second.json("pull", "acme/model:v2", "--peer", peer.url, "-n")
        updated = second.pull("acme/model:v2", "--peer", peer.url)
    assert updated["bytes"]["patched"] == planned["bytes"]["patched"] == 0
    assert planned["wire"]["bytes"] <= updated["wire"]["lan"] <= 1.1 * planned["wire"]["bytes"] + 8192


def test_a_base_that_is_removed_meanwhile_costs_no_more_than_the_full_form(
    publisher: Publisher, versions: list[Path], tmp_path: Path
) -> None:
    """Between two pulls the base goes: the next update is in full, and says so before."""
    node = publisher.node(tmp_path / "node")
    publisher.publish(versions[0], "acme/model:v1")
    publisher.publish(versions[1], "acme/model:v2", "--base", "acme/model:v1")
    with serve(publisher.home) as seed:
        node.pull("acme/model:v1", "--from", seed.url)
        node.run("rm", "acme/model:v1")
        planned = node.json("pull", "acme/model:v2", "--from", seed.url, "-n")
        assert {one["kind"]: one["here"] for one in planned["forms"]["offered"]} == {"full": True, "delta": False}
        updated = node.pull("acme/model:v2", "--from", seed.url)
    assert bytes_of(updated) == (versions[1] / WEIGHTS).read_bytes()
    assert updated["bytes"]["patched"] == 0


def test_a_base_that_is_removed_in_the_middle_of_a_pull(
    publisher: Publisher, versions: list[Path], tmp_path: Path
) -> None:
    """What was decoded by then stays; the rest comes in full, and the files are the publisher's."""
    node = publisher.node(tmp_path / "node")
    publisher.publish(versions[0], "acme/model:v1")
    publisher.publish(versions[1], "acme/model:v2", "--base", "acme/model:v1")
    with serve(publisher.home) as seed, Relay(seed.url) as relay, serve(node):
        node.pull("acme/model:v1", "--from", seed.url)
        planned = node.json("pull", "acme/model:v2", "--from", relay.url, "-n")
        relay.hold_after(planned["wire"]["bytes"] * 3 // 4)
        with node.start("pull", "acme/model:v2", "--from", relay.url, "--json") as pulling:
            until(lambda: relay.holding, "the relay holds the rest back")
            until(lambda: any(t["patched"] for t in node.json("status")["transfers"]), "the first chunk is decoded")
            node.run("rm", "acme/model:v1")
            relay.release()
            updated = pulling.wait(0, 60).json
    assert bytes_of(updated) == (versions[1] / WEIGHTS).read_bytes()
    counted = updated["bytes"]
    assert 0 < counted["patched"] < 0.99 * counted["total"]
    assert counted["wan"] > 0
    assert node.json("verify")["ok"]


def test_a_chain_of_deltas_is_followed(publisher: Publisher, versions: list[Path], tmp_path: Path) -> None:
    """The third version has deltas from the second alone: a holder of the first goes over it, and keeps it not."""
    node = publisher.node(tmp_path / "node")
    publisher.publish(versions[0], "acme/model:v1")
    between = publisher.publish(versions[1], "acme/model:v2", "--base", "acme/model:v1")
    publisher.publish(versions[2], "acme/model:v3", "--base", "acme/model:v2")
    with serve(publisher.home) as seed:
        node.pull("acme/model:v1", "--from", seed.url)
        updated = node.pull("acme/model:v3", "--from", seed.url)
    assert bytes_of(updated) == (versions[2] / WEIGHTS).read_bytes()
    assert updated["bytes"]["patched"] > 0.99 * updated["bytes"]["total"]
    assert updated["wire"]["wan"] < 0.5 * updated["bytes"]["total"]
    here = {row["reference"]: row["digest"] for row in node.json("ls")["models"]}
    assert sorted(here) == ["acme/model:v1", "acme/model:v3"]
    assert between["digest"] not in here.values()


def test_a_chain_that_is_no_shorter_is_not_followed(publisher: Publisher, tmp_path: Path) -> None:
    """Deltas of one tensor beside one that is new each time: going over the version between would bring it twice.

    That is two megabytes; which lists of forms a pull reads beside them, of some kilobytes, differs from pull to pull.
    """
    folders = []
    for step in range(3):
        tensors = weights(step)
        tensors["blocks.1.weight"] = bfloat16(np.random.default_rng(100 + step).normal(0, 0.02, (1024, 1536)))
        folders.append(write(tmp_path / f"v{step}", tensors))
    publisher.publish(folders[0], "acme/model:v1")
    publisher.publish(folders[1], "acme/model:v2", "--base", "acme/model:v1")
    publisher.publish(folders[2], "acme/model:v3", "--base", "acme/model:v2")
    node, fresh = publisher.node(tmp_path / "node"), publisher.node(tmp_path / "fresh")
    with serve(publisher.home) as seed:
        node.pull("acme/model:v1", "--from", seed.url)
        updated = node.pull("acme/model:v3", "--from", seed.url)
        whole = fresh.pull("acme/model:v3", "--from", seed.url)
    assert bytes_of(updated) == (folders[2] / WEIGHTS).read_bytes()
    assert updated["wire"]["wan"] <= whole["wire"]["wan"] + 16 * KIB


def test_diff_tells_what_a_pull_then_moves(publisher: Publisher, versions: list[Path], tmp_path: Path) -> None:
    """Per form and as chosen; what then moves is within a tenth of it."""
    publisher.publish(versions[0], "acme/model:v1")
    publisher.publish(versions[2], "acme/model:v3", "--base", "acme/model:v1")
    told = publisher.home.json("diff", "acme/model:v1", "acme/model:v3")["forms"]
    ways = {way["kind"]: way["wire"] for way in told["ways"]}
    assert ways["delta"] < ways["full"] < ways["raw"]
    assert told["pull"]["wire"] <= ways["delta"]
    node = publisher.node(tmp_path / "node")
    with serve(publisher.home) as seed:
        node.pull("acme/model:v1", "--from", seed.url)
        updated = node.pull("acme/model:v3", "--from", seed.url)
    assert told["pull"]["wire"] <= updated["wire"]["wan"] <= 1.1 * told["pull"]["wire"] + 8192


def test_layers_of_a_diff_add_up_to_what_a_pull_foretells(
    publisher: Publisher, versions: list[Path], tmp_path: Path
) -> None:
    """Of each layer what is equal and what moves in each form: the sums are those of ``diff`` and of ``pull -n``."""
    tensors = {**weights(1), "blocks.1.weight": weights(0)["blocks.1.weight"], "new.weight": weights(2)["head.bias"]}
    publisher.publish(versions[0], "acme/model:v1")
    publisher.publish(write(tmp_path / "next", tensors), "acme/model:v2", "--base", "acme/model:v1")
    node = publisher.node(tmp_path / "node")
    with serve(publisher.home) as seed:
        node.pull("acme/model:v1", "--from", seed.url)
        planned = node.json("pull", "acme/model:v2", "--from", seed.url, "-n")
    told = publisher.home.json("diff", "acme/model:v1", "acme/model:v2")
    layers = {layer["name"]: layer for layer in told["layers"]}
    assert {name: layer["change"] for name, layer in layers.items()} == {
        "blocks.0": "changed",
        "blocks.1": "equal",
        "head": "changed",
        "new": "added",
        WEIGHTS: "changed",
    }
    ways = {name: {way["kind"]: way["wire"] for way in layer["ways"]} for name, layer in layers.items()}
    assert ways["blocks.0"]["delta"] < ways["blocks.0"]["full"] < ways["blocks.0"]["raw"] == 1024 * 1536 * 2
    assert set(ways["blocks.1"].values()) == {0}
    assert ways["new"]["raw"] == ways["new"]["delta"] == 1536 * 2

    for way in told["forms"]["ways"]:
        own = [one for layer in layers.values() for one in layer["ways"] if one["kind"] == way["kind"]]
        assert sum(one["wire"] for one in own) == way["wire"]
        assert sum(one["seconds"] for one in own) == pytest.approx(way["seconds"], abs=1e-5)
    assert sum(layer["total"] for layer in layers.values()) == told["bytes"]["total"] == planned["bytes"]["total"]
    missing = planned["bytes"]["missing"] + planned["bytes"]["patched"]
    assert sum(layer["bytes"] for layer in layers.values()) == told["bytes"]["missing"] == missing
    moved = [layer["pull"] for layer in layers.values()]
    assert sum(one["wire"] for one in moved) == told["forms"]["pull"]["wire"] == planned["wire"]["bytes"]
    assert sum(one["seconds"] for one in moved) == pytest.approx(planned["wire"]["seconds"], abs=2e-3)

    text = publisher.home.run("diff", "acme/model:v1", "acme/model:v2", "--layers", "1").stdout.splitlines()
    assert [line.split("  ")[0] for line in text[-4:]] == ["blocks.0", "3 more", "1 more", "all"]


def test_a_follower_offers_what_its_publisher_offers(
    publisher: Publisher, versions: list[Path], tmp_path: Path
) -> None:
    """A seed that follows keeps every form for good, for nodes that have the base and for those that have none."""
    publisher.publish(versions[0], "acme/model")
    follower, node = publisher.node(tmp_path / "follower"), publisher.node(tmp_path / "node")
    with serve(publisher.home) as seed:
        node.pull("acme/model", "--from", seed.url)
        publisher.publish(versions[1], "acme/model", "--base", "acme/model")
        with follower.serve("--follow", "acme/model", "--from", seed.url) as second:
            until(lambda: any(e.get("state") == "mirrored" for e in second.events), "the forms are mirrored")
    with serve(follower) as third:
        updated = node.pull("acme/model", "--from", third.url)
    assert bytes_of(updated) == (versions[1] / WEIGHTS).read_bytes()
    assert updated["bytes"]["patched"] > 0.99 * updated["bytes"]["total"]


def test_without_forms_nothing_is_encoded(publisher: Publisher, versions: list[Path], tmp_path: Path) -> None:
    """--no-forms publishes raw chunks alone, and a pull moves them as they are."""
    published = publisher.publish(versions[0], "acme/model:v1", "--no-forms")
    assert published["forms"] == []
    node = publisher.node(tmp_path / "node")
    with serve(publisher.home) as seed:
        pulled = node.pull("acme/model:v1", "--from", seed.url)
    assert pulled["wire"]["wan"] > pulled["bytes"]["wan"]
    assert bytes_of(pulled) == (versions[0] / WEIGHTS).read_bytes()


def quantised(tensors: dict[str, np.ndarray], *, axis: int) -> dict[str, tuple[str, np.ndarray]]:
    """INT8 codes of BF16 matrices under their names, and one scale for each row (axis 0) or column (axis 1)."""
    made: dict[str, tuple[str, np.ndarray]] = {}
    for name, bits in tensors.items():
        values = (bits.astype(np.uint32) << 16).view(np.float32)
        if values.ndim == 2:
            scales = (np.abs(values).max(axis=1 - axis) / np.float32(127)).astype(np.float32)
            wide = scales[:, None] if axis == 0 else scales[None, :]
            made[name] = "I8", np.clip(np.rint(values / wide), -127, 127).astype(np.int8)
            made[f"{name}.scale"] = "F32", scales
    return made


@pytest.mark.parametrize("axis", [0, 1])
def test_a_node_with_int8_gets_full_precision_for_a_part(publisher: Publisher, tmp_path: Path, axis: int) -> None:
    """The residual tells BF16 by the codes that are here; whoever has none takes the planes."""
    folder = tmp_path / "model"
    write(folder / "full", weights(0))
    header, at, parts = {}, 0, []
    for name, (dtype, data) in quantised(weights(0), axis=axis).items():
        header[name] = {"dtype": dtype, "shape": list(data.shape), "data_offsets": [at, at + data.nbytes]}
        at += data.nbytes
        parts.append(data.tobytes())
    text = json.dumps(header).encode()
    (folder / "int8").mkdir()
    (folder / "int8" / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))
    (folder / "p2psync.toml").write_text(
        '[variants.int8]\nfiles = ["int8/**"]\ndefault = true\n[variants.bf16]\nfiles = ["full/**"]\n'
    )
    published = publisher.publish(folder, "acme/model:v1")
    assert {one["kind"] for one in published["forms"]} == {"full", "residual"}
    node, bare = publisher.node(tmp_path / "node"), publisher.node(tmp_path / "bare")
    with serve(publisher.home) as seed:
        node.pull("acme/model:v1", "--from", seed.url)
        upgraded = node.pull("acme/model:v1", "--from", seed.url, "--variant", "bf16")
        whole = bare.pull("acme/model:v1", "--from", seed.url, "--variant", "bf16")
    for pulled in (upgraded, whole):
        assert (Path(pulled["path"]) / "full" / WEIGHTS).read_bytes() == (folder / "full" / WEIGHTS).read_bytes()
    assert upgraded["bytes"]["patched"] > 0.99 * upgraded["bytes"]["total"]
    assert upgraded["wire"]["wan"] < 0.35 * upgraded["bytes"]["total"]
    assert whole["bytes"]["patched"] == 0
    assert 0.6 * whole["bytes"]["total"] < whole["wire"]["wan"] < 0.8 * whole["bytes"]["total"]
