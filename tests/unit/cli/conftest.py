"""A command line to drive in this process, with the node behind it replaced where a test says so."""

import json
import logging
import sys
import types
from dataclasses import dataclass

import pytest

import p2psync.node
from p2psync.cli.logs import LogHandler
from p2psync.cli.main import main


@dataclass
class Answer:
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def lines(self):
        """Standard output, line by line."""
        return self.out.splitlines()

    @property
    def json(self):
        """The one object on standard output."""
        (line,) = self.lines
        return json.loads(line)


@pytest.fixture
def cli(home, capsys):
    """Run a command line on an empty home, in this process."""

    def run(*words, environ=None):
        capsys.readouterr()
        code = main(list(words), {"P2PSYNC_HOME": str(home), **(environ or {})})
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    yield run
    for handler in [each for each in logging.getLogger().handlers if isinstance(each, LogHandler)]:
        logging.getLogger().removeHandler(handler)


class FakeNode:
    """Stands where the node does: remembers what it was asked, and answers what a test put there."""

    def __init__(self):
        self.calls = []
        self.answers = {}
        self.events = []

    async def run(self, home, verb, args, emit):
        """As ``p2psync.node.operations.run``."""
        self.calls.append((home, verb, args))
        for event in self.events:
            emit(event)
        return self._answer(verb)

    def inspect(self, home, verb, args):
        """As ``p2psync.node.inspect.inspect``."""
        self.calls.append((home, verb, args))
        return self._answer(verb)

    def _answer(self, verb):
        answer = self.answers.get(verb, {})
        if isinstance(answer, BaseException):
            raise answer
        return answer

    @property
    def args(self):
        """The arguments of the last call."""
        return self.calls[-1][2]


@pytest.fixture
def node(monkeypatch):
    """A node that does nothing but answer."""
    fake = FakeNode()
    for name, function in (("operations", fake.run), ("inspect", fake.inspect)):
        module = types.ModuleType(f"p2psync.node.{name}")
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(p2psync.node, name, module, raising=False)
    return fake
