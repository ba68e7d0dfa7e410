"""p2psync as a user runs it: one process per command, JSON on its standard output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PROGRAM = str(Path(sys.prefix) / "bin" / "p2psync")
# Between SIGINT and SIGKILL.
_GRACE_S = 15.0
# From start to the first line of ``serve``.
_START_S = 30.0

Answer = dict[str, Any]


class CommandError(Exception):
    """A command failed. ``exit_code`` is the process's own."""

    def __init__(self, arguments: Sequence[str], exit_code: int, stderr: str) -> None:
        super().__init__(f"p2psync {' '.join(arguments)}: exit {exit_code}\n{stderr.rstrip()}")
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Home:
    """One machine's p2psync: the directory that ``--home`` names. ``inside`` is what runs a command on that machine."""

    path: Path
    inside: tuple[str, ...] = ()

    def command(self, *arguments: str) -> list[str]:
        """The argument vector of one p2psync command on this home."""
        return [*self.inside, PROGRAM, *arguments, "--home", str(self.path)]

    def text(self, *arguments: str) -> str:
        """Run one command to its end and return what it printed.

        Raises:
            CommandError: it did not exit 0.
        """
        done = subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environment_of_a_user(),
        )
        if done.returncode:
            raise CommandError(arguments, done.returncode, done.stderr or done.stdout)
        return done.stdout

    def json(self, *arguments: str) -> Answer:
        """Run one command with ``--json`` and return the object that it printed last.

        Raises:
            CommandError: it did not exit 0.
        """
        answer: Answer = json.loads(self.text(*arguments, "--json").splitlines()[-1])
        return answer

    def serve(self, *arguments: str, program: Sequence[str] = (), discover: bool = False) -> Serving:
        """Start ``serve`` on loopback and wait until it listens.

        Args:
            arguments: more flags for ``serve``.
            discover: look for other nodes, and be found.
            program: what to run instead of the installed command, with the same arguments.
        """
        command = self.command("serve", "--json", *(() if discover else ("--no-discovery",)), *arguments)
        if program:
            command[:1] = program
        return Serving(command)


class Serving:
    """A running ``serve``: ``url`` is where it listens, ``pid`` is its process. A context manager that ends it."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment_of_a_user()
        )
        self.pid = self._process.pid
        self.events: list[Answer] = []
        self._listening = threading.Event()
        # It prints an event per line for as long as it runs; a pipe that nobody reads would stop it.
        self._reader = threading.Thread(target=self._read_events, daemon=True)
        self._reader.start()
        self._listening.wait(_START_S)
        if not self.events:
            raise CommandError(command[1:], self.stop(), "it did not listen")
        self.url = str(self.events[0]["url"])

    def _read_events(self) -> None:
        if self._process.stdout is None:
            raise ValueError("serve was started without a pipe")
        with self._process.stdout as lines:
            for line in lines:
                self.events.append(json.loads(line))
                self._listening.set()
        self._listening.set()

    def stop(self) -> int:
        """Interrupt it as a person would, kill it if that does not help, and return its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._reader.join()
        return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def answer_of(arguments: Sequence[str], process: subprocess.Popen[str]) -> Answer:
    """What a command that was started with ``--json`` printed last; waits for its end.

    Raises:
        CommandError: it did not exit 0.
    """
    stdout, stderr = process.communicate()
    if process.returncode:
        raise CommandError(arguments, process.returncode, stderr or stdout)
    answer: Answer = json.loads(stdout.splitlines()[-1])
    return answer


def environment_of_a_user() -> dict[str, str]:
    """This process's environment without settings of p2psync, so that a tool measures the defaults."""
    return {name: value for name, value in os.environ.items() if not name.startswith("P2PSYNC_")}
