"""Read one file once and feed BLAKE3 and SHA-256 on two threads: the least that publishing in place must do.

usage: plain_read.py FILE
"""

from __future__ import annotations

import hashlib
import queue
import sys
import threading
from pathlib import Path
from typing import Protocol

from blake3 import blake3

_BLOCK_BYTES = 1 << 22
_BLOCKS = 8


class _Hash(Protocol):
    def update(self, data: memoryview, /) -> object: ...


def main(file: Path) -> None:
    """Read, hash, print both digests."""
    sha256, blake = hashlib.sha256(), blake3()
    free: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
    for _ in range(_BLOCKS):
        free.put(bytearray(_BLOCK_BYTES))
    # A block is free again when both have read it: the second of the two gives it back.
    first: queue.SimpleQueue[tuple[bytearray, int] | None] = queue.SimpleQueue()
    second: queue.SimpleQueue[tuple[bytearray, int] | None] = queue.SimpleQueue()

    def feed(
        hasher: _Hash,
        source: queue.SimpleQueue[tuple[bytearray, int] | None],
        then: queue.SimpleQueue[tuple[bytearray, int] | None] | None,
    ) -> None:
        while (item := source.get()) is not None:
            block, length = item
            hasher.update(memoryview(block)[:length])
            if then is None:
                free.put(block)
            else:
                then.put(item)
        if then is not None:
            then.put(None)

    threads = [
        threading.Thread(target=feed, args=(blake, first, second)),
        threading.Thread(target=feed, args=(sha256, second, None)),
    ]
    for thread in threads:
        thread.start()
    with file.open("rb", buffering=0) as opened:
        while True:
            block = free.get()
            length = opened.readinto(block)
            if not length:
                break
            first.put((block, length))
    first.put(None)
    for thread in threads:
        thread.join()
    print(blake.hexdigest(), sha256.hexdigest())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
