#!/usr/bin/env python3
"""Two nodes in one program: one serves what was published, the other pulls from it and serves it on.

usage: seed_and_pull.py REFERENCE PUBLISHER-HOME NODE-HOME

The node must trust the publisher: p2psync trust add NAMESPACE/* ed25519:HEX --home NODE-HOME
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from p2psync import Node


async def main(reference: str, publisher_home: Path, node_home: Path) -> None:
    """Start both, pull, and say where the files stand and where they came from."""
    async with Node(publisher_home) as seed, Node(node_home) as node:
        print(f"seed {seed.id} on {seed.url}, node {node.id} on {node.url}")
        pulled = await node.pull(reference, peers=[seed.url])
        counts = pulled["bytes"]
        print(f"{pulled['path']}: {counts['lan']} B from the seed, {counts['reused']} B were here before")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
