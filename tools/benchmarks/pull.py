"""How fast one big file moves over loopback until it is durable, beside the other ways to move it."""

from __future__ import annotations

import filecmp
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import command
from benchmarks import measure, models, peers
from benchmarks.report import Bench, Group, Row

_FILE_BYTES = 1 << 30
_REFERENCE = "bench/big"
_OURS = "p2psync"
_LOOP_LAG = Path(__file__).with_name("loop_lag.py")
_STALL_S = 0.1

Prepare = Callable[[Path], None]


def pull(bench: Bench) -> Group:
    """Issue the same file to every peer in turn, from the page cache, then p2psync and nginx from a cold disk."""
    work = bench.folder("pull")
    file = work / "source" / "model.safetensors"
    models.write(file, models.transformer(bench.scaled(_FILE_BYTES)), bench.seed)
    publisher = command.Home(work / "publisher")
    publisher.json("key", "new", "bench")
    publisher.json("publish", str(file.parent), _REFERENCE, "--key", "bench", "--in-place")
    key = publisher.text("key", "export", "bench").strip()

    def prepare(to: Path) -> None:
        command.Home(to).json("trust", "add", "bench/*", key)

    with ExitStack() as stack:
        stack.enter_context(_in(work))
        http = stack.enter_context(peers.http_peers(work / "http", file))
        rsync = stack.enter_context(peers.rsync_peer(work / "rsync", file))
        torrent = stack.enter_context(peers.torrent_peer(work / "torrent", file))
        seed = stack.enter_context(publisher.serve())
        ours = _ours(seed)
        runs = _rounds(bench, [ours, *http, torrent, rsync], file, prepare)
    with ExitStack() as stack:
        http = stack.enter_context(peers.http_peers(work / "http-cold", file))
        lag = work / "serve-lag"
        seed = stack.enter_context(publisher.serve(program=[sys.executable, str(_LOOP_LAG), str(lag)]))
        cold = _rounds(bench, [_ours(seed, work / "pull-lag"), http[0]], file, prepare, lag=work / "pull-lag")
    serve_lag_s = float(lag.read_text())
    shutil.rmtree(work)
    return _group(runs, cold, serve_lag_s)


@contextmanager
def _in(work: Path) -> Iterator[None]:
    # What is left of a run that failed must not fill the disk.
    try:
        yield
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _ours(seed: command.Serving, lag: Path | None = None) -> peers.Peer:
    program = [command.PROGRAM] if lag is None else [sys.executable, str(_LOOP_LAG), str(lag)]
    return peers.Peer(
        _OURS,
        "a signed manifest",
        (seed.pid,),
        lambda to: [*program, "pull", _REFERENCE, "--peer", seed.url, "--json", "--home", str(to)],
    )


def _rounds(
    bench: Bench, ways: Sequence[peers.Peer], file: Path, prepare: Prepare, *, lag: Path | None = None
) -> list[dict[str, Any]]:
    """Run every way once per round, each round beginning with another one. With ``lag``, from a cold disk."""
    runs = []
    for number in range(bench.rounds):
        for place in range(len(ways)):
            way = ways[(number + place) % len(ways)]
            to = bench.work / "to"
            to.mkdir()
            if way.name == _OURS:
                prepare(to)
            measure.settle()
            (measure.warm if lag is None else measure.cool)(file)
            before = measure.cpu_of(way.servers)
            cost = measure.run(way.fetch(to))
            served = measure.cpu_of(way.servers) - before
            if number == 0:
                _same(file, to)
            runs.append(
                {
                    "way": way.name,
                    "round": number,
                    "seconds": round(cost.seconds, 4),
                    "receiver_cpu_s": round(cost.cpu_s, 3),
                    "sender_cpu_s": round(served, 3),
                    "bytes": file.stat().st_size,
                    **({"loop_lag_s": float(lag.read_text())} if lag and way.name == _OURS else {}),
                }
            )
            shutil.rmtree(to)
    return runs


