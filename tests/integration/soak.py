"""A day in the life of a site in minutes: real nodes that join, leave, publish, follow and hang, and what it leaves.

usage: python -m tests.integration.soak [--minutes N] [--seed N] [--json FILE] [--work DIR]

The seed and three nodes last. Every round a new version may be published, guests join and pull it, somebody hangs for
some seconds, guests leave well or are killed in the middle of a pull, followers are restarted and old versions pruned.
Then everybody who lasts has the newest version, byte for byte, and is measured once the guests are gone. What waits for
minutes or hours in the program is made 72 times shorter, so that it happens as often as in a day.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from p2psync.limits import COLD_READ_THREADS
from tests.integration.lab import Home, Publisher, Running, Serving, check_sound, until
from tests.integration.soak_plan import LASTING, Guest, Models, Round, fingerprints, rounds
from tests.integration.soak_record import WARM_UP, Found, Sample, write

REFERENCE: Final = "acme/model"
SITE: Final = "soak"
# 24 hours in 20 minutes.
SPEED: Final = 72
# Lists of places, bans and addresses that are told again age by the hour; channels and idle connections by the second,
# and these are shortened less, so that a busy machine is not taken for a dead one.
SHORTER: Final = {
    "GOSSIP_INTERVAL_S": 300.0 / SPEED,
    "PLACE_KEEP_S": 900.0 / SPEED,
    "BAN_S": 3600.0 / SPEED,
    "REDIAL_SETTLED_S": 300.0 / SPEED,
    "REDIAL_MAX_S": 2.0,
    "PART_KEEP_S": 86_400.0 / SPEED,
    "KEEPALIVE_S": 1.0,
    "CHANNEL_SILENCE_S": 4.0,
    "IDLE_CLIENT_S": 1.0,
    "IDLE_SERVER_S": 4.0,
}
# A node loads its codecs, and numpy with them, when it decodes for the first time: 7 MiB, in some nodes in the tenth
# hour, which is no leak. Here they have them from the start.
_CODE: Final = f"""
from p2psync import limits
vars(limits).update({SHORTER!r})
from p2psync.codec import difference, narrow, packed, planes, residual, sparse, tight
from p2psync.node import operations
operations.WATCH_S = 0.5
from p2psync.cli.main import entry
entry()
"""
PROGRAM: Final = (sys.executable, "-c", _CODE)
GROWTH_MAX: Final = 0.05
# Idle threads of a node: its loop, asyncio's pool and that of cold reads. Pools fill as they are needed, and stay.
THREADS: Final = 1 + min(32, (os.cpu_count() or 1) + 4) + COLD_READ_THREADS
# A connection or two that idles at the moment of a sample, or does not.
IDLE_FDS: Final = 2
# Idle connections are gone after it, and so are the guests' channels.
REST_S: Final = 2.5
_PATIENCE_S: Final = 180.0


@dataclass
class Lasting:
    """A node that stays from the first round to the last."""

    home: Home
    serving: Serving
    follower: Running | None = None
    samples: list[Sample] = field(default_factory=list)

    def has_or_ended(self, path: Path) -> bool:
        """Whether a version stands here, or the command that keeps the node up to date has ended."""
        return path.is_dir() or (self.follower is not None and not self.follower.alive)

    def said(self) -> str:
        """What its processes last told, for a failure."""
        lines = [*map(str, self.serving.events[-20:]), self.serving.stderr]
        if self.follower is not None:
            self.follower.signal(signal.SIGINT)
            done = self.follower.wait(None)
            lines += [f"follower: exit {done.code}", done.stdout[-2000:], done.stderr[-2000:]]
        return "\n".join(lines)


class Soak:
    """The processes of one run. A context manager: every process that it started has ended behind it."""

    def __init__(self, base: Path, seed: int) -> None:
        self.events: Counter[str] = Counter()
        self._base = base
        self._publisher = Publisher.at(base / "publisher")
        self._models = Models(base / "model", seed)
        self._digest = ""
        self._versions: dict[str, dict[str, str]] = {}
        self._stack = ExitStack()
        self._guests: dict[str, int] = Counter()
        self.lasting: dict[str, Lasting] = {}

    def __enter__(self) -> Self:
        try:
            # A follower gives up what nobody has.
            self._publish()
            seed = self._lasting("seed", Home(self._publisher.home.path, PROGRAM))
            # A follower of its own, and two whom a command keeps up to date.
            self._lasting("n1", self._home("n1"), "--follow", REFERENCE, "--from", seed.serving.url)
            for name in LASTING[1:]:
                self._lasting(name, self._home(name))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _home(self, name: str) -> Home:
        return self._publisher.node(self._base / name, PROGRAM)

    def _lasting(self, name: str, home: Home, *words: object) -> Lasting:
        node = Lasting(home, self._serve(home, *words))
        self.lasting[name] = node
        return node

    def _serve(self, home: Home, *words: object) -> Serving:
        known = [word for node in self.lasting.values() for word in ("--peer", node.serving.url)][:4]
        serving = home.serve("--site", SITE, *known, *words)
        self._stack.callback(_end, serving)
        return serving

    def _start(self, home: Home, *words: object) -> Running:
        # What a command says to the running serve needs none of the shorter times.
        running = Home(home.path).start(*words)
        self._stack.callback(_end, running)
        return running

    def live(self, now: Round) -> None:
        """Let one round happen, and wait until everybody who lasts has the newest version."""
        joined = [(guest, *self._join(guest)) for guest in now.guests]
        if now.publishes:
            self._publish()
        pulls = [(guest, home, serving, self._pull(home)) for guest, home, serving in joined]
        with self._hanging(now.hangs, now.hang_s):
            self._prune(*(name for name in now.prunes if name != now.hangs))
            for guest, _, serving, pull in pulls:
                if guest.early:
                    self._leave(guest, serving)
                    pull.wait(None, _PATIENCE_S)
        for guest, home, serving, pull in pulls:
            if not guest.early:
                self._check(home, pull, now.hangs)
                self._leave(guest, serving)
        self._follow(now.restarts)
        self._agree()

    def _publish(self) -> None:
        self._models.write_next()
        self._digest = self._publisher.publish(self._models.folder, REFERENCE)["digest"]
        self._versions[self._digest] = fingerprints(self._models.folder)
        self.events["versions"] += 1

    def _join(self, guest: Guest) -> tuple[Home, Serving]:
        if guest.new:
            self._guests[guest.name] += 1
        home = self._home(f"{guest.name}-{self._guests[guest.name]}")
        if guest.new and self._guests[guest.name] > 1:
            shutil.rmtree(self._base / f"{guest.name}-{self._guests[guest.name] - 1}", ignore_errors=True)
        self.events["joins"] += 1
        return home, self._serve(home)

    def _pull(self, home: Home) -> Running:
        return self._start(home, "pull", REFERENCE, "--from", self.lasting["seed"].serving.url, "--json")

    def _check(self, home: Home, pull: Running, hangs: str) -> None:
        """What a guest got is what was published, and the newest.

        While the seed is silent a guest may find nobody else with the newest version: it gets the one before, or a
        network error. The next time it gets the newest.
        """
        done = pull.wait(None, _PATIENCE_S)
        newest = done.code == 0 and done.json["digest"] == self._digest
        if hangs == "seed" and not newest and done.code in (0, 7):
            self.events["pulls again after the seed was silent"] += 1
            done = self._pull(home).wait(None, _PATIENCE_S)
        assert done.code == 0, done.stderr
        assert done.json["digest"] == self._digest
        assert fingerprints(Path(done.json["path"])) == self._versions[self._digest]

    def _leave(self, guest: Guest, serving: Serving) -> None:
        if guest.killed:
            serving.kill()
            check_sound(serving.stderr)
        else:
            serving.stop()
        self.events["killed" if guest.killed else "left"] += 1

    @contextmanager
    def _hanging(self, name: str, hang_s: float) -> Iterator[None]:
        """Somebody answers nothing while what is within happens, and for ``hang_s`` at least."""
        if not name:
            yield
            return
        serving = self.lasting[name].serving
        began_s = time.monotonic()
        serving.signal(signal.SIGSTOP)
        self.events["hangs"] += 1
        try:
            yield
            time.sleep(max(0.0, began_s + hang_s - time.monotonic()))
        finally:
            serving.signal(signal.SIGCONT)

    def _follow(self, restarts: str) -> None:
        """Every node but the first is kept up to date by a command; one of them may lose it and get another."""
        for name in LASTING[1:]:
            node = self.lasting[name]
            if node.follower is not None and name == restarts:
                node.follower.signal(signal.SIGINT)
                node.follower.wait(130)
                node.follower = None
                self.events["followers restarted"] += 1
            if node.follower is None:
                words = ("--from", self.lasting["seed"].serving.url, "--watch", "--json")
                node.follower = self._start(node.home, "pull", REFERENCE, *words)

    def _prune(self, *names: str) -> None:
        """Free what no tag needs any longer, on several nodes at once."""
        for running in [self._start(self.lasting[name].home, "prune", "--json") for name in names]:
            self.events["versions pruned"] += len(running.wait(0, _PATIENCE_S).json["removed"])
            self.events["prunes"] += 1

    def _agree(self) -> None:
        for name in LASTING:
            node = self.lasting[name]
            path = node.home.path / "models" / REFERENCE / self._digest.removeprefix("b3:")
            try:
                until(partial(node.has_or_ended, path), "it is there", _PATIENCE_S)
                assert fingerprints(path) == self._versions[self._digest]
            except AssertionError as error:
                raise AssertionError(f"{name} has not the newest version\n{node.said()}") from error

    def rest(self, second: float) -> None:
        """Leave one version to each, wait until nothing moves, and measure everybody who lasts."""
        self._prune(*self.lasting)
        time.sleep(REST_S)
        for node in self.lasting.values():
            assert node.serving.alive, node.serving.stderr
            node.samples.append(Sample.of(node.serving.pid, second))

    def stop(self) -> None:
        """End everybody in good order: followers by an interrupt, nodes as a service manager does."""
        for node in self.lasting.values():
            if node.follower is not None:
                node.follower.signal(signal.SIGINT)
                node.follower.wait(130)
        for node in self.lasting.values():
            node.serving.stop()


def _end(process: Serving | Running) -> None:
    if process.alive:
        # It ends one that is stopped as well.
        process.kill()


def run(base: Path, minutes: float, seed: int = 1) -> dict[str, Any]:
    """Let a site live for so many minutes in an empty folder; returns what came out, as it is committed."""
    began_s = time.monotonic()
    with Soak(base, seed) as soak:
        for now in rounds(seed):
            soak.live(now)
            soak.rest(time.monotonic() - began_s)
            if time.monotonic() - began_s >= 60 * minutes:
                break
        soak.stop()
    found = {name: Found.of(node.samples, WARM_UP * 60 * minutes) for name, node in soak.lasting.items()}
    series = {name: [list(asdict(s).values()) for s in node.samples] for name, node in soak.lasting.items()}
    return {
        "command": f"python -m tests.integration.soak --minutes {minutes:g} --seed {seed}",
        "seed": seed,
        "seconds": round(time.monotonic() - began_s, 1),
        "rounds": len(soak.lasting["seed"].samples),
        "events": dict(soak.events),
        "measured": "Anonymous of smaps_rollup at rest after each round; medians of the first and last quarter of the "
        f"samples after the first {WARM_UP:.0%} of the time; the codecs are loaded at the start",
        "shorter_s": SHORTER,
        "nodes": {name: asdict(one) for name, one in found.items()},
        "samples": {"columns": ["second", "anonymous_bytes", "fds", "threads"], **series},
    }


def grown(node: dict[str, Any]) -> list[str]:
    """What of a node grew beyond its bound, as a record tells of it."""
    over = [f"memory by {node['growth']:.1%}"] if node["growth"] >= GROWTH_MAX else []
    for what, allowed in (("fds", node["fds"][0] + IDLE_FDS), ("threads", max(node["threads"][0], THREADS))):
        first, last = node[what]
        over += [f"{what} from {first} to {last}"] if last > allowed else []
    return over


def main() -> int:
    """Returns the exit code: 0 if nothing grew, else 1."""
    parser = argparse.ArgumentParser(description="A day in the life of a site in minutes.")
    parser.add_argument("--minutes", type=float, default=20.0, help="how long (20)")
    parser.add_argument("--seed", type=int, default=1, help="what happens when (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what came out to a file")
    parser.add_argument("--work", type=Path, help="a folder for the homes (the system's temporary one)")
    arguments = parser.parse_args()
    # Ended by another, it still ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="p2psync-soak-", dir=arguments.work) as work:
        record = run(Path(work), arguments.minutes, arguments.seed)
    write(arguments.json, record)
    sys.stdout.write(json.dumps({what: record[what] for what in ("rounds", "events", "nodes")}, indent=1) + "\n")
    return int(any(grown(node) for node in record["nodes"].values()))


if __name__ == "__main__":
    sys.exit(main())
