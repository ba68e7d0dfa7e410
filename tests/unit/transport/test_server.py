"""What the server answers to askers who mean well."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import p2psync
from p2psync.content import Digest
from p2psync.errors import NetworkError, StoreError
from p2psync.limits import BATCH_BYTES_MAX, CHUNK_BYTES, HEAD_BYTES_MAX, KIB
from p2psync.transport import BufferPool, Server, SourceKind, connect
from tests.library import FolderLibrary, Version, make_version

ABSENT, LATER = 0xFFFF_FFFF, 0xFFFF_FFFE


@asynccontextmanager
async def serving(
    tmp_path: Path, sizes: list[int], **options: object
) -> AsyncIterator[tuple[Server, str, FolderLibrary, Version]]:
    library = FolderLibrary(tmp_path)
    version = make_version(sizes)
    library.add(version)
    server = Server(library, node_id="abc", site="hall 3", **options)  # type: ignore[arg-type]
    try:
        yield server, await server.start("127.0.0.1", 0), library, version
    finally:
        await server.stop(1.0)
        library.close()


async def ask(url: str, request: bytes) -> tuple[bytes, bytes]:
    """Send one request on a connection of its own; (head, body) of the answer."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "\r\n"]).encode()


def post(path: str, digests: list[Digest]) -> bytes:
    body = b"".join(digests)
    head = [f"POST {path} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(body)}", "\r\n"]
    return "\r\n".join(head).encode() + body


async def test_node_says_who_it_is(tmp_path: Path) -> None:
    """The server names its protocol, node, site and software."""
    async with serving(tmp_path, [10]) as (_, url, _, _):
        head, body = await ask(url, get("/v1/node"))
        about = json.loads(body)
        assert b"P2PSync-Protocol: 1" in head
        assert (about["protocol"], about["node"], about["site"]) == (1, "abc", "hall 3")
        assert about["software"] == f"p2psync/{p2psync.__version__}"


async def test_head_has_a_strong_etag(tmp_path: Path) -> None:
    """A head's etag is a function of its bytes, strong, and understood in every way that a cache may send it."""
    async with serving(tmp_path, [10]) as (_, url, library, version):
        path = "/v1/heads/acme/model/tags/latest"
        head, body = await ask(url, get(path))
        assert body == version.envelope
        assert b"Content-Type: application/json" in head
        etag = head.split(b"ETag: ")[1].split(b"\r\n")[0].decode()
        assert etag.startswith('"')
        for value in (etag, f'"other", {etag}', f"W/{etag}", "*"):
            again, nothing = await ask(url, get(path, f"If-None-Match: {value}"))
            assert again.startswith(b"HTTP/1.1 304 ")
            assert nothing == b""
            assert etag.encode() in again
        library.heads["acme/model", "latest"] = b"{}"
        changed, body = await ask(url, get(path, f"If-None-Match: {etag}"))
        assert changed.startswith(b"HTTP/1.1 200 ")
        assert body == b"{}"


async def test_names_that_contain_the_words_of_the_path(tmp_path: Path) -> None:
    """The last two parts of a path are the selector, whatever the name before them contains."""
    async with serving(tmp_path, [10]) as (_, url, library, version):
        await ask(url, get(f"/v1/heads/acme/model/digests/{version.root.hex()}"))
        await ask(url, get("/v1/heads/acme/heads/x/tags/v1"))
        assert library.asked == [("acme/model", str(version.root)), ("acme/heads/x", "v1")]


async def test_resources_by_digest(tmp_path: Path) -> None:
    """Nodes, chunks and inventories are found by their digests."""
    async with serving(tmp_path, [10, CHUNK_BYTES]) as (_, url, _, version):
        for digest, node in version.nodes.items():
            assert (await ask(url, get(f"/v1/nodes/{digest.hex()}")))[1] == node
        for chunk in version.chunks:
            assert (await ask(url, get(f"/v1/chunks/{chunk.digest.hex()}")))[1] == version.bytes_of(chunk)
        assert (await ask(url, get(f"/v1/have/{version.root.hex()}")))[1] == b"\x03"


async def test_batch_answers_what_is_here_and_what_is_not(tmp_path: Path) -> None:
    """Each digest of a batch gets its frame, in order; an absent one says so."""
    async with serving(tmp_path, [10, 200_000, 3]) as (_, url, _, version):
        unknown = Digest.of(b"?")
        asked = [version.chunks[1], version.chunks[0], version.chunks[1]]
        _, body = await ask(url, post("/v1/chunks", [unknown, *(chunk.digest for chunk in asked), unknown]))
        frames = b"".join(struct.pack("<I", chunk.length) + version.bytes_of(chunk) for chunk in asked)
        assert body == struct.pack("<I", ABSENT) + frames + struct.pack("<I", ABSENT)


