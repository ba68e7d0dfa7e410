"""A TCP relay on loopback that counts: connections, HTTP requests, and bytes in both directions."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit

_REQUEST = b" HTTP/1.1\r\n"


class CountingProxy:
    """Relays to ``target``, an http URL; ``url`` reaches the same through here. A context manager."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}{parts.path}"
        self._lock = threading.Lock()
        self.connections = 0
        self.requests = 0
        self.bytes_asked = 0
        self.bytes_answered = 0
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        # shutdown() wakes the accept; close() alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection(self._target)
            self._start(self._relay, client, server, self._asked)
            self._start(self._relay, server, client, self._answered)

    def _asked(self, data: bytes) -> None:
        self.bytes_asked += len(data)
        self.requests += data.count(_REQUEST)

    def _answered(self, data: bytes) -> None:
        self.bytes_answered += len(data)

    def _relay(self, source: socket.socket, sink: socket.socket, count: Callable[[bytes], None]) -> None:
        try:
            while data := source.recv(1 << 16):
                with self._lock:
                    count(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            # One end is gone; the other learns it by its own read.
            sink.close()
