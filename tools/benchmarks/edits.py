"""Which bytes move again when the same tensors stand in another header, another order, or three files for one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import command
from benchmarks import models
from benchmarks.report import Bench, Group, Row

_MODEL_BYTES = 256 << 20
_REFERENCE = "bench/edited"
_CDC_BYTES = 64 << 10


def edits(bench: Bench) -> Group:
    """Publish four arrangements of the same tensors one after another, pull each, and count what moved.

    Beside it: what content-defined cutting at 64 KiB on average would have moved for the same files.
    """
    work = bench.folder("edits")
    source = work / "source"
    publisher, node = command.Home(work / "publisher"), command.Home(work / "node")
    publisher.json("key", "new", "bench")
    node.json("trust", "add", "bench/*", publisher.text("key", "export", "bench").strip())
    runs, known = [], set[bytes]()
    with publisher.serve() as seed:
        for name, files in _arrangements(models.transformer(bench.scaled(_MODEL_BYTES))).items():
            shutil.rmtree(source, ignore_errors=True)
            header_bytes = sum(
                models.write(source / file, tensors, bench.seed, metadata=metadata)
                for file, (tensors, metadata) in files.items()
            )
            publisher.json("publish", str(source), _REFERENCE, "--key", "bench")
            answer = node.json("pull", _REFERENCE, "--from", seed.url)
            cut = _cdc(source)
            runs.append(
                {
                    "edit": name,
                    "bytes": answer["bytes"]["total"],
                    "moved": answer["bytes"]["lan"] + answer["bytes"]["wan"],
                    "wire": sum(answer["wire"].values()),
                    "header_bytes": header_bytes,
                    "cdc_moved": sum(length for digest, length in cut.items() if digest not in known),
                }
            )
            known |= cut.keys()
    shutil.rmtree(work)
    return _group(runs[1:])


def _arrangements(
    tensors: list[models.Tensor],
) -> dict[str, dict[str, tuple[list[models.Tensor], dict[str, str]]]]:
    third = -(-len(tensors) // 3)
    note = {"note": "a line in the header that was not there before"}
    return {
        "first version": {"model.safetensors": (tensors, {})},
        "header edit": {"model.safetensors": (tensors, note)},
        "tensors in reverse order": {"model.safetensors": (tensors[::-1], note)},
        "one file into three": {
            f"model-{part + 1}-of-3.safetensors": (tensors[part * third : (part + 1) * third], note)
            for part in range(3)
        },
    }


def _cdc(folder: Path) -> dict[bytes, int]:
    """The pieces that content-defined cutting makes of the files: digest to length in bytes."""
    from blake3 import blake3
    from pyfastcdc import FastCDC

    cutter = FastCDC(_CDC_BYTES, min_size=_CDC_BYTES // 4, max_size=_CDC_BYTES * 4)
    pieces = {}
    for file in sorted(folder.iterdir()):
        for chunk in cutter.cut_buf(file.read_bytes()):
            pieces[blake3(chunk.data).digest()] = chunk.length
    return pieces


def _group(runs: list[dict[str, Any]]) -> Group:
    table = [
        Row(
            f"{run['edit']}, {run['bytes'] / (1 << 20):.0f} MiB",
            f"content-defined cutting at 64 KiB: {run['cdc_moved']:,} B",
            f"{run['moved']:,} B moved, of them {max(0, run['moved'] - run['header_bytes']):,} of tensors",
            "no tensor byte",
            run["moved"] <= run["header_bytes"],
        )
        for run in runs
    ]
    return Group(runs, {run["edit"]: {"moved": run["moved"], "cdc_moved": run["cdc_moved"]} for run in runs}, table)