def _same(file: Path, to: Path) -> None:
    size = file.stat().st_size
    found = [path for path in to.rglob("*") if path.is_file() and path.stat().st_size == size]
    if len(found) != 1 or not filecmp.cmp(file, found[0], shallow=False):
        raise RuntimeError(f"{to} does not hold the file that was sent")


def _by_way(runs: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for way in dict.fromkeys(run["way"] for run in runs):
        own = [run for run in runs if run["way"] == way]
        gigabytes = own[0]["bytes"] / 1e9
        found[way] = {
            "seconds": measure.summary([run["seconds"] for run in own]),
            "receiver_cpu_s_per_gb": measure.summary([run["receiver_cpu_s"] / gigabytes for run in own]),
            "sender_cpu_s_per_gb": measure.summary([run["sender_cpu_s"] / gigabytes for run in own]),
        }
    return found


def _group(runs: list[dict[str, Any]], cold: list[dict[str, Any]], serve_lag_s: float) -> Group:
    warm_ways, cold_ways = _by_way(runs), _by_way(cold)
    ours, curl, torrent = (_middle(warm_ways, way, "seconds") for way in (_OURS, "nginx + curl", "libtorrent"))
    pull_lag_s = max(run["loop_lag_s"] for run in cold if "loop_lag_s" in run)
    summary = {
        "warm": warm_ways,
        "cold": cold_ways,
        "rate_over_curl": round(curl / ours, 3),
        "rate_over_libtorrent": round(torrent / ours, 3),
        "loop_lag_s": {"serve": serve_lag_s, "pull": pull_lag_s},
        "durable": "every way ends with fdatasync or fsync of what it wrote",
        "proves": {"p2psync": "a signed manifest", "libtorrent": "the v2 torrent", "rsync": "its own checksum"},
    }
    size = f"{runs[0]['bytes'] / (1 << 30):.2g} GiB"
    others = ", ".join(f"{way} {_middle(warm_ways, way, 'seconds'):.2f} s" for way in ("nginx + aria2", "rsync"))
    worst_lag_s = max(serve_lag_s, pull_lag_s)
    table = [
        Row(
            f"pull of {size} over loopback, proved and durable",
            f"nginx + curl + fdatasync, unproved: {curl:.2f} s",
            f"{ours:.2f} s, {curl / ours:.2f}x its rate",
            ">= 0.7x",
            curl / ours >= 0.7,
        ),
        Row(
            "the same",
            f"libtorrent, v2 torrent: {torrent:.2f} s",
            f"{torrent / ours:.2f}x its rate",
            ">= 3x",
            torrent / ours >= 3,
        ),
        Row("the same", others, f"{ours:.2f} s", "", met=True),
        _cpu("receiving", "receiver_cpu_s_per_gb", warm_ways, 0.8),
        _cpu("serving", "sender_cpu_s_per_gb", warm_ways, 0.35),
        Row(
            "the same from a cold disk; longest stall of an event loop",
            f"nginx + curl {_middle(cold_ways, 'nginx + curl', 'seconds'):.2f} s",
            f"{_middle(cold_ways, _OURS, 'seconds'):.2f} s; {worst_lag_s * 1000:.0f} ms",
            "<= 100 ms",
            worst_lag_s <= _STALL_S,
        ),
    ]
    return Group(
        [{"cache": "warm", **run} for run in runs] + [{"cache": "cold", **run} for run in cold], summary, table
    )


def _middle(ways: dict[str, Any], way: str, what: str) -> float:
    return float(ways[way][what]["median"])


def _cpu(end: str, what: str, ways: dict[str, Any], bound: float) -> Row:
    ours = _middle(ways, _OURS, what)
    beside = ", ".join(f"{way} {_middle(ways, way, what):.2f}" for way in ("nginx + curl", "libtorrent"))
    return Row(f"CPU seconds per GB, {end}", beside, f"{ours:.2f}", f"<= {bound:g}", ours <= bound)
