"""The part of the demonstration about a site: four nodes behind one slow link that know nothing of each other."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import command
from tests.integration.site_lab import SiteLab, Wan, why_not

NODES = 4
SITE = "demo"
LINK = Wan(mbit=80, rtt_ms=50, loss=0.01)
# Where no namespaces can be made, the seed sends no faster than the link would.
_LIMIT = "10M"
_PORT = 7007
_MEETING_S = 30.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where the site stands: how a command runs on the seed and on each node, and how the seed is started."""

    what: str
    seed: command.Home
    nodes: tuple[command.Home, ...]
    seed_flags: tuple[str, ...]
    node_flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Spread:
    """What a site of nodes did: for each the answer of its pull, seconds until the last, and what the seed gave."""

    what: str
    seconds: float
    answers: tuple[command.Answer, ...]
    seed_bytes: int


@contextmanager
def places(publisher: Path, work: Path) -> Iterator[Place]:
    """A seed and four nodes in network namespaces of their own, or where that cannot be, on loopback."""
    homes = [work / f"site-{number}" for number in range(1, NODES + 1)]
    reason = why_not()
    if reason:
        nodes = tuple(command.Home(home) for home in homes)
        what = f"on loopback ({reason}), from a seed that sends at most {_LIMIT}B/s"
        yield Place(what, command.Home(publisher), nodes, ("--upload-limit", _LIMIT), ("--site", SITE))
        return
    with SiteLab(NODES, LINK) as lab:
        nodes = tuple(command.Home(home, tuple(lab.argv(n, ()))) for home, n in zip(homes, lab.names, strict=True))
        seed = command.Home(publisher, tuple(lab.argv("seed", ())))
        what = (
            f"in four network namespaces, behind {LINK.mbit:g} Mbit/s, {LINK.rtt_ms:g} ms, {100 * LINK.loss:g} % loss"
        )
        flags = ("--open", "--listen", f"{lab.address('seed')}:{_PORT}")
        yield Place(what, seed, nodes, flags, ("--open", "--site", SITE))


def spread(place: Place, key: str, name: str) -> Spread:
    """Start the nodes, let them find each other, and have all of them ask for ``name`` at once.

    Raises:
        TimeoutError: they did not find each other.
        command.CommandError: a command failed.
    """
    for node in place.nodes:
        node.json("trust", "add", "demo/*", key)
    with ExitStack() as stack:
        seed = stack.enter_context(place.seed.serve(*place.seed_flags))
        for node in place.nodes:
            stack.enter_context(node.serve(*place.node_flags, discover=True))
        _wait_until_met(place.nodes)
        began = time.monotonic()
        answers = _pull_at_once(place.nodes, (name, "--from", seed.url))
        seconds = time.monotonic() - began
        seed.stop()
    return Spread(place.what, seconds, answers, int(seed.events[-1]["sent_bytes"]))


def _wait_until_met(nodes: Sequence[command.Home]) -> None:
    until = time.monotonic() + _MEETING_S
    while any(len(node.json("peers")["peers"]) < len(nodes) - 1 for node in nodes):
        if time.monotonic() > until:
            raise TimeoutError(f"the nodes did not find each other within {_MEETING_S:.0f} s")
        time.sleep(0.1)


def _pull_at_once(nodes: Sequence[command.Home], arguments: tuple[str, ...]) -> tuple[command.Answer, ...]:
    lines = [node.command("pull", *arguments, "--json", "--no-progress") for node in nodes]
    running = [
        subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=command.environment_of_a_user(),
        )
        for line in lines
    ]
    return tuple(command.answer_of(arguments, process) for process in running)
