"""The control socket hands verbs to the owner of a store and nobody else's to nobody."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from p2psync.errors import (
    MalformedError,
    P2PSyncError,
    RemoteProtocolError,
    RollbackError,
    SourceUnreachableError,
    StoreFullError,
    StoreLockedError,
    StoreUnwritableError,
)
from p2psync.limits import CONTROL_CONNECTIONS_MAX, CONTROL_LINE_BYTES_MAX
from p2psync.transport import LocalServer, call

Emit = Callable[[dict[str, Any]], None]


async def echo(verb: str, args: dict[str, Any], emit: Emit) -> dict[str, Any]:
    for number in range(args.get("events", 0)):
        emit({"event": "progress", "done": number})
    return {"verb": verb, "args": args}


@asynccontextmanager
async def serving(
    path: Path, handler: Callable[..., Awaitable[dict[str, Any]]] = echo, **options: float
) -> AsyncIterator[LocalServer]:
    server = LocalServer(path, handler, **options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def test_verb_events_result(tmp_path: Path) -> None:
    """A verb arrives with its arguments; its events come in order, then its result, whatever characters they hold."""
    args = {"events": 3, "reference": 'acme/mödel:\u2028\n"', "none": None, "nested": {"a": [1, 2.5, True]}}
    events: list[dict[str, Any]] = []
    async with serving(tmp_path / "serve.sock"):
        result = await call(tmp_path / "serve.sock", "pull", args, events.append)
    assert result == {"verb": "pull", "args": args}
    assert [event["done"] for event in events] == [0, 1, 2]


async def test_socket_is_the_owners_alone(tmp_path: Path) -> None:
    """The socket is 0600, and is gone after the server."""
    path = tmp_path / "serve.sock"
    async with serving(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


@pytest.mark.parametrize(
    "error",
    [
        RollbackError("version 3 after 4", hint="ask by digest"),
        StoreFullError("no room", needed_bytes=10, free_bytes=3, hint="rm"),
        StoreLockedError("locked", pid=42),
        MalformedError("bad header", offset=7),
        P2PSyncError("something"),
    ],
)
async def test_errors_arrive_as_themselves(tmp_path: Path, error: P2PSyncError) -> None:
    """An error keeps its class, text, hint, exit code and facts on its way to the caller."""

    async def fail(verb: str, args: dict[str, Any], emit: Emit) -> dict[str, Any]:
        raise error

    async with serving(tmp_path / "s", fail):
        with pytest.raises(type(error)) as caught:
            await call(tmp_path / "s", "pull", {}, lambda event: None)
    assert type(caught.value) is type(error)
    assert vars(caught.value) == vars(error)
    assert (str(caught.value), caught.value.exit_code) == (str(error), error.exit_code)


async def test_caller_that_leaves_takes_its_verb_along(tmp_path: Path) -> None:
    """A verb is cancelled when its caller goes away, and nobody is left to be told of it: no bug is reported."""
    begun, ended = asyncio.Event(), asyncio.Event()
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))

    async def wait(verb: str, args: dict[str, Any], emit: Emit) -> dict[str, Any]:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return {}

    async with serving(tmp_path / "s", wait) as server:
        caller = asyncio.ensure_future(call(tmp_path / "s", "pull", {}, lambda event: None))
        await begun.wait()
        caller.cancel()
        async with asyncio.timeout(20):
            await ended.wait()
            while server._callers:
                await asyncio.sleep(0)
        assert not caller.done() or caller.cancelled()
    # What a task ended with is reported when nobody holds it any more.
    gc.collect()
    assert reported == []


async def test_owner_that_ends_is_an_error(tmp_path: Path) -> None:
    """A caller whose owner stops in the middle is told, not left waiting."""
    begun = asyncio.Event()

    async def wait(verb: str, args: dict[str, Any], emit: Emit) -> dict[str, Any]:
        begun.set()
        await asyncio.Event().wait()
        return {}

    async with serving(tmp_path / "s", wait) as server:
        caller = asyncio.ensure_future(call(tmp_path / "s", "pull", {}, lambda event: None))
        await begun.wait()
        await server.stop()
        with pytest.raises(SourceUnreachableError, match="ended before"):
            await caller


async def test_nobody_there(tmp_path: Path) -> None:
    """No socket, and the socket of a process that is gone, are unreachable."""
    with pytest.raises(SourceUnreachableError):
        await call(tmp_path / "s", "pull", {}, lambda event: None)
    left_behind(tmp_path / "s")
    with pytest.raises(SourceUnreachableError):
        await call(tmp_path / "s", "pull", {}, lambda event: None)


async def test_a_socket_of_another_user_is_told_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever could put a socket in this place would learn what is asked, and answer it."""
    heard = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1000))
        writer.close()

    server = await asyncio.start_unix_server(listen, tmp_path / "serve.sock")
    monkeypatch.setattr("p2psync.transport.local._peer", lambda _sock: (1, os.geteuid() + 1, 1))
    with pytest.raises(RemoteProtocolError, match="is served by another user"):
        await call(tmp_path / "serve.sock", "pull", {"secret": 1}, print)
    async with asyncio.timeout(10):
        while not heard:
            await asyncio.sleep(0)
    assert heard == [b""]
    server.close()
    await server.wait_closed()


