"""An origin tree in a folder, such as a mounted stick: reads files where ``http`` reads resources.

Reads run in threads. Where a medium hangs, the thread may still write into its buffer later: that buffer's memory is
abandoned, never used again.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

from p2psync.errors import (
    ModelNotFoundError,
    RemoteProtocolError,
    SourceTimeoutError,
    SourceUnreachableError,
    UsageError,
    WithdrawnError,
)
from p2psync.transport.buffers import BufferPool
from p2psync.transport.exchange import Exchange, Landed, Reply, name_of
from p2psync.transport.source import Timeouts, Wire

_T = TypeVar("_T")
# Never wait for the other end of a FIFO: what is not a regular file is refused after opening.
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


def parse_file_url(url: str) -> Path:
    """The folder that a ``file://`` URL names.

    Raises:
        UsageError: it names another host, or no absolute path.
    """
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise UsageError(f"not a file URL of this machine: {url[:200]!r}", hint="write file:///absolute/path")
    if not path.startswith("/") or "\0" in path:
        raise UsageError(f"not an absolute path: {url[:200]!r}", hint="write file:///absolute/path")
    return Path(path)


class FolderTree:
    """The files below one folder. Carries the same requests as ``Client``, for ``OriginSource``."""

    def __init__(self, url: str, timeouts: Timeouts, wire: Wire) -> None:
        self._url = url
        self._folder = parse_file_url(url)
        self._timeouts = timeouts
        self._wire = wire

    async def get(self, path: str, bytes_max: int, headers: Mapping[str, str] | None = None) -> Reply:
        """Read a file of at most ``bytes_max`` bytes. A file that is not there is a 404."""
        etag = (headers or {}).get("If-None-Match")
        return await self._run(path, bytes_max, partial(self._get, path, bytes_max, etag))

    async def get_range(self, path: str, first: int, length: int) -> bytes | None:
        """Exactly those bytes of a file; None where it is not there."""
        data = bytearray(length)
        try:
            await self._run(path, length, partial(self._read_at, path, first, memoryview(data)))
        except WithdrawnError:
            return None
        return bytes(data)

    async def fetch(self, exchanges: Sequence[Exchange], pool: BufferPool) -> AsyncGenerator[Landed]:
        """Read every segment, in order. Only range requests have a meaning here."""
        for exchange in exchanges:
            place = exchange.first or 0
            for segment in exchange.segments:
                buffer = await pool.acquire()
                read = partial(self._read_at, exchange.path, place, buffer.view(segment.length))
                try:
                    await self._run(exchange.path, segment.length, read)
                except WithdrawnError as error:
                    buffer.release()
                    raise WithdrawnError(f"{self._url} no longer has {name_of(exchange)}") from error
                except BaseException:
                    buffer.abandon()
                    raise
                place += segment.length
                if exchange.meter is not None:
                    exchange.meter.received += segment.length
                yield Landed(segment, buffer, segment.length)

    async def close(self) -> None:
        """Nothing stays open between reads."""

    async def _run(self, path: str, length: int, read: Callable[[], _T]) -> _T:
        try:
            async with asyncio.timeout(self._timeouts.total_s(length)):
                return await asyncio.to_thread(read)
        except TimeoutError as error:
            raise SourceTimeoutError(f"{self._url} did not give {path} in time") from error
        except FileNotFoundError as error:
            raise WithdrawnError(f"{self._url} has no {path}") from error
        except OSError as error:
            raise SourceUnreachableError(f"{self._url} cannot read {path}: {error.strerror}") from error

    def _get(self, path: str, bytes_max: int, etag: str | None) -> Reply:
        if not self._folder.is_dir():
            raise ModelNotFoundError(f"there is no origin tree at {self._url}", hint="is the medium mounted?")
        try:
            handle = self._open(path)
        except (FileNotFoundError, NotADirectoryError):
            return Reply(404, b"", None, None)
        try:
            facts = os.fstat(handle)
            own = f'"{facts.st_mtime_ns:x}-{facts.st_size:x}"'
            if etag == own:
                return Reply(304, b"", own, None)
            if facts.st_size > bytes_max:
                raise RemoteProtocolError(f"{self._url}/{path} has {facts.st_size} bytes, at most {bytes_max} are due")
            with os.fdopen(os.dup(handle), "rb") as file:
                body = file.read(bytes_max)
        finally:
            os.close(handle)
        self._wire.received += len(body)
        return Reply(200, body, own, None)

    def _read_at(self, path: str, first: int, view: memoryview) -> None:
        handle = self._open(path)
        try:
            place = 0
            while place < len(view):
                count = os.preadv(handle, [view[place:]], first + place)
                if not count:
                    raise RemoteProtocolError(f"{self._url}/{path} ends before byte {first + len(view)}")
                place += count
        finally:
            os.close(handle)
        self._wire.received += len(view)

    def _open(self, path: str) -> int:
        handle = os.open(self._folder / path, _OPEN_FLAGS)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise RemoteProtocolError(f"{self._url}/{path} is not a regular file")
        return handle
