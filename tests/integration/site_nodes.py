"""p2psync on the machines of a lab: a seed outside, nodes that find each other, and pulls that start together."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.integration.lab import PROGRAM, Done, Home, Publisher, Running, Serving
from tests.integration.site_lab import SiteLab

# A name that nobody has yet is asked for three times and then announced twice: 1.65 s in all.
DISCOVERY_S = 3.0
_SEED_PORT = 7007
# How often the lab looks how far a site is.
_LOOK_S = 0.05


class Together:
    """Commands that started together, each waited for by a thread of its own. As a context manager it ends them.

    ``began_s`` is when, by the monotonic clock.
    """

    def __init__(self, commands: Mapping[str, Sequence[str]], timeout_s: float) -> None:
        self.began_s = time.monotonic()
        self._timeout_s = timeout_s
        self._running = {name: Running(command) for name, command in commands.items()}
        self._pool = ThreadPoolExecutor(len(commands))
        self._ends = {name: self._pool.submit(self._end, running) for name, running in self._running.items()}

    def _end(self, running: Running) -> tuple[float, Done]:
        done = running.wait(None, self._timeout_s)
        return time.monotonic() - self.began_s, done

    def end(self, name: str, code: int = 0) -> tuple[float, Done]:
        """The seconds after which one ended, and what it printed; waits for it. ``code`` is its exit code."""
        seconds, done = self._ends[name].result()
        assert done.code == code, f"{name}: exit {done.code}, not {code}\n{done.stdout}\n{done.stderr}"
        return seconds, done

    def seconds(self, names: Sequence[str]) -> dict[str, float]:
        """When each of ``names`` ended well, in seconds from the common start."""
        return {name: round(self.end(name)[0], 3) for name in names}

    def told(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The JSON that each of ``names`` printed at its end."""
        return {name: self.end(name)[1].json for name in names}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for running in self._running.values():
            if running.alive:
                running.signal(signal.SIGKILL)
        self._pool.shutdown(wait=True)


@dataclass
class Site:
    """A lab whose seed serves what ``publisher`` has. ``folder`` holds the nodes' homes, ``nodes`` who serves."""

    lab: SiteLab
    publisher: Publisher
    folder: Path
    seed: Serving
    nodes: dict[str, Serving] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def open(cls, lab: SiteLab, publisher: Publisher, folder: Path) -> Iterator[Self]:
        """Start the seed; end it and every node afterwards."""
        with ExitStack() as stack:
            site = cls(lab, publisher, folder, _serve_outside(lab, publisher))
            stack.callback(site._end)
            yield site

    def _end(self) -> None:
        for serving in (*self.nodes.values(), self.seed):
            if serving.alive:
                serving.kill()

    def home(self, name: str, program: Sequence[str] = PROGRAM) -> Home:
        """A node's home, which trusts the publisher, and the program as it runs there."""
        return self.publisher.node(self.folder / name, tuple(self.lab.argv(name, program)))

    def start(self, *names: str, program: Sequence[str] = PROGRAM, flags: Sequence[object] = ()) -> None:
        """Start ``serve`` on nodes, and give them the time in which they find each other."""
        words = ("--open", "--site", "lab", *flags)
        with ThreadPoolExecutor(len(names)) as pool:
            started = pool.map(lambda name: self.home(name, program).serve(*words, discover=True), names)
            self.nodes |= dict(zip(names, started, strict=True))
        time.sleep(DISCOVERY_S)

    def pulling(self, reference: str, names: Sequence[str], *words: object) -> dict[str, list[str]]:
        """The command with which each node asks for a version from the seed."""
        flags = ("--from", self.seed.url, "--json", "--no-progress", *words)
        return {name: self.home(name).command("pull", reference, *flags) for name in names}

    def crossed(self, count: float, timeout_s: float) -> str:
        """Wait until so many bytes have crossed the outside link, and name the node that most of them went to."""
        until_s = time.monotonic() + timeout_s
        while True:
            carried = self.lab.carried()
            if sum(carried.values()) >= count:
                return max(carried, key=lambda name: carried[name])
            assert time.monotonic() < until_s, f"{carried} crossed the outside link in {timeout_s:.0f} s"
            time.sleep(_LOOK_S)

    def restart_seed(self) -> None:
        """Kill the seed, and start it again where it was."""
        self.seed.kill()
        self.seed = _serve_outside(self.lab, self.publisher)


def _serve_outside(lab: SiteLab, publisher: Publisher) -> Serving:
    home = Home(publisher.home.path, tuple(lab.argv("seed", PROGRAM)))
    return home.serve("--open", "--listen", f"{lab.address('seed')}:{_SEED_PORT}")
