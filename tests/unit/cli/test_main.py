"""How a run ends: exit codes, the one form of errors, pipes that close, and signals."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

# A p2psync whose node waits for ever, or for a worker thread that nobody can stop.
STUCK = """
    import asyncio, sys, time, types
    import p2psync.node
    from p2psync.cli.main import entry

    async def run(home, verb, args, emit):
        emit({"event": "plan", "total": 100, "reused": 0, "resumed": 0, "missing": 100, "files": 1})
        try:
            if verb == "pull":
                await asyncio.sleep(600)
            await asyncio.to_thread(time.sleep, 600)
        finally:
            print("put away", file=sys.stderr, flush=True)

    node = types.ModuleType("p2psync.node.operations")
    node.run = run
    sys.modules[node.__name__] = p2psync.node.operations = node
    entry()
"""


@pytest.fixture
def stuck(home):
    """Start a p2psync that will not end by itself, and wait until it works."""
    started = []

    def start(*words):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(STUCK), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "P2PSYNC_HOME": str(home)},
        )
        started.append(process)
        assert "0 B of 100 B" in process.stderr.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def program(home, *words, **options):
    """Run p2psync in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "p2psync", *words],
        capture_output="stdout" not in options,
        text=True,
        check=False,
        env={**os.environ, "P2PSYNC_HOME": str(home)},
        **options,
    )


def test_form_of_errors(cli):
    """An error is told as a line, an empty line and a hint; standard output stays empty."""
    shown = cli("pull", "acme/m", "--form", "x")
    assert shown.out == ""
    assert shown.err == "error: pull has no flag --form\n\nhint: did you mean --from?\n"


def test_errors_of_the_line_as_json(cli):
    """With --json on the line, or its variable, even a line that cannot be read is told as an object."""
    told = {"error": {"code": "usage", "message": "there is no verb 'pul'", "hint": "did you mean p2psync pull?"}}
    assert cli("pul", "--json").json == told
    assert cli("pul", environ={"P2PSYNC_JSON": "1"}).json == told
    assert cli("pul", "--json").code == 2


def test_name_alone(cli):
    """The name alone shows the help on standard error and exits 2."""
    shown = cli()
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith("usage: p2psync VERB")
    assert "error: there is no verb on the line" in shown.err


def test_help_is_data(cli):
    """Help that was asked for is on standard output, exit 0."""
    shown = cli("pull", "--help")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith("usage: p2psync pull REF")
    assert shown.out.endswith("interrupted\n")


def test_others_words_in_errors(cli, node):
    """A message that quotes a stranger cannot move the terminal's cursor."""
    from p2psync.errors import RemoteProtocolError

    node.answers["pull"] = RemoteProtocolError("it said \x1b[2Jhello\nerror: fine")
    assert cli("pull", "acme/m").err == "error: it said \\x1b[2Jhello\\nerror: fine\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_pull(stuck, number):
    """A signal ends a pull in good order with 130, and says that what arrived is kept."""
    process = stuck("pull", "acme/m", "--json")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == (
        "put away\nerror: interrupted; what arrived is kept\n\n"
        "hint: run the same command again: it goes on where it was\n"
    )
    assert json.loads(out)["error"]["code"] == "interrupted"


def test_second_signal_waits_for_nobody(stuck):
    """Work in a thread cannot be cancelled; a second signal ends the process at once."""
    process = stuck("prune")
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "put away\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_closed_pipe(home):
    """When the reader of standard output is gone there is no traceback and no message."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = program(home, "--help", stdout=pipe, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, "")


def test_full_standard_output(home):
    """A standard output that takes nothing is an error with a message."""
    with open("/dev/full", "w") as full:
        done = program(home, "--help", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert "No space left" in done.stderr


def test_closed_standard_streams(home):
    """Closed standard streams are no fault: the key is made all the same."""
    command = f'exec "{sys.executable}" -m p2psync key new release >&- 2>&-'
    done = subprocess.run(["sh", "-c", command], check=False, env={**os.environ, "P2PSYNC_HOME": str(home)})
    assert done.returncode == 0
    assert program(home, "key", "ls", "-q").stdout == "release\n"


def test_paths_that_are_no_text(cli, node):
    """A path with bytes that are no text arrives in the shell as those bytes."""
    from tests.unit.cli import shapes

    node.answers["pull"] = {**shapes.sample("pull"), "path": "/x/\udcff"}
    assert cli("pull", "acme/m", "--json").json["path"] == "/x/\udcff"
