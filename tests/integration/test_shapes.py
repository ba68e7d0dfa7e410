"""Models of every shape: odd names, nothing in them, one byte, many tensors, every format."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.integration.lab import Publisher
from tests.integration.models import WEIGHTS, assert_equal_files, files_of, make_model, size_of, tensors_of
from tests.integration.relay import Relay

NAMES = [
    "with space.bin",
    "ünïcödé/日本 語.txt",
    "emoji 🚀.json",
    "a'b\"c.txt",
    "-n",
    "--json",
    "%2e%2e.txt",
    "tab;echo.txt",
]


def round_trip(publisher: Publisher, folder: Path, tmp_path: Path, turn: int = 1) -> dict[str, object]:
    """Publish a folder, pull it from the seed and from a tree, verify both, and return the first pull's answer."""
    publisher.publish(folder, "acme/model", "--to", tmp_path / f"tree{turn}")
    node, other = publisher.node(tmp_path / f"node{turn}"), publisher.node(tmp_path / f"other{turn}")
    with publisher.home.serve() as seed:
        result = node.pull("acme/model", "--from", seed.url, "--to", tmp_path / f"out {turn}")
    assert_equal_files(result["path"], folder)
    assert_equal_files(other.pull("acme/model", "--from", tmp_path / f"tree{turn}")["path"], folder)
    assert node.json("verify")["ok"]
    assert other.json("verify")["ok"]
    return result


def test_names_with_spaces_and_of_every_script(publisher: Publisher, tmp_path: Path) -> None:
    """File names arrive letter by letter, through the wire, a tree and an export."""
    folder = tmp_path / "mo del ñ"
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes([number]) * 3000)
    round_trip(publisher, folder, tmp_path)
    shown = [row["path"] for row in publisher.home.json("show", "acme/model")["files"]]
    assert sorted(shown) == sorted(NAMES)


