"""p2psync as its users run it: processes of the real program, on real homes, with real files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from p2psync.manifest import VerifyKey
from p2psync.trust import Keyring, TrustStore

PROGRAM = (sys.executable, "-m", "p2psync")
# Hang guards. Far above what anything takes, so that a slow machine fails no test.
COMMAND_S = 120.0
START_S = 60.0
# What a sound program never writes, whatever happens to it.
_BUGS = ("Traceback (most recent call last)", "never retrieved", "never awaited", "Unclosed ")


def hasty(**bounds: float) -> tuple[str, ...]:
    """The real program with smaller bounds of ``limits``, so that what waits for silence is over soon."""
    settings = "; ".join(f"limits.{name} = {value!r}" for name, value in bounds.items())
    return (
        sys.executable,
        "-c",
        f"from p2psync import limits; {settings}; from p2psync.cli.main import entry; entry()",
    )


# Short enough to wait for liars, and long enough for a machine on which much else runs.
HASTE = hasty(STALL_S=12.0, RESPONSE_TIMEOUT_S=3.0, RATE_WINDOW_S=1.5, CONNECT_TIMEOUT_S=3.0)


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def line(self) -> str:
        """The last line of standard output."""
        return self.stdout.splitlines()[-1]

    @property
    def json(self) -> dict[str, Any]:
        """The object on the last line of standard output."""
        answer: dict[str, Any] = json.loads(self.line)
        return answer

    @property
    def error(self) -> dict[str, Any]:
        """The error that ``--json`` told."""
        told: dict[str, Any] = self.json["error"]
        return told


class Running:
    """A command that runs. As a context manager it is killed at the end if it still does."""

    def __init__(self, command: Sequence[str], *, cwd: Path | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env=user_environment(),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.communicate()

    def wait(self, code: int | None = 0, timeout_s: float = COMMAND_S) -> Done:
        """Wait for its end. ``code`` is what it must exit with; None takes any."""
        out, err = self._process.communicate(timeout=timeout_s)
        done = Done(self._process.returncode, out, err)
        check_sound(done.stderr)
        assert code is None or done.code == code, f"exit {done.code}, not {code}\n{done.stdout}\n{done.stderr}"
        return done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.alive:
            self._process.kill()
        self._process.communicate()


class Serving:
    """A running ``serve --json``: where it listens, and what it told. As a context manager it is ended at the end."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=user_environment(),
            )
        self.pid = self._process.pid
        self.events: list[dict[str, Any]] = []
        self._told = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._told.wait(START_S) or not self.events:
            self._process.kill()
            raise AssertionError(f"serve did not listen: exit {self._process.wait()}\n{log.read_text()}")
        self.url: str = self.events[0]["url"]
        self.node: str = self.events[0]["node"]
        self.address = self.url.removeprefix("http://")
        self.port = int(self.url.rpartition(":")[2])

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.events.append(json.loads(line))
                self._told.set()
        self._told.set()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def stderr(self) -> str:
        return self._log.read_text()

    @property
    def sent_bytes(self) -> int:
        """What it handed out in its whole life. Known once it stopped in good order."""
        return int(self.events[-1]["sent_bytes"])

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def stop(self, code: int = 0) -> None:
        """SIGTERM, and wait for a good end."""
        if self.alive:
            self._process.send_signal(signal.SIGTERM)
        ended = self._process.wait(COMMAND_S)
        self._reader.join()
        check_sound(self.stderr)
        assert ended == code, f"serve: exit {ended}\n{self.stderr}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.alive and kind is None:
            self.stop()
        elif self.alive:
            self.kill()
        self._reader.join()


@dataclass(frozen=True, slots=True)
class Home:
    """One machine's p2psync: the directory that ``--home`` names, and the program that runs on it."""

    path: Path
    program: tuple[str, ...] = PROGRAM

    def command(self, *words: object) -> list[str]:
        """The argument vector of one command on this home."""
        return [*self.program, *map(str, words), "--home", str(self.path)]

    def start(self, *words: object) -> Running:
        """Start a command and return at once."""
        return Running(self.command(*words))

    def run(self, *words: object, code: int | None = 0, timeout_s: float = COMMAND_S) -> Done:
        """Run a command to its end. ``code`` is what it must exit with; None takes any."""
        with self.start(*words) as running:
            return running.wait(code, timeout_s)

    def json(self, *words: object, code: int = 0) -> dict[str, Any]:
        """Run a command with ``--json`` and return the object that it printed last."""
        return self.run(*words, "--json", code=code).json

    def fails(self, *words: object, code: int, named: str) -> Done:
        """Run a command that must end in the error ``named``, told the same on both streams."""
        done = self.run(*words, "--json", code=code)
        assert done.error["code"] == named, done.stdout
        assert f"error: {done.error['message']}" in done.stderr.splitlines()
        assert not done.error["hint"] or f"hint: {done.error['hint']}" in done.stderr
        return done

    def pull(self, reference: str, *words: object) -> dict[str, Any]:
        """Pull, and return the object that ``--json`` prints, after checking its sums."""
        result = self.json("pull", reference, *words)
        counted = result["bytes"]
        assert counted["total"] == sum(counted[kind] for kind in ("reused", "patched", "lan", "wan"))
        for kind in ("lan", "wan"):
            assert counted[kind] == sum(s["bytes"] for s in result["sources"] if s["kind"] == kind)
            assert counted[kind] == 0 or result["wire"][kind] > 0
        return result

    def serve(self, *words: object, discover: bool = False) -> Serving:
        """Start ``serve`` on loopback and wait until it listens.

        It looks for nobody unless ``discover`` says so: other tests run on the same loopback.
        """
        log = self.path.parent / f"{self.path.name}.serve.{time.monotonic_ns()}.log"
        alone = () if discover else ("--no-discovery",)
        return Serving(self.command("serve", "--json", *alone, *words), log)

    def trust(self, key: str, pattern: str = "acme/*") -> Self:
        """Bind a namespace to a publisher's key."""
        self.run("trust", "add", pattern, key)
        return self


@dataclass(frozen=True, slots=True)
class Publisher:
    """A home with a key, whose public half others trust."""

    home: Home
    key: str

    @classmethod
    def at(cls, path: Path) -> Publisher:
        return cls(Home(path), str(Keyring(path / "keys").new("maker")))

    def publish(self, folder: Path, reference: str = "acme/model", *words: object) -> dict[str, Any]:
        """Publish a folder; returns what ``--json`` prints."""
        return self.home.json("publish", folder, reference, "--key", "maker", *words)

    def node(self, path: Path, program: tuple[str, ...] = PROGRAM) -> Home:
        """A fresh home that trusts this publisher."""
        TrustStore(path / "trust").add("acme/*", VerifyKey.parse(self.key))
        return Home(path, program)


def user_environment() -> dict[str, str]:
    """This process's environment without settings of p2psync and of terminals."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("P2PSYNC_")}
    return {**kept, "PYTHONUNBUFFERED": "1", "LC_ALL": "C.UTF-8"}


def check_sound(stderr: str) -> None:
    """Refuse what only a fault of the program itself writes."""
    assert not any(bug in stderr for bug in _BUGS), stderr


def until(fact: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    """Wait until ``fact`` holds."""
    deadline = time.monotonic() + timeout_s
    while not fact():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.005)
