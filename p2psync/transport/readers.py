"""Readers that sleep: how the server notices that nobody takes what it sends.

What a reader takes is what its kernel acknowledged (TCP_INFO): no buffer between the two ends hides it, and a fast
reader costs nothing.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

# Linux' struct tcp_info: the acknowledged bytes are the 64 bits at offset 120 (since 4.1).
_TCP_INFO_BYTES: Final = 128
_ACKED: Final = struct.Struct("@Q")
_ACKED_OFFSET: Final = 120


@dataclass(slots=True)
class _Send:
    """A send that is under way, and what was acknowledged when its current window began."""

    sock: socket.socket
    deadline_s: float
    mark: int = -1
    mark_s: float = 0.0


class ReaderWatch:
    """Cuts off readers that take less than a lowest rate over a window.

    One timer looks at all sends that last longer than a tick; a fast one costs nothing.
    """

    def __init__(self, timeout_s: float, rate_min_bytes_per_s: float) -> None:
        self._timeout_s = timeout_s
        self._rate_min_bytes_per_s = rate_min_bytes_per_s
        self._sends: dict[asyncio.Timeout, _Send] = {}
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def sending(self, transport: asyncio.Transport, length: int) -> AsyncIterator[None]:
        """Send up to ``length`` bytes within this.

        Raises:
            TimeoutError: the reader was too slow. The transport must be aborted.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._timeout_s + length / self._rate_min_bytes_per_s
        async with asyncio.timeout(None) as scope:
            self._sends[scope] = _Send(transport.get_extra_info("socket"), deadline_s)
            if self._timer is None:
                self._timer = loop.call_later(self._timeout_s / 4, self._look)
            try:
                yield
            finally:
                self._sends.pop(scope, None)

    def flows(self) -> dict[int, tuple[str, int]]:
        """Each connection that something is being sent on: its number, the reader's address, bytes acknowledged."""
        flows = {}
        for send in self._sends.values():
            with suppress(OSError):
                address = str(send.sock.getpeername()[0]).partition("%")[0].removeprefix("::ffff:")
                flows[send.sock.fileno()] = (address, _acknowledged(send.sock))
        return flows

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for scope, send in list(self._sends.items()):
            if self._is_too_slow(send, now_s):
                del self._sends[scope]
                scope.reschedule(now_s)
        self._timer = loop.call_later(self._timeout_s / 4, self._look) if self._sends else None

    def _is_too_slow(self, send: _Send, now_s: float) -> bool:
        acked = _acknowledged(send.sock)
        if send.mark < 0:
            send.mark, send.mark_s = acked, now_s
        elif now_s - send.mark_s >= self._timeout_s:
            if acked - send.mark < self._rate_min_bytes_per_s * self._timeout_s:
                return True
            send.mark, send.mark_s = acked, now_s
        return send.deadline_s <= now_s


def _acknowledged(sock: socket.socket) -> int:
    """Bytes that the other side's kernel has acknowledged on a connection.

    Where the kernel does not say, the clock: every reader then seems fast enough and only the deadline counts.
    """
    option = getattr(socket, "TCP_INFO", None)
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, option, _TCP_INFO_BYTES) if option is not None else b""
    except OSError:
        info = b""
    if len(info) < _ACKED_OFFSET + _ACKED.size:
        return time.monotonic_ns()
    acked: int = _ACKED.unpack_from(info, _ACKED_OFFSET)[0]
    return acked
