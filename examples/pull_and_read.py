#!/usr/bin/env python3
"""Pull a model, and read one tensor out of the proved file without loading the rest.

usage: pull_and_read.py REFERENCE SEED-URL [TENSOR]

Trust the publisher first: p2psync trust add NAMESPACE/* ed25519:HEX
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import p2psync


def tensors(file: Path) -> dict[str, tuple[str, list[int], int, int]]:
    """What a safetensors file holds: name to (dtype, shape, offset, length), offsets in the file, in bytes."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    start = 8 + length
    return {
        name: (entry["dtype"], entry["shape"], start + entry["data_offsets"][0], start + entry["data_offsets"][1])
        for name, entry in header.items()
    }


def main(reference: str, seed: str, wanted: str | None = None) -> None:
    """Pull, say what moved, and print the tensors or the first bytes of one."""
    pulled = p2psync.pull(reference, sources=[seed])
    print(f"{pulled.path}: {pulled.total_bytes} B, {pulled.reused_bytes} B of them were here before")
    for file in sorted(pulled.path.rglob("*.safetensors")):
        for name, (dtype, shape, begin, end) in tensors(file).items():
            if wanted is None:
                print(f"{name} {dtype} {shape} {end - begin} B")
            elif name == wanted:
                with file.open("rb") as opened:
                    opened.seek(begin)
                    print(f"{name} {dtype} {shape} begins with {opened.read(min(16, end - begin)).hex()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
