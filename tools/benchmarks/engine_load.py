"""``load``: a gigabyte of weights that is mapped where it was delivered, and the same inside the ONNX file."""

from __future__ import annotations

import statistics
import struct
from pathlib import Path
from typing import Any, Final

from benchmarks import engine_process, measure
from benchmarks.report import Bench, Group, Row

_MAPPED, _EMBEDDED = "mapped", "embedded"
_WIDTH: Final = 4096
_LAYERS: Final = 15
_SECONDS_MAX: Final = 0.3
_ANONYMOUS_MAX: Final = 100e6
# Two processes that share all weights take little more than one; without sharing it would be 2.
_TOGETHER_MAX: Final = 1.2


def load_group(bench: Bench) -> Group:
    """Load both forms in turn, each in a process of its own, then the mapped one in two processes at once."""
    folder = bench.folder("load")
    files = make(folder, layers=max(1, _LAYERS // bench.shrink), seed=bench.seed)
    measure.settle()
    for file in folder.rglob("*"):
        if file.is_file():
            measure.warm(file)
    runs = [
        {"form": form, "round": number, **_one(file)} for number in range(bench.rounds) for form, file in files.items()
    ]
    weights = sum(part.stat().st_size for part in files[_MAPPED].parent.iterdir())
    return group(runs, _two(files[_MAPPED]), weights)


def make(folder: Path, *, layers: int, seed: int) -> dict[str, Path]:
    """Write a chain of square products twice: weights in safetensors beside the graph, and inside it.

    Returns:
        The .onnx file of each form.
    """
    import numpy as np
    from onnx import TensorProto, helper

    from p2psync.compress.tensors import Source, write_tensors

    draws = np.random.RandomState(seed)
    # One array for all: what is loaded is bytes, whatever they say.
    weight = draws.standard_normal((_WIDTH, _WIDTH)).astype(np.float32) / np.float32(_WIDTH**0.5)
    names = [f"layer_{number}" for number in range(layers)]
    for form in (_MAPPED, _EMBEDDED):
        (folder / form).mkdir()
    places = write_tensors(str(folder / _MAPPED / "weights.safetensors"), {n: Source.of(weight) for n in names})
    outside = [TensorProto(name=n, data_type=TensorProto.FLOAT, dims=weight.shape) for n in names]
    for tensor in outside:
        tensor.data_location = TensorProto.EXTERNAL
        spot = places[tensor.name]
        for key, value in (("location", "weights.safetensors"), ("offset", spot.offset), ("length", spot.size_bytes)):
            tensor.external_data.add(key=key, value=str(value))
    nodes = [helper.make_node("MatMul", [f"h{n}", name], [f"h{n + 1}"]) for n, name in enumerate(names)]
    ends = [helper.make_tensor_value_info(f"h{n}", TensorProto.FLOAT, [1, _WIDTH]) for n in (0, layers)]
    files = {form: folder / form / "model.onnx" for form in (_MAPPED, _EMBEDDED)}
    graph = helper.make_graph(nodes, "products", [ends[0]], [ends[1]], outside)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    files[_MAPPED].write_bytes(model.SerializeToString())
    del model.graph.initializer[:]
    with files[_EMBEDDED].open("wb") as out:
        out.write(model.SerializeToString())
        for name in names:
            _embed(out, TensorProto(name=name, data_type=TensorProto.FLOAT, dims=weight.shape), weight.data)
    return files


def _embed(out: Any, tensor: Any, weight: memoryview) -> None:
    """Append an initialiser to a model that is written already.

    A message of protocol buffers may be given in pieces, which a reader merges
    (https://protobuf.dev/programming-guides/encoding/#last-one-wins): so no gigabyte has to stand in memory here.
    """
    raw = b"\x4a" + _varint(weight.nbytes)  # TensorProto.raw_data = 9
    head = tensor.SerializeToString() + raw
    inner = b"\x2a" + _varint(len(head) + weight.nbytes) + head  # GraphProto.initializer = 5
    out.write(b"\x3a" + _varint(len(inner) + weight.nbytes) + inner)  # ModelProto.graph = 7
    out.write(weight.cast("B"))


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found += struct.pack("B", value & 0x7F | 0x80)
        value >>= 7
    return bytes(found) + struct.pack("B", value)


def _one(file: Path) -> dict[str, Any]:
    process = engine_process.begin("load", str(file))
    with process:
        loaded = engine_process.hear(process)
        engine_process.tell(process)
        ran = engine_process.hear(process)
        engine_process.tell(process)
        last = engine_process.hear(process)
    return {**loaded, "ran": ran, "load_average": last["load_average"]}


def _two(file: Path) -> list[dict[str, int]]:
    """The memory of two processes that have both loaded and run a model."""
    both = [engine_process.begin("load", str(file)) for _ in range(2)]
    for process in both:
        engine_process.hear(process)
    found = []
    for process in both:
        engine_process.tell(process)
        found.append({key: int(value) for key, value in engine_process.hear(process).items()})
    for process in both:
        engine_process.tell(process)
        process.communicate()
    return found


def group(runs: list[dict[str, Any]], two: list[dict[str, int]], weights: int) -> Group:
    """The rows of what was loaded.

    Args:
        runs: ``form``, ``seconds``, and memory once it was ``loaded`` and when it ``ran``.
        two: ``rss``, ``pss`` and ``anonymous`` bytes of each of two processes.
        weights: Bytes of the model.
    """
    seconds = {f: measure.summary([r["seconds"] for r in runs if r["form"] == f]) for f in (_MAPPED, _EMBEDDED)}
    anonymous = {f: [r["loaded"]["anonymous"] for r in runs if r["form"] == f] for f in (_MAPPED, _EMBEDDED)}
    ours, theirs = (seconds[form]["median"] for form in (_MAPPED, _EMBEDDED))
    mapped, embedded = max(anonymous[_MAPPED]), max(anonymous[_EMBEDDED])
    ran = max(run["ran"]["anonymous"] for run in runs if run["form"] == _MAPPED)
    one = statistics.median(process["rss"] for process in two)
    rss, pss = (sum(process[key] for process in two) for key in ("rss", "pss"))
    size = f"{weights / 1e9:.2f} GB of weights"
    table = [
        Row(
            f"loading {size}, mapped",
            f"inside the ONNX file {theirs:.2f} s",
            f"{ours:.3f} s",
            f"<= {_SECONDS_MAX:g} s",
            ours <= _SECONDS_MAX,
        ),
        Row(
            f"anonymous memory once {size} are loaded, the most of all rounds",
            f"inside the ONNX file {embedded / 1e6:.0f} MB",
            f"{mapped / 1e6:.0f} MB (after a run {ran / 1e6:.0f} MB)",
            f"<= {_ANONYMOUS_MAX / 1e6:.0f} MB",
            mapped <= _ANONYMOUS_MAX,
        ),
        Row(
            f"memory of two processes with {size}, shared pages counted once",
            f"counted in each {rss / 1e6:.0f} MB",
            f"{pss / 1e6:.0f} MB, {pss / one:.2f}x of one",
            f"<= {_TOGETHER_MAX:g}x",
            pss <= _TOGETHER_MAX * one,
        ),
    ]
    return Group(runs, {"seconds": seconds, "anonymous_bytes": anonymous, "two": two, "bytes": weights}, table)
