"""The control socket: how a command hands its verb to the process that owns the store.

One request a connection, one JSON object a line: ``{"verb", "args"}`` there; ``{"event"}`` any number of times,
then ``{"result"}`` or ``{"error"}`` back. Only the same user is listened to, and a caller that goes away takes
its verb with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from p2psync.errors import (
    MalformedError,
    P2PSyncError,
    RemoteProtocolError,
    SourceUnreachableError,
    StoreLockedError,
    StoreUnwritableError,
)
from p2psync.limits import CONTROL_CONNECTIONS_MAX, CONTROL_LINE_BYTES_MAX, RESPONSE_TIMEOUT_S

JsonObject = dict[str, Any]
Emit = Callable[[JsonObject], None]
Handler = Callable[[str, JsonObject, Emit], Awaitable[JsonObject]]

# sizeof(sockaddr_un.sun_path) without its NUL.
_PATH_BYTES_MAX: Final = 107
_PEER: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


class LocalServer:
    """Answers verbs on a Unix socket. For one event loop."""

    def __init__(self, path: Path, handler: Handler, *, response_s: float = RESPONSE_TIMEOUT_S) -> None:
        """Prepare to serve.

        Args:
            path: Where the socket stands; it is 0600, and a stale one is replaced.
            handler: Given verb, arguments and a way to send events, returns the result. Cancelled when the caller
                goes away. Only ``P2PSyncError`` is told to the caller as it is.
            response_s: How long a caller may take to send its request.
        """
        self._path = path
        self._handler = handler
        self._response_s = response_s
        self._server: asyncio.Server | None = None
        self._callers: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen.

        Raises:
            StoreLockedError: another process answers on this socket.
            StoreUnwritableError: the socket cannot be made.
        """
        try:
            sock = _listening(self._path)
        except OSError as error:
            raise StoreUnwritableError(f"cannot make {self._path}: {error.strerror}") from error
        self._server = await asyncio.start_unix_server(self._serve, sock=sock, limit=CONTROL_LINE_BYTES_MAX)

    async def stop(self) -> None:
        """Accept nothing more, cancel the running verbs, remove the socket."""
        if self._server is None:
            return
        self._server.close()
        callers = list(self._callers)
        for task in callers:
            task.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        with suppress(OSError):
            self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._callers.add(task)
            task.add_done_callback(self._callers.discard)
        try:
            own = _peer(writer.get_extra_info("socket"))[1] == os.geteuid()
            if own and len(self._callers) <= CONTROL_CONNECTIONS_MAX:
                writer.write(_line(await self._outcome(reader, writer)))
                async with asyncio.timeout(self._response_s):
                    await writer.drain()
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            writer.close()

    async def _outcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> JsonObject:
        """Run one verb; the last line that its caller gets."""
        try:
            async with asyncio.timeout(self._response_s):
                request = _parse(await reader.readline())
            verb, args = request.get("verb"), request.get("args")
            if not isinstance(verb, str) or not isinstance(args, dict):
                raise ValueError("a request has a verb and args")  # noqa: TRY004 - As for every other line.
        except TimeoutError:
            return {"error": _told(MalformedError("no request came"))}
        except ValueError as error:
            return {"error": _told(MalformedError(f"not a request: {error}"))}
        try:
            return {"result": await self._run(verb, args, reader, writer)}
        except P2PSyncError as error:
            return {"error": _told(error)}

    async def _run(
        self, verb: str, args: JsonObject, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> JsonObject:
        """The handler's result, unless the caller goes away first."""

        def emit(event: JsonObject) -> None:
            # A caller that does not read loses events, never the result; the verb goes on.
            if writer.transport.get_write_buffer_size() < CONTROL_LINE_BYTES_MAX:
                writer.write(_line({"event": event}))

        work = asyncio.ensure_future(self._handler(verb, args, emit))
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ConnectionResetError("the caller went away")
            return work.result()
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.wait([work, gone])


async def call(path: Path, verb: str, args: JsonObject, on_event: Emit) -> JsonObject:
    """Hand a verb to the process that listens on ``path`` and wait for its result, however long it takes.

    Raises:
        SourceUnreachableError: nobody listens there, or the process ended before it answered.
        RemoteProtocolError: what answers is not ours.
        P2PSyncError: the verb's own error, as if it had been raised here.
    """
    try:
        reader, writer = await _connected(path)
    except OSError as error:
        raise SourceUnreachableError(f"nobody answers on {path}: {error.strerror}") from error
    try:
        if _peer(writer.get_extra_info("socket"))[1] != os.geteuid():
            raise RemoteProtocolError(f"{path} is served by another user")
        writer.write(_line({"verb": verb, "args": args}))
        while True:
            answer = _parse(await reader.readline())
            if "event" in answer:
                on_event(answer["event"])
            elif "result" in answer:
                result: JsonObject = answer["result"]
                return result
            else:
                raise _heard(answer.get("error"))
    except P2PSyncError:
        # Some errors of verbs are a ValueError as well, and are passed on as they are.
        raise
    except (OSError, asyncio.IncompleteReadError) as error:
        raise SourceUnreachableError(f"the process behind {path} ended before it answered") from error
    except ValueError as error:
        raise RemoteProtocolError(f"{path} answered with what is not a line of JSON: {error}") from error
    finally:
        writer.close()


async def _connected(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(0.0)
        with _reachable(path) as name:
            await asyncio.get_running_loop().sock_connect(sock, name)
        return await asyncio.open_unix_connection(sock=sock, limit=CONTROL_LINE_BYTES_MAX)
    except BaseException:
        sock.close()
        raise


def _listening(path: Path) -> socket.socket:
    with _reachable(path) as name:
        _clear(path, name)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(name)
            # Nobody can connect before listen(), so there is no moment at which others could.
            os.chmod(path, 0o600)
            sock.listen()
        except BaseException:
            sock.close()
            raise
    sock.settimeout(0.0)
    return sock


def _clear(path: Path, name: str) -> None:
    """Remove the socket of a process that is gone."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise StoreUnwritableError(f"{path} is in the way and no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.0)
        try:
            probe.connect(name)
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pid = None  # Its backlog is full: somebody lives there.
        else:
            pid = _peer(probe)[0]
    raise StoreLockedError(f"another process (pid {pid}) already answers on {path}", pid=pid)


@contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """A name for ``path`` that fits into a socket address: through the folder's descriptor where it is long."""
    if len(os.fsencode(path)) <= _PATH_BYTES_MAX:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _peer(sock: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of the other side."""
    pid, uid, gid = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return pid, uid, gid


def _line(frame: JsonObject) -> bytes:
    # In ASCII: a path that is no UTF-8 reaches the other side as it is.
    return json.dumps(frame, separators=(",", ":")).encode() + b"\n"


def _parse(line: bytes) -> JsonObject:
    if not line.endswith(b"\n"):
        raise ConnectionResetError("the other side went away")
    try:
        frame = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(frame, dict):
        raise ValueError("not an object")  # noqa: TRY004 - Like every other line that is not a frame.
    return frame


def _told(error: P2PSyncError) -> JsonObject:
    """An error as its caller gets it: its class by code, its text, and the facts that are plain values."""
    facts = {
        name: value
        for name, value in vars(error).items()
        if name not in ("message", "hint") and isinstance(value, int | str | None)
    }
    return {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "exit_code": error.exit_code,
        "facts": facts,
    }


def _heard(told: Any) -> P2PSyncError:
    """The error that ``_told`` wrote down."""
    sound = isinstance(told, dict) and isinstance(told.get("message"), str)
    if not sound or not isinstance(told.get("hint"), str | None) or not isinstance(told.get("facts", {}), dict):
        return RemoteProtocolError("the answer is neither an event, a result nor an error")
    kind = next((kind for kind in _kinds(P2PSyncError) if _code(kind) == told.get("code")), P2PSyncError)
    error = kind.__new__(kind)
    P2PSyncError.__init__(error, told["message"], hint=told.get("hint"))
    for name, value in told.get("facts", {}).items():
        if name.isidentifier() and not name.startswith("_") and not hasattr(error, name):
            setattr(error, name, value)
    return error


def _kinds(kind: type[P2PSyncError]) -> Iterator[type[P2PSyncError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


def _code(kind: type[P2PSyncError]) -> str:
    return kind.__new__(kind).code
