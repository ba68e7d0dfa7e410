"""``serve`` and ``status``."""

import json
import os
import signal
import sys
import types
from dataclasses import dataclass, field

import pytest

import p2psync.node
from p2psync.cli import nodes
from p2psync.node.rates import Limits
from p2psync.node.watching import Exposure
from tests.unit.cli import shapes


@dataclass
class ServeOptions:
    """As the node's own."""

    host: str = "127.0.0.1"
    port: int = 0
    site: str = ""
    discover: bool = True
    peers: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    follow: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    metrics: Exposure = Exposure.LOOPBACK


@pytest.fixture
def served(monkeypatch):
    """A node that tells its options, serves until a signal comes, and sends that signal to itself."""
    seen = []

    async def serve(home, options, emit, stop):
        seen.append(options)
        emit({"event": "listening", "url": "http://127.0.0.1:7", "node": "n0"})
        os.kill(os.getpid(), seen_signal[0])
        await stop.wait()
        emit({"event": "stopped", "url": "http://127.0.0.1:7", "sent_bytes": 1000})

    seen_signal = [signal.SIGTERM]
    module = types.ModuleType("p2psync.node.node")
    module.serve, module.ServeOptions = serve, ServeOptions
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(p2psync.node, "node", module, raising=False)
    seen.append(seen_signal)
    return seen


def test_serve_says_where_first(cli, served):
    """The first line of standard output is the address and the id; SIGTERM is a good end."""
    shown = cli("serve")
    assert shown.code == 0
    assert shown.out == "listening http://127.0.0.1:7 node=n0\n"
    assert shown.err == "stopped, 1.00 kB sent\n"
    assert served[-1] == ServeOptions()


def test_serve_json_is_events(cli, served):
    """With --json each line is one event, listening first."""
    events = [json.loads(line) for line in cli("serve", "--json").lines]
    assert events[0] == {"event": "listening", "url": "http://127.0.0.1:7", "node": "n0"}
    assert [event["event"] for event in events] == ["listening", "stopped"]


def test_interrupted_serve(cli, served):
    """An interrupt ends serve in the same good order, and the exit code says what happened."""
    served[0][0] = signal.SIGINT
    shown = cli("serve")
    assert shown.code == 130
    assert "stopped, 1.00 kB sent" in shown.err


@pytest.mark.parametrize(
    ("words", "host", "port"),
    [
        ((), "127.0.0.1", 0),
        (("--open",), "", 0),
        (("--listen", ":7007"), "127.0.0.1", 7007),
        (("--listen", ":7007", "--open"), "", 7007),
        (("--listen", "10.0.0.7:1", "--open"), "10.0.0.7", 1),
        (("--listen", "[::1]:1"), "::1", 1),
    ],
)
def test_where_serve_listens(cli, served, words, host, port):
    """Loopback and a free port, unless --open says that others may come or --listen says where."""
    assert cli("serve", *words, "--no-discovery").code == 0
    assert (served[-1].host, served[-1].port) == (host, port)


def test_serve_settings(cli, served):
    """Site, peers, limits and what to follow reach the node."""
    assert cli("serve", "--site", "berlin", "--upload-limit", "10Mbit", "--peer", "h:1", "--no-discovery").code == 0
    expected = ServeOptions(site="berlin", discover=False, peers=("http://h:1",), limits=Limits(up=1_250_000))
    assert served[-1] == expected
    words = ("--follow", "acme/m:v1", "--from", "https://models.example", "--wan-down", "2M", "--peer-up", "1M")
    assert cli("serve", *words).code == 0
    limits = Limits(wan_down=2_000_000, peer_up=1_000_000)
    assert served[-1] == ServeOptions(follow=("acme/m:v1",), sources=("https://models.example",), limits=limits)


def test_who_may_read_the_numbers(cli, served):
    """--metrics reaches the node; a word that it does not know is a mistake: exit 2."""
    assert cli("serve", "--metrics", "off").code == 0
    assert served[-1].metrics is Exposure.OFF
    assert cli("serve", "--metrics", "all").code == 2
    assert len(served) == 2


@pytest.mark.parametrize("words", [("--follow", "acme/m"), ("--from", "https://models.example")])
def test_follow_and_from_go_together(cli, served, words):
    """One without the other is a mistake: exit 2."""
    assert cli("serve", *words).code == 2
    assert len(served) == 1


def test_peers(cli, monkeypatch):
    """``peers`` lists the neighbours and the banned, with -q only the ids."""
    answer = shapes.sample("peers")
    monkeypatch.setattr("p2psync.node.inspect.ask_owner", lambda _home, verb, _args: {"peers": answer}[verb])
    assert cli("peers", "--json").json == answer
    assert "BANNED" in cli("peers").out
    assert cli("peers", "-q").lines == [row["node"] for row in answer["peers"]]
    answer["peers"] = []
    assert "no other node" in cli("peers").err


def test_limits(cli, monkeypatch):
    """``limits`` passes on what is named, `none` as no limit, and shows all of them."""
    asked = []

    def ask(_home, verb, args):
        asked.append((verb, args))
        return {"wan_down": 5e6, "up": None}

    monkeypatch.setattr("p2psync.node.inspect.ask_owner", ask)
    shown = cli("limits", "--wan-down", "5M", "--lan-up", "none", "--json")
    assert shown.json == {"limits": {"wan_down": 5e6, "up": None}}
    assert asked == [("limits", {"wan_down": 5_000_000, "lan_up": None})]
    assert cli("limits").lines == ["wan_down  5.00 MB/s", "up        none"]


def test_peers_without_a_node(cli):
    """Only a running node knows its peers: exit 3 and how to start one."""
    shown = cli("peers")
    assert shown.code == 3
    assert "p2psync serve --open" in shown.err


@pytest.mark.parametrize("words", [("--listen", "0.0.0.0:1"), ("--listen", "edge.local:1"), ("--offline",)])
def test_serve_refuses(cli, served, words):
    """An address that others reach needs --open, and --offline excludes serving: exit 2, nothing was started."""
    shown = cli("serve", *words)
    assert shown.code == 2
    assert len(served) == 1


def test_status(cli, node):
    """``status`` describes the home, with -q only the URL that serves it."""
    answer = {**shapes.sample("status"), "serving": "http://h:1", "pid": 7}
    node.answers["status"] = answer
    shown = cli("status")
    assert any(line.split() == ["serve", "http://h:1", "(pid", "7)"] for line in shown.lines)
    assert "UNFINISHED" in shown.out
    assert cli("status", "-q").lines == ["http://h:1"]
    node.answers["status"] = {**answer, "serving": None, "pid": None, "node": None, "partials": [], "transfers": []}
    assert "not running" in cli("status").out
    assert cli("status", "-q").out == ""
    node.answers["status"] = {**answer, "serving": None}
    assert "busy (pid 7)" in cli("status").out


def test_status_watch(cli, node, monkeypatch):
    """--watch shows it again until interrupted; with --json each line is one object."""
    naps = iter([None, KeyboardInterrupt()])

    def nap(_seconds):
        if (end := next(naps)) is not None:
            raise end

    node.answers["status"] = shapes.sample("status")
    monkeypatch.setattr(nodes.time, "sleep", nap)
    shown = cli("status", "--watch", "--json")
    assert shown.code == 130
    first, second, stopped = (json.loads(line) for line in shown.lines)
    assert first == second == shapes.sample("status")
    assert stopped["error"]["code"] == "interrupted"
