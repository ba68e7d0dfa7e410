"""What receiving costs by itself: our reader beside aiohttp's, and writing in the event loop beside a thread."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import command
from benchmarks import measure, models, peers
from benchmarks.report import Bench, Group, Row

_FILE_BYTES = 1 << 30
_NAME = "bench/big"
_ONE = Path(__file__).with_name("receive_one.py")
_CURL = "nginx + curl to /dev/null"
# Way: (source, client, keeping), as receive_one.py takes them.
_WAYS = {
    "peer, fast": ("peer", "fast", "drop"),
    "peer, aiohttp": ("peer", "aiohttp", "drop"),
    "nginx, fast": ("nginx", "fast", "drop"),
    "nginx, aiohttp": ("nginx", "aiohttp", "drop"),
    "peer, fast, proved and written in the loop": ("peer", "fast", "loop"),
    "peer, fast, proved and written in a thread": ("peer", "fast", "thread"),
}


def receive(bench: Bench) -> Group:
    """Receive one file from a peer and from an origin tree behind nginx, from the page cache, start-up not counted."""
    work = bench.folder("receive")
    file = work / "source" / "model.safetensors"
    models.write(file, models.transformer(bench.scaled(_FILE_BYTES)), bench.seed)
    publisher = command.Home(work / "publisher")
    publisher.json("key", "new", "bench")
    tree = work / "tree"
    publisher.json("publish", str(file.parent), _NAME, "--key", "bench", "--in-place", "--to", str(tree))
    with ExitStack() as stack:
        seed = stack.enter_context(publisher.serve())
        port, _ = stack.enter_context(peers.nginx(work / "nginx", tree))
        urls = {"peer": seed.url, "nginx": f"http://127.0.0.1:{port}"}
        whole = tree / "whole"
        whole.symlink_to(file)  # A hard link would change the file that is served in place.
        measure.warm(file, *tree.rglob("*.pack"))
        runs = _rounds(bench, urls, f"{urls['nginx']}/{whole.name}", file.stat().st_size)
    shutil.rmtree(work)
    return _group(runs)


def _rounds(bench: Bench, urls: dict[str, str], whole: str, size: int) -> list[dict[str, Any]]:
    """Take every way once per round, each round beginning with another one."""
    runs = []
    names = [*_WAYS, _CURL]
    for number in range(bench.rounds):
        for place in range(len(names)):
            name = names[(number + place) % len(names)]
            measure.settle()
            if name == _CURL:
                cost = measure.run(["curl", "-sfo", "/dev/null", whole])
                found = {"seconds": round(cost.seconds, 4), "cpu_s": round(cost.cpu_s, 4), "bytes": size}
            else:
                source, client, keeping = _WAYS[name]
                scratch = str(bench.work / "received")
                cost = measure.run([sys.executable, str(_ONE), urls[source], _NAME, client, keeping, scratch])
                found = json.loads(cost.output)
            runs.append({"way": name, "round": number, **found})
    return runs


def _group(runs: list[dict[str, Any]]) -> Group:
    ways: dict[str, Any] = {}
    for name in [*_WAYS, _CURL]:
        own = [run for run in runs if run["way"] == name]
        ways[name] = {
            "gb_per_s": measure.summary([run["bytes"] / 1e9 / run["seconds"] for run in own]),
            "cpu_s_per_gb": measure.summary([run["cpu_s"] / (run["bytes"] / 1e9) for run in own]),
        }
    return Group(
        runs,
        {"ways": ways},
        [
            _beside(ways, "CPU seconds per GB of our reader, from a peer", "peer, aiohttp", "peer, fast"),
            _beside(ways, "the same from an origin tree behind nginx", "nginx, aiohttp", "nginx, fast"),
            _beside(
                ways,
                "CPU seconds per GB, proved and written in the event loop",
                "peer, fast, proved and written in a thread",
                "peer, fast, proved and written in the loop",
            ),
        ],
    )


def _beside(ways: dict[str, Any], what: str, other: str, own: str) -> Row:
    """A row that holds a choice of ours against what it was chosen over: it must not cost more."""
    beside, ours = (ways[name]["cpu_s_per_gb"]["median"] for name in (other, own))
    rate = ways[own]["gb_per_s"]["median"]
    return Row(
        what,
        f"{other.rpartition(', ')[2]}: {beside:.2f}",
        f"{ours:.2f} ({rate:.2f} GB/s)",
        "<= beside it",
        ours <= beside,
    )