def test_empty_file_and_one_tensor_of_one_byte(publisher: Publisher, tmp_path: Path) -> None:
    """Nothing and next to nothing are models too."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "empty").touch()
    round_trip(publisher, folder, tmp_path, 1)
    (folder / "empty").unlink()
    save_file({"t": np.array([7], np.int8)}, folder / WEIGHTS)
    result = round_trip(publisher, folder, tmp_path, 2)
    assert load_file(Path(str(result["path"])) / WEIGHTS)["t"].tolist() == [7]
    (row,) = publisher.home.json("show", "acme/model")["files"]
    assert (row["format"], row["tensors"], row["chunks"]) == ("safetensors", 1, 2)


def test_many_files_that_hold_the_same(publisher: Publisher, tmp_path: Path) -> None:
    """Equal chunks move once, however many places they stand at; tensors without elements take no place."""
    folder = tmp_path / "model"
    folder.mkdir()
    block = np.frombuffer(np.random.default_rng(1).bytes(1 << 20), np.uint8)
    for number in range(3):
        save_file(
            {"a": np.tile(block, 2), "b": block, "none": np.zeros((0, 4), np.float32)}, folder / f"{number}.safetensors"
        )
    publisher.publish(folder)
    node = publisher.node(tmp_path / "node")
    with publisher.home.serve() as seed, Relay(seed.url) as relay:
        result = node.pull("acme/model", "--from", relay.url)
        assert relay.sent < 1.2 * (1 << 20)
    assert result["bytes"]["total"] == size_of(folder)
    assert_equal_files(result["path"], folder)


def test_twenty_thousand_tensors(publisher: Publisher, tmp_path: Path) -> None:
    """Twenty thousand small tensors are pulled in batches, and an update of ten of them moves those alone."""
    folder = tmp_path / "model"
    folder.mkdir()
    random = np.random.default_rng(4)
    tensors = {f"blocks.{i}.weight": np.frombuffer(random.bytes(64), np.float16) for i in range(20_000)}
    save_file(tensors, folder / WEIGHTS)
    publisher.publish(folder)
    node = publisher.node(tmp_path / "node")
    with publisher.home.serve() as seed, Relay(seed.url) as relay:
        assert_equal_files(node.pull("acme/model", "--from", relay.url)["path"], folder)
        assert len(relay.requests) < 200
        for i in range(0, 20_000, 2_000):
            tensors[f"blocks.{i}.weight"] = np.frombuffer(random.bytes(64), np.float16)
        save_file(tensors, folder / WEIGHTS)
        publisher.publish(folder)
        update = node.pull("acme/model", "--from", relay.url)
    assert update["bytes"]["wan"] == 10 * 64
    assert_equal_files(update["path"], folder)
    (row,) = node.json("show", "acme/model")["files"]
    assert row["tensors"] == 20_000
    assert node.json("verify")["ok"]


def onnx_model(folder: Path, seed: int) -> None:
    """An ONNX model of two matrices whose weights stand in external data, the second one always the same."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    first = np.random.default_rng(seed).standard_normal((512, 512)).astype(np.float32)
    second = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 512])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 512])],
        [numpy_helper.from_array(first, "a"), numpy_helper.from_array(second, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save_model(
        model, str(folder / "model.onnx"), save_as_external_data=True, location="model.data", size_threshold=64
    )


def test_onnx_with_external_data(publisher: Publisher, tmp_path: Path) -> None:
    """External data is cut at its tensors and is never a hard link, neither of another version nor in an export."""
    onnx = pytest.importorskip("onnx")
    folder = tmp_path / "model"
    onnx_model(folder, 1)
    (folder / "notes.txt").write_text("the same in both versions")
    publisher.publish(folder)
    node = publisher.node(tmp_path / "node")
    with publisher.home.serve() as seed:
        first = node.pull("acme/model", "--from", seed.url)
        (folder / "labels.txt").write_text("new in the second version")
        publisher.publish(folder)
        second = node.pull("acme/model", "--from", seed.url, "--to", tmp_path / "links", "--link")
        installed = Path(node.json("show", "acme/model")["path"])
        assert second["bytes"]["wan"] == (folder / "labels.txt").stat().st_size
        onnx_model(folder, 2)
        publisher.publish(folder)
        third = node.pull("acme/model", "--from", seed.url)
    assert 512 * 512 * 4 <= third["bytes"]["wan"] < 1.1 * 512 * 512 * 4 + 10_000
    assert (installed / "model.data").stat().st_nlink == 1
    assert not (tmp_path / "links" / "model.data").samefile(installed / "model.data")
    assert (installed / "notes.txt").samefile(Path(first["path"]) / "notes.txt")
    assert_equal_files(third["path"], folder)
    onnx.checker.check_model(str(Path(third["path"]) / "model.onnx"))
    onnx.load(str(tmp_path / "links" / "model.onnx"))
    rows = {row["path"]: row for row in node.json("show", "acme/model")["files"]}
    assert (rows["model.data"]["format"], rows["model.data"]["external"]) == ("onnx_data", True)


def gguf(tensors: dict[str, np.ndarray]) -> bytes:
    """A GGUF file of version 3 with float32 tensors, padded to 32 bytes."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 1)
    head += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    body = b""
    for name, tensor in tensors.items():
        dims = tensor.shape[::-1]
        head += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, len(body))
        body += tensor.tobytes() + b"\0" * (-tensor.nbytes % 32)
    return head + b"\0" * (-len(head) % 32) + body


def test_gguf(publisher: Publisher, tmp_path: Path) -> None:
    """A GGUF file is cut at its tensors: one that changes moves alone."""
    folder = tmp_path / "model"
    folder.mkdir()
    random = np.random.default_rng(2)
    tensors = {f"blk.{i}.weight": random.standard_normal((300, 501)).astype(np.float32) for i in range(6)}
    (folder / "model.gguf").write_bytes(gguf(tensors))
    publisher.publish(folder)
    node = publisher.node(tmp_path / "node")
    with publisher.home.serve() as seed:
        assert_equal_files(node.pull("acme/model", "--from", seed.url)["path"], folder)
        tensors["blk.3.weight"] = tensors["blk.3.weight"] + np.float32(1)
        (folder / "model.gguf").write_bytes(gguf(tensors))
        publisher.publish(folder)
        update = node.pull("acme/model", "--from", seed.url)
    assert update["bytes"]["wan"] == tensors["blk.3.weight"].nbytes
    assert_equal_files(update["path"], folder)
    (row,) = node.json("show", "acme/model")["files"]
    assert (row["format"], row["tensors"]) == ("gguf", 6)


def test_unknown_format_is_cut_by_content(publisher: Publisher, tmp_path: Path) -> None:
    """Bytes put into the front of a file of no known format move little of it."""
    folder = tmp_path / "model"
    folder.mkdir()
    data = np.random.default_rng(8).bytes(12_000_000)
    (folder / "weights.bin").write_bytes(data)
    publisher.publish(folder)
    node = publisher.node(tmp_path / "node")
    with publisher.home.serve() as seed:
        node.pull("acme/model", "--from", seed.url)
        (folder / "weights.bin").write_bytes(data[:100] + b"inserted" + data[100:])
        publisher.publish(folder)
        update = node.pull("acme/model", "--from", seed.url)
    assert update["bytes"]["wan"] <= 3 << 20
    assert_equal_files(update["path"], folder)


@pytest.mark.parametrize("name", ["bad.safetensors", "bad.gguf", "bad.onnx"])
def test_malformed_model_file_is_refused(name: str, publisher: Publisher, tmp_path: Path) -> None:
    """A file that claims a format and breaks it ends the publish with exit 5, names the file, and leaves nothing."""
    folder = make_model(tmp_path / "model", layers=1)
    (folder / name).write_bytes({"bad.gguf": b"GGUF" + b"\xff" * 100}.get(name, b"\xff" * 100))
    done = publisher.home.fails("publish", folder, "acme/model", "--key", "maker", code=5, named="malformed")
    assert name in done.error["message"]
    assert publisher.home.json("ls")["models"] == []
    assert not list(publisher.home.path.rglob(WEIGHTS))


def test_strange_things_in_a_folder_are_refused(publisher: Publisher, tmp_path: Path) -> None:
    """A symbolic link, a FIFO, and two names that fold to one end the publish with exit 5."""
    import os

    for number, plant in enumerate(("link", "fifo", "fold")):
        folder = make_model(tmp_path / f"model{number}", layers=1)
        if plant == "link":
            (folder / "link.bin").symlink_to("config.json")
        elif plant == "fifo":
            os.mkfifo(folder / "fifo.bin")
        else:
            (folder / "CONFIG.json").write_text("{}")
        publisher.home.run("publish", folder, "acme/model", "--key", "maker", code=5)
    assert publisher.home.json("ls")["models"] == []


@pytest.mark.slow
def test_many_files(publisher: Publisher, tmp_path: Path) -> None:
    """Three thousand files in nested folders arrive, each with its name."""
    folder = tmp_path / "model"
    for number in range(3000):
        path = folder / f"d{number % 17}" / f"e{number % 5}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"file {number}")
    round_trip(publisher, folder, tmp_path)
    assert len(files_of(folder)) == 3000


@pytest.mark.slow
def test_big_model(publisher: Publisher, tmp_path: Path) -> None:
    """A model of 400 MB is published, pulled and updated."""
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(tensors_of(1, layers=8, layer_bytes=50_000_000), folder / WEIGHTS)
    round_trip(publisher, folder, tmp_path, 1)
    save_file(tensors_of(1, layers=8, layer_bytes=50_000_000, changed={3: 9}), folder / WEIGHTS)
    round_trip(publisher, folder, tmp_path, 2)
