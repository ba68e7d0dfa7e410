"""What honest sources answer: the truth that a liar wraps."""

from __future__ import annotations

import http.client
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from p2psync.content import DIGEST_BYTES, Digest
from p2psync.transport import Library

ABSENT = b"\xff\xff\xff\xff"


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def head(self, **changed: str | None) -> bytes:
        """The bytes of a head. A header that is changed to None is left out."""
        headers = {"Content-Length": str(len(self.body)), **self.headers}
        headers |= {name.replace("_", "-"): value for name, value in changed.items() if value is not None}
        dropped = [name.replace("_", "-") for name, value in changed.items() if value is None]
        lines = [f"{name}: {value}" for name, value in headers.items() if name not in dropped]
        return "\r\n".join([f"HTTP/1.1 {self.status} Whatever", *lines, "\r\n"]).encode()


class Answers(Protocol):
    def __call__(self, request: Request) -> Answer: ...


class PeerAnswers:
    """What an honest peer answers."""

    def __init__(self, library: Library) -> None:
        self.library = library

    def __call__(self, request: Request) -> Answer:
        _, _, resource, *rest = request.path.split("/")
        spoken = {"P2PSync-Protocol": "1"}
        if resource == "node":
            return Answer(200, b"{}", spoken)
        if resource == "heads":
            name, selector = "/".join(rest[:-2]), rest[-1] if rest[-2] == "tags" else f"b3:{rest[-1]}"
            envelope = self.library.head(name, selector)
            return Answer(404, b"", spoken) if envelope is None else Answer(200, envelope, {**spoken, "ETag": '"e"'})
        reads = {"nodes": self.library.node, "have": self.library.inventory, "chunks": self.chunk}
        if resource not in reads:
            return Answer(404)
        read = reads[resource]
        if request.method == "POST":
            digests = [request.body[at : at + DIGEST_BYTES] for at in range(0, len(request.body), DIGEST_BYTES)]
            bodies = [read(Digest(raw)) for raw in digests]
            return Answer(
                200, b"".join(ABSENT if body is None else struct.pack("<I", len(body)) + body for body in bodies)
            )
        body = read(Digest(bytes.fromhex(rest[0])))
        return Answer(404) if body is None else in_part(request, body, {})

    def chunk(self, digest: Digest) -> bytes | None:
        located = self.library.locate(digest)
        if located is None:
            return None
        try:
            return os.pread(located.fd, located.length, located.offset)
        finally:
            located.release()


class TreeAnswers:
    """What an honest web server answers for an origin tree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, request: Request) -> Answer:
        path = self.folder / request.path.lstrip("/")
        if not path.is_file():
            return Answer(404)
        body = path.read_bytes()
        return in_part(request, body, {"ETag": '"e"'})


def in_part(request: Request, body: bytes, headers: dict[str, str]) -> Answer:
    """All of a body, or the range of it that was asked for."""
    if "range" not in request.headers:
        return Answer(200, body, headers)
    first, last = (int(text) for text in request.headers["range"].removeprefix("bytes=").split("-"))
    return Answer(206, body[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(body)}"})


class SeedAnswers:
    """What a real seed answers, asked for each request and remembered."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._known: dict[tuple[str, str, bytes], Answer] = {}

    def __call__(self, request: Request) -> Answer:
        key = (request.method, request.path, request.body)
        if key not in self._known:
            connection = http.client.HTTPConnection(self._address, timeout=30)
            connection.request(request.method, request.path, request.body or None)
            reply = connection.getresponse()
            kept = {name: value for name, value in reply.getheaders() if name in ("ETag", "P2PSync-Protocol")}
            self._known[key] = Answer(reply.status, reply.read(), kept)
            connection.close()
        known = self._known[key]
        return in_part(request, known.body, known.headers) if known.status == 200 else known
