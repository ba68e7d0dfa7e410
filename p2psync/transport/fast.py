"""Bulk receiving over plain HTTP/1.1: lanes over kept connections, several requests ahead of their answers.

A lane leases one connection and keeps a few requests on it, so that it never idles a round trip. A server may close
a connection between two answers (they do so after some number of requests, or after a pause): what was not answered
is asked again on a new one. A break anywhere else is the source's fault.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from p2psync.errors import SourceUnreachableError
from p2psync.limits import PIPELINE_REQUESTS_MAX
from p2psync.transport.buffers import BufferPool
from p2psync.transport.connection import Connection
from p2psync.transport.endpoint import Endpoint
from p2psync.transport.exchange import Exchange, Landed
from p2psync.transport.source import Timeouts, Wire


class FastFetcher:
    """Lanes to one endpoint. For one event loop."""

    def __init__(self, endpoint: Endpoint, timeouts: Timeouts, wire: Wire) -> None:
        self._endpoint = endpoint
        self._timeouts = timeouts
        self._wire = wire
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._closed = False

    async def fetch(self, exchanges: Sequence[Exchange], pool: BufferPool) -> AsyncGenerator[Landed]:
        """Run the exchanges on one connection, pipelined, and yield each segment in order."""
        unanswered = deque(exchanges)
        while unanswered:
            connection = await self._lease(pool)
            try:
                async with aclosing(_drive(connection, unanswered, pool)) as landings:
                    async for landed in landings:
                        yield landed
            finally:
                self._return(connection)
            # Each turn of this loop uses up an answer or a kept connection, so it ends.
            if unanswered and not (connection.broke_between_answers and connection.answered):
                raise connection.fault()

    async def close(self) -> None:
        """Break every connection."""
        self._closed = True
        for connection in [*self._idle, *self._busy]:
            connection.abort()
        self._idle.clear()

    async def _lease(self, pool: BufferPool) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                connection.pool = pool
                break
        else:
            connection = await self._connect(pool)
        self._busy.add(connection)
        return connection

    def _return(self, connection: Connection) -> None:
        self._busy.discard(connection)
        if connection.usable:
            self._idle.append(connection)
        else:
            connection.abort()

    async def _connect(self, pool: BufferPool) -> Connection:
        endpoint = self._endpoint
        if self._closed:
            raise SourceUnreachableError(f"the connection to {endpoint.url} was closed")
        try:
            async with asyncio.timeout(self._timeouts.connect_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(endpoint, self._timeouts, self._wire, pool),
                    endpoint.host,
                    endpoint.port,
                    happy_eyeballs_delay=endpoint.eyeballs_s,
                )
        except TimeoutError as error:
            raise SourceUnreachableError(f"{endpoint.url} did not connect in {self._timeouts.connect_s:g} s") from error
        except (OSError, UnicodeError) as error:
            raise SourceUnreachableError(f"{endpoint.url} cannot be reached: {error}") from error
        return connection


async def _drive(connection: Connection, unanswered: deque[Exchange], pool: BufferPool) -> AsyncGenerator[Landed]:
    """Ask, land and yield until all is answered or the connection fails. Removes what was answered in full."""
    asked = 0
    taken = 0
    while unanswered:
        while asked < min(len(unanswered), PIPELINE_REQUESTS_MAX) and connection.error is None:
            connection.ask(unanswered[asked])
            asked += 1
        if connection.landed:
            landed = connection.landed.popleft()
            connection.proceed()
            taken += 1
            if taken == len(unanswered[0].segments):
                unanswered.popleft()
                asked -= 1
                taken = 0
            yield landed
        elif connection.error is not None:
            return
        elif connection.starved:
            connection.feed(await pool.acquire())
        else:
            await connection.wait()