def left_behind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


async def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    """What a killed owner left behind is in nobody's way."""
    left_behind(tmp_path / "s")
    async with serving(tmp_path / "s"):
        assert (await call(tmp_path / "s", "ls", {}, lambda event: None))["verb"] == "ls"


async def test_living_owner_is_not_replaced(tmp_path: Path) -> None:
    """A second owner is told who the first is, and the first goes on."""
    async with serving(tmp_path / "s"):
        with pytest.raises(StoreLockedError) as caught:
            await LocalServer(tmp_path / "s", echo).start()
        assert caught.value.pid == os.getpid()
        assert (await call(tmp_path / "s", "ls", {}, lambda event: None))["verb"] == "ls"


async def test_other_things_in_the_way_are_kept(tmp_path: Path) -> None:
    """A file that is no socket is not removed."""
    (tmp_path / "s").write_text("mine")
    with pytest.raises(StoreUnwritableError):
        await LocalServer(tmp_path / "s", echo).start()
    assert (tmp_path / "s").read_text() == "mine"
    with pytest.raises(StoreUnwritableError):
        await LocalServer(tmp_path / "no" / "s", echo).start()


async def test_long_paths_work(tmp_path: Path) -> None:
    """A home may stand deeper than a socket address is long."""
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    folder.mkdir(parents=True)
    async with serving(folder / "serve.sock"):
        assert (folder / "serve.sock").exists()
        assert (await call(folder / "serve.sock", "ls", {}, lambda event: None))["verb"] == "ls"
        with pytest.raises(StoreLockedError):
            await LocalServer(folder / "serve.sock", echo).start()
    assert not (folder / "serve.sock").exists()


async def talk(path: Path, data: bytes) -> dict[str, Any]:
    reader, writer = await asyncio.open_unix_connection(str(path), limit=1 << 30)
    writer.write(data)
    answer = await reader.read()
    writer.close()
    parsed: dict[str, Any] = json.loads(answer)
    return parsed


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"nonsense\n",
        b"[]\n",
        b'"x"\n',
        b"{}\n",
        b'{"verb":1,"args":{}}\n',
        b'{"verb":"x","args":[]}\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b"a" * (CONTROL_LINE_BYTES_MAX + 100) + b"\n",
    ],
    ids=["empty", "words", "list", "text", "no verb", "number", "args", "not UTF-8", "deep", "long"],
)
async def test_what_is_no_request_is_refused(tmp_path: Path, data: bytes) -> None:
    """Every line that is not a request is answered with an error."""
    async with serving(tmp_path / "s"):
        assert (await talk(tmp_path / "s", data))["error"]["code"] == "malformed"


