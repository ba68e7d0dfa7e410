"""At which rate an honest client pulls while a thousand connections of another address sit on the same server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import command
from benchmarks import measure, models
from benchmarks.report import Bench, Group, Row
from p2psync.content import Digest
from p2psync.limits import CONNECTIONS_PER_ADDRESS_MAX, WAN_LANES

_FILE_BYTES = 1 << 30
_REFERENCE = "bench/big"
_FLOODER = Path(__file__).with_name("hostile_flooder.py")
_CONNECTIONS = 1000
_ADDRESS = "127.0.0.2"
_MIB = 1 << 20
_SHARE_MIN = 0.8
_GROWN_MIB_MAX = 100
_ENDED_S_MAX = 30.0


def flood(bench: Bench) -> Group:
    """Pull with and without the flood, in turns that change places, always into a new home."""
    work = bench.folder("flood")
    file = work / "source" / "model.safetensors"
    header_bytes = models.write(file, models.transformer(bench.scaled(_FILE_BYTES)), bench.seed)
    path = _chunk_at(file, header_bytes)
    publisher = command.Home(work / "publisher")
    publisher.json("key", "new", "bench")
    publisher.json("publish", str(file.parent), _REFERENCE, "--key", "bench", "--in-place", "--no-forms")
    key = publisher.text("key", "export", "bench").strip()
    runs = []
    with publisher.serve() as seed:
        # What a server loads once, for a pull or for a scrape, belongs to nobody's round.
        _pull(work, seed, key)
        _refused(seed)
        for number in range(bench.rounds):
            for flooded in (False, True)[:: 1 if number % 2 else -1]:
                measure.settle()
                measure.warm(file)
                run = _flooded(work, seed, key, path) if flooded else _pull(work, seed, key)
                runs.append({"round": number, "flooded": flooded, "bytes": file.stat().st_size, **run})
                print(f"  {_line(runs[-1])}", flush=True)
    shutil.rmtree(work)
    return _group(runs)


def _pull(work: Path, seed: command.Serving, key: str) -> dict[str, Any]:
    node = command.Home(work / "node")
    node.json("trust", "add", "bench/*", key)
    served = measure.cpu_of([seed.pid])
    with measure.MemoryWatch(seed.pid) as watch:
        cost = measure.run(node.command("pull", _REFERENCE, "--peer", seed.url, "--json"))
    shutil.rmtree(node.path)
    return {
        "seconds": round(cost.seconds, 4),
        "server_cpu_s": round(measure.cpu_of([seed.pid]) - served, 3),
        "server_anonymous_bytes": watch.highest_bytes,
    }


def _flooded(work: Path, seed: command.Serving, key: str, path: str) -> dict[str, Any]:
    before, fds = _refused(seed), _descriptors(seed.pid)
    with _flooding(seed, path) as flooder:
        busy = measure.cpu_of([flooder.pid])
        run = _pull(work, seed, key)
        busy = measure.cpu_of([flooder.pid]) - busy
        held = _descriptors(seed.pid)
        flooder.terminate()
        told = json.loads(flooder.communicate()[0])
    return {
        **run,
        "flooder_cpu_s": round(busy, 3),
        "flooder": told,
        "server_fds": {"before": fds, "flooded": held, "after": _settled(seed.pid, fds)},
        "refused": {reason: count - before.get(reason, 0) for reason, count in _refused(seed).items()},
    }


@contextmanager
def _flooding(seed: command.Serving, path: str) -> Iterator[subprocess.Popen[str]]:
    """A flood that has tried all its connections once."""
    host, _, port = seed.url.removeprefix("http://").rpartition(":")
    # Whoever floods does so on processors of his own: here he has what the others leave.
    words = ["nice", "-n", "10", sys.executable, str(_FLOODER), _ADDRESS, host, port, str(_CONNECTIONS), path]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or process.stdout.readline() != "flooding\n":
                raise RuntimeError("the flood did not begin")
            yield process
        finally:
            process.kill()


def _chunk_at(file: Path, offset: int) -> str:
    """What a reader asks for to get the mebibyte that begins there; the first tensor is longer than that."""
    with file.open("rb") as opened:
        opened.seek(offset)
        return f"/v1/chunks/{Digest.of(opened.read(_MIB)).hex()}"


def _refused(seed: command.Serving) -> dict[str, int]:
    """Connections that the server refused so far, by the cap that they met."""
    with urllib.request.urlopen(f"{seed.url}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    rows = (line.removeprefix("p2psync_connections_refused_total") for line in lines if "refused_total{" in line)
    return {row.split('"')[1]: int(float(row.split()[-1])) for row in rows}


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _settled(pid: int, fds: int) -> int:
    """Descriptors of the server once it has noticed that the flood is gone."""
    until_s = time.monotonic() + _ENDED_S_MAX
    while (held := _descriptors(pid)) > fds and time.monotonic() < until_s:
        time.sleep(0.1)
    return held


def _line(run: dict[str, Any]) -> str:
    beside = f"flooded, refused {run['refused']}" if run["flooded"] else "calm"
    return f"round {run['round']}: {run['seconds']:.2f} s, {beside}"


def _group(runs: list[dict[str, Any]]) -> Group:
    calm, flooded = ([run for run in runs if run["flooded"] == which] for which in (False, True))
    shares = [one["seconds"] / other["seconds"] for one, other in zip(calm, flooded, strict=True)]
    grown = [
        (other["server_anonymous_bytes"] - one["server_anonymous_bytes"]) / _MIB
        for one, other in zip(calm, flooded, strict=True)
    ]
    left = max(run["server_fds"]["after"] - run["server_fds"]["before"] for run in flooded)
    held = max(run["server_fds"]["flooded"] - run["server_fds"]["before"] for run in flooded)
    refused = [sum(run["refused"].values()) for run in flooded]
    summary = {
        "connections": _CONNECTIONS,
        "share_of_rate": measure.summary(shares),
        "server_grown_mib": measure.summary(grown),
        "refused": measure.summary(refused),
        "server_fds_left": left,
        **{
            f"{name}_{column}": measure.summary([run[column] for run in own])
            for name, own in (("calm", calm), ("flooded", flooded))
            for column in ("seconds", "server_cpu_s")
        },
        "flooder_cpu_s": measure.summary([run["flooder_cpu_s"] for run in flooded]),
    }
    return Group(runs, summary, _table(runs[0]["bytes"], summary, held))


def _table(file_bytes: int, summary: dict[str, Any], held: int) -> list[Row]:
    share, grown, left = summary["share_of_rate"], summary["server_grown_mib"], summary["server_fds_left"]
    return [
        Row(
            f"pull of {file_bytes / (1 << 30):.2g} GiB over loopback while another address keeps {_CONNECTIONS} "
            "connections open: silent, half a head, slow readers",
            f"the same without them {summary['calm_seconds']['median']:.2f} s",
            f"{summary['flooded_seconds']['median']:.2f} s, {share['median']:.2f}x the rate, worst {share['min']:.2f}x",
            f">= {_SHARE_MIN:g}x",
            share["median"] >= _SHARE_MIN,
        ),
        Row(
            "the same: connections refused, in a pull; held at most",
            "",
            f"{summary['refused']['median']:.0f}; {held}",
            f"<= {CONNECTIONS_PER_ADDRESS_MAX} held, and those of the pull",
            held <= CONNECTIONS_PER_ADDRESS_MAX + WAN_LANES,
        ),
        Row(
            "the same: anonymous memory of the server beyond that without them",
            "",
            f"{grown['median']:.1f} MiB, at most {grown['max']:.1f} MiB",
            f"<= {_GROWN_MIB_MAX} MiB",
            grown["max"] <= _GROWN_MIB_MAX,
        ),
        Row("the same: descriptors of the server that are left behind", "", f"{left}", "0", left <= 0),
    ]