async def test_what_cannot_be_read_now_is_asked_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that cannot answer is no store without it: 503, and nothing of this machine's paths."""
    async with serving(tmp_path, [CHUNK_BYTES]) as (_, url, library, version):
        (chunk,) = version.chunks

        def refuse(*_: object) -> None:
            raise StoreError("/srv/secret: Too many open files")

        with monkeypatch.context() as patch:
            for call in ("locate", "node"):
                patch.setattr(library, call, refuse)
            for request in (
                get(f"/v1/chunks/{chunk.digest.hex()}"),
                get(f"/v1/nodes/{version.root.hex()}"),
                post("/v1/chunks", [chunk.digest]),
                post("/v1/nodes", [version.root]),
            ):
                head, body = await ask(url, request)
                assert head.startswith(b"HTTP/1.1 503 ")
                assert b"Retry-After: 1" in head
                assert body == b"not now\n"
        head, body = await ask(url, get(f"/v1/chunks/{chunk.digest.hex()}"))
        assert body == version.bytes_of(chunk)


async def test_what_cannot_be_read_any_more_breaks_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths of a batch were said, and then the store cannot answer: the connection ends, and no second head comes."""
    async with serving(tmp_path, [KIB]) as (_, url, library, version):
        (chunk,) = version.chunks
        locate, calls = library.locate, []

        def once(digest: Digest) -> object:
            calls.append(digest)
            if len(calls) > 1:
                raise StoreError("Too many open files")
            return locate(digest)

        monkeypatch.setattr(library, "locate", once)
        head, body = await ask(url, post("/v1/chunks", [chunk.digest]))
        assert head.startswith(b"HTTP/1.1 200 ")
        assert body == b""


async def test_nodes_beyond_the_cap_come_later(tmp_path: Path) -> None:
    """A batch of nodes that is too long is answered in parts, at least one node each; the asker gets all of them."""
    async with serving(tmp_path, [10]) as (_, url, library, _):
        bodies = [bytes([number]) * size for number, size in enumerate([10, BATCH_BYTES_MAX, BATCH_BYTES_MAX + 5, 10])]
        digests = [Digest.of(body) for body in bodies]
        library.nodes.update(zip(digests, bodies, strict=True))
        _, body = await ask(url, post("/v1/nodes", digests[1:]))
        lengths = struct.unpack("<I", body[:4]) + struct.unpack("<II", body[-8:])
        assert lengths == (BATCH_BYTES_MAX, LATER, LATER)
        source = connect(url, SourceKind.LAN)
        assert await source.nodes([*digests, Digest.of(b"?")]) == dict(zip(digests, bodies, strict=True))
        await source.close()


async def test_nothing_changed_costs_less_than_a_kibibyte(tmp_path: Path) -> None:
    """Asking for a head that is known is one request of at most 1 KiB in both directions, counted on the socket."""
    async with serving(tmp_path, [10]) as (_, url, library, _):
        name, tag = "a" * 47 + "/" + "b" * 48, "t" * 64
        library.heads[name, tag] = bytes(HEAD_BYTES_MAX)
        crossed = 0

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal crossed
            while data := await reader.read(1 << 16):
                crossed += len(data)
                writer.write(data)
            writer.close()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            await asyncio.gather(relay(reader, far_writer), relay(far_reader, writer))

        counter = await asyncio.start_server(accept, "127.0.0.1", 0)
        source = connect(f"http://127.0.0.1:{counter.sockets[0].getsockname()[1]}", SourceKind.LAN)
        etag = (await source.head(name, tag)).etag
        crossed = 0
        before = source.wire.received + source.wire.sent
        reply = await source.head(name, tag, etag)
        assert reply.envelope is None
        assert 0 < crossed <= KIB
        assert source.wire.received + source.wire.sent - before == crossed
        await source.close()
        counter.close()
        await asyncio.sleep(0.05)


async def test_sent_bytes_are_told_by_reader(tmp_path: Path) -> None:
    """The owner learns how many body bytes went to whom."""
    told: list[tuple[str, int]] = []
    async with serving(tmp_path, [10, CHUNK_BYTES], on_sent=lambda *fact: told.append(fact)) as (_, url, _, version):
        for chunk in version.chunks:
            await ask(url, get(f"/v1/chunks/{chunk.digest.hex()}"))
        _, body = await ask(url, post("/v1/chunks", [version.chunks[0].digest]))
        assert told == [("127.0.0.1", 10), ("127.0.0.1", CHUNK_BYTES), ("127.0.0.1", len(body))]


@pytest.mark.parametrize("waits_s", [[0.0], [0.3], [0.001, 0.0, 0.3]])
async def test_upload_limit_sees_every_byte(tmp_path: Path, waits_s: list[float], monkeypatch) -> None:
    """Every body byte is announced to the upload limit before it is sent, in slices that adapt to the waits."""
    announced: list[int] = []
    slept: list[float] = []
    sleep = asyncio.sleep

    def pace(_address: str, count: int) -> float:
        announced.append(count)
        return waits_s[len(announced) % len(waits_s)]

    async def nap(delay_s: float) -> None:
        slept.append(delay_s)
        await sleep(0)

    monkeypatch.setattr("p2psync.transport.sending.asyncio.sleep", nap)
    size = 300_000
    async with serving(tmp_path, [size, 50_000], pace=pace) as (_, url, _, version):
        _, body = await ask(url, get(f"/v1/chunks/{version.chunks[0].digest.hex()}"))
        assert body == version.data[:size]
        assert sum(announced) == size
        _, body = await ask(url, post("/v1/chunks", [version.chunks[1].digest]))
        assert sum(announced) == size + len(body)
    if waits_s == [0.0]:
        assert len(announced) < 20
        assert slept == []
    if waits_s == [0.3]:
        assert max(announced) == 4 * KIB


async def test_listens_where_it_is_told(tmp_path: Path) -> None:
    """IPv6 URLs have brackets; an empty host means every interface, on one port; a taken port is an error."""
    library = FolderLibrary(tmp_path)
    servers = [Server(library, node_id="n") for _ in range(3)]
    six = await servers[0].start("::1", 0)
    assert six.startswith("http://[::1]:")
    assert (await ask(six, get("/v1/node")))[0].startswith(b"HTTP/1.1 200 ")
    everywhere = await servers[1].start("", 0)
    port = int(everywhere.rpartition(":")[2])
    for host in ("127.0.0.1", "[::1]"):
        assert (await ask(f"http://{host}:{port}", get("/v1/node")))[0].startswith(b"HTTP/1.1 200 ")
    with pytest.raises(NetworkError, match="cannot listen"):
        await servers[2].start("127.0.0.1", port)
    with pytest.raises(NetworkError, match="cannot listen"):
        await servers[2].start("203.0.113.1", 0)
    for server in servers:
        await server.stop(0.1)


async def test_chunks_over_ipv6(tmp_path: Path) -> None:
    """A source is reached by an IPv6 URL on both ways of carrying bytes."""
    library = FolderLibrary(tmp_path)
    version = make_version([CHUNK_BYTES, 10])
    library.add(version)
    server = Server(library, node_id="n")
    url = await server.start("::1", 0)
    for fast in (True, False):
        source = connect(url, SourceKind.LAN, fast=fast)
        async for chunk, buffer in source.chunks(version.chunks, BufferPool(2)):
            assert bytes(buffer.view(chunk.length)) == version.bytes_of(chunk)
            buffer.release()
        await source.close()
    await server.stop(1.0)
    library.close()


def link_local() -> str | None:
    """An IPv6 address of this machine that needs its interface's name, as a URL's host."""
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        address, _, _, scope, flags, interface = line.split()
        if scope == "20" and flags == "80":
            return f"{socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address))}%25{interface}"
    return None


async def test_chunks_over_a_link_local_address(tmp_path: Path) -> None:
    """A node is reached by an address that only means something on one interface."""
    host = link_local()
    if host is None:
        pytest.skip("no link-local IPv6 address here")
    library = FolderLibrary(tmp_path)
    version = make_version([CHUNK_BYTES, 10])
    library.add(version)
    server = Server(library, node_id="n")
    port = (await server.start("", 0)).rpartition(":")[2]
    for fast in (True, False):
        source = connect(f"http://[{host}]:{port}", SourceKind.LAN, fast=fast)
        assert (await source.head("acme/model", "latest")).envelope == version.envelope
        async for chunk, buffer in source.chunks(version.chunks, BufferPool(2)):
            assert bytes(buffer.view(chunk.length)) == version.bytes_of(chunk)
            buffer.release()
        await source.close()
    await server.stop(1.0)
    library.close()
