"""A process of its own that pulls, so that what it leaves behind and takes is its own and no liar's.

It reads one JSON object a line (home, sources) and answers each with one: how the pull ended, what it told, how long
it took, and what ``leaks`` saw.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from p2psync.errors import P2PSyncError
from p2psync.node import operations
from tests import leaks
from tests.integration.lab import check_sound

NAME = "acme/model"
ROOT = Path(__file__).parents[2]
# Hang guard of one pull.
PULL_S = 90.0


@dataclass
class Outcome:
    """How a pull ended: its exit code, what it answered or was told, every event, and what it took.

    ``fault`` says what was left behind, or which bound of memory was passed; it is empty where all is well.
    """

    code: int = 0
    answer: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    peak_bytes: int = 0
    fault: str = ""

    def of(self, url: str) -> list[dict[str, Any]]:
        """What was told of one source."""
        return [event for event in self.events if event["event"] == "source" and event["url"] == url]

    def sent_by(self, url: str) -> int:
        """Proved bytes of one source."""
        return sum(source["bytes"] for source in self.answer["sources"] if source["url"] == url)


class Puller:
    """The process. Use as a context manager."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-W", "error", "-m", "tests.liars.puller"]
        self._said = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        with self._said:
            self._said.seek(0)
            check_sound(self._said.read())

    async def pull(self, home: Path, *sources: tuple[str, str]) -> Outcome:
        """Pull the model from (url, kind) with the bounds that users have."""
        named = [{"url": url, "kind": kind} for url, kind in sources]
        line = json.dumps({"home": str(home), "sources": named})
        return Outcome(**json.loads(await asyncio.to_thread(self._ask, line)))

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


async def pull(home: Path, sources: list[dict[str, str]]) -> Outcome:
    """One pull in this process, watched."""
    outcome = Outcome()
    seen = leaks.Watched()
    try:
        async with leaks.watched() as seen, asyncio.timeout(PULL_S):
            try:
                args = {"reference": NAME, "sources": sources}
                outcome.answer = await operations.run(home, "pull", args, outcome.events.append)
            except P2PSyncError as error:
                outcome.code = error.exit_code
                outcome.answer = {"error": {"code": error.code, "message": str(error)}}
    except (AssertionError, TimeoutError) as error:
        outcome.fault = str(error) or type(error).__name__
    outcome.seconds, outcome.peak_bytes = seen.seconds, seen.peak_bytes
    return outcome


def main() -> None:
    """Pull whatever is asked for, until nothing more is."""
    for line in sys.stdin:
        asked = json.loads(line)
        outcome = asyncio.run(pull(Path(asked["home"]), asked["sources"]))
        sys.stdout.write(json.dumps(vars(outcome)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
