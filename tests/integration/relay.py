"""What stands between a pull and a seed: a relay that counts and holds back, and a seed that answers as it is told."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

_READ_BYTES = 64 << 10


class Relay:
    """Passes bytes between clients and one seed.

    ``sent`` and ``received`` count bytes to and from clients, ``requests`` are (method, path) in order, and
    ``asked`` counts the requests for each chunk, or for its beginning, by its hex digest.
    """

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._seed = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"http://{self.address}"
        self.sent = 0
        self.received = 0
        self.requests: list[tuple[str, str]] = []
        self.asked: Counter[str] = Counter()
        self._lock = threading.Condition()
        self._budget: int | None = None
        self._waiting = 0
        self._closed = False
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def hold_after(self, count: int) -> None:
        """Let ``count`` more bytes through to clients, and then none until ``release``."""
        with self._lock:
            self._budget = count
            self._lock.notify_all()

    def release(self) -> None:
        """Let everything through."""
        with self._lock:
            self._budget = None
            self._lock.notify_all()

    @property
    def holding(self) -> bool:
        """Whether bytes wait here that may not go on."""
        with self._lock:
            return self._budget == 0 and self._waiting > 0

    def forget(self) -> None:
        """Count from nothing again."""
        self.sent = self.received = 0
        self.requests, self.asked = [], Counter()

    def close(self) -> None:
        """Cut every connection and listen no more."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        for each in [self._listener, *self._sockets]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                seed = socket.create_connection(self._seed)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._sockets |= {client, seed}
            self._start(self._up, client, seed)
            self._start(self._down, client, seed)

    def _up(self, client: socket.socket, seed: socket.socket) -> None:
        text = bytearray()
        with suppress(OSError):
            while data := client.recv(_READ_BYTES):
                self.received += len(data)
                text += data
                self._note(text)
                seed.sendall(data)
        with suppress(OSError):
            seed.shutdown(socket.SHUT_WR)

    def _down(self, client: socket.socket, seed: socket.socket) -> None:
        with suppress(OSError):
            while data := seed.recv(_READ_BYTES):
                while data:
                    allowed = self._allowance(len(data))
                    if not allowed:
                        break
                    client.sendall(data[:allowed])
                    self.sent += allowed
                    data = data[allowed:]
                if data:
                    break
        for each in (client, seed):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        with self._lock:
            self._sockets -= {client, seed}

    def _allowance(self, wanted: int) -> int:
        with self._lock:
            self._waiting += 1
            while self._budget == 0 and not self._closed:
                self._lock.wait()
            self._waiting -= 1
            if self._closed:
                return 0
            if self._budget is None:
                return wanted
            allowed = min(wanted, self._budget)
            self._budget -= allowed
            return allowed

    def _note(self, text: bytearray) -> None:
        """Take whole requests off the front of ``text``."""
        while (end := text.find(b"\r\n\r\n")) >= 0:
            first, *lines = text[:end].decode().split("\r\n")
            method, path, _ = first.split(" ")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            stop = end + 4 + int(headers.get("content-length", "0"))
            if len(text) < stop:
                return
            body = bytes(text[end + 4 : stop])
            del text[:stop]
            self.requests.append((method, path))
            # A chunk that comes in ranges is asked for by the first of them.
            if path.startswith("/v1/chunks/") and headers.get("range", "bytes=0-").startswith("bytes=0-"):
                self.asked[path.rpartition("/")[2]] += 1
            elif path == "/v1/chunks":
                self.asked.update(body[at : at + 32].hex() for at in range(0, len(body), 32))


class ScriptedSeed:
    """A seed of protocol 1 whose answers are given: a body for each path, 404 for every other."""

    def __init__(self, answers: Mapping[str, bytes]) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = answers.get(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("P2PSync-Protocol", "1")
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.address}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