async def test_silent_caller_is_sent_home(tmp_path: Path) -> None:
    """Who connects and says nothing does not stay."""
    async with serving(tmp_path / "s", response_s=0.05):
        assert (await talk(tmp_path / "s", b'{"verb"'))["error"]["code"] == "malformed"


async def test_caller_that_does_not_read_loses_events_only(tmp_path: Path) -> None:
    """Events beyond what a caller takes are dropped; memory stays bounded and the result arrives."""
    released = asyncio.Event()

    async def shout(verb: str, args: dict[str, Any], emit: Emit) -> dict[str, Any]:
        for number in range(200):
            emit({"number": number, "text": "a" * 100_000})
        released.set()
        return {"done": True}

    async with serving(tmp_path / "s", shout):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"), limit=1 << 30)
        writer.write(b'{"verb":"x","args":{}}\n')
        await released.wait()
        lines = (await reader.read()).splitlines()
        writer.close()
        assert json.loads(lines[-1]) == {"result": {"done": True}}
        assert len(lines) < 100


ODD_ERRORS = [
    json.dumps({"error": {"code": "x", "message": "m", **more}}).encode() + b"\n"
    for more in ({"message": None}, {"facts": 3}, {"facts": [["a", 1]]}, {"facts": "ab"}, {"hint": [1]})
]


async def test_paths_that_are_no_text_arrive_as_they_are(tmp_path: Path) -> None:
    """A folder's name may be any bytes; Python carries those that are no UTF-8 as halves of surrogate pairs."""
    odd = os.fsdecode(b"/models/\xff")
    async with serving(tmp_path / "s"):
        answer = await call(tmp_path / "s", odd, {"to": odd}, lambda event: None)
    assert (answer["verb"], answer["args"]) == (odd, {"to": odd})


@pytest.mark.parametrize("answer", [b"nonsense\n", b"[]\n", b"{}\n", b'{"error":1}\n', *ODD_ERRORS])
async def test_answer_that_is_none_is_refused(tmp_path: Path, answer: bytes) -> None:
    """What answers on the socket and does not speak our lines is named."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(serve, str(tmp_path / "s"))
    with pytest.raises(RemoteProtocolError):
        await call(tmp_path / "s", "ls", {}, lambda event: None)
    server.close()


async def test_error_of_a_newer_owner_is_still_an_error(tmp_path: Path) -> None:
    """An unknown code becomes the root of the error tree, and facts never overwrite what a class defines."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        told = {"code": "from_the_future", "message": "m", "facts": {"exit_code": 0, "_x": 1, "hint": 7, "n": 5}}
        writer.write(json.dumps({"error": told}).encode() + b"\n")
        writer.close()

    server = await asyncio.start_unix_server(serve, str(tmp_path / "s"))
    with pytest.raises(P2PSyncError) as caught:
        await call(tmp_path / "s", "ls", {}, lambda event: None)
    assert (caught.value.exit_code, caught.value.code) == (1, "p2psync")
    assert (caught.value.message, caught.value.hint) == ("m", None)
    assert caught.value.n == 5  # type: ignore[attr-defined]
    server.close()


def test_steering_needs_no_http() -> None:
    """Whoever only hands a verb to a running node never imports aiohttp."""
    program = "import sys; from p2psync.transport import LocalServer, call; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


async def test_callers_at_once_are_bounded(tmp_path: Path) -> None:
    """One more than may be there is sent home without a word, and as soon as one of them has left, another may come."""
    async with serving(tmp_path / "s"):
        crowd = [await asyncio.open_unix_connection(str(tmp_path / "s")) for _ in range(CONTROL_CONNECTIONS_MAX)]
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        crowd[0][1].write(b"{}\n")
        assert b"malformed" in await crowd[0][0].read()
        assert (await call(tmp_path / "s", "x", {}, print))["verb"] == "x"
        for _, each in [*crowd, (reader, writer)]:
            each.close()
