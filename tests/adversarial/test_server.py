"""What askers may try with a server: it goes on serving the others, and never says what it should not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from p2psync.content import Digest
from p2psync.limits import BATCH_BYTES_MAX, BATCH_DIGESTS_MAX, CHUNK_BYTES, CONNECTIONS_PER_ADDRESS_MAX
from p2psync.transport import BufferPool, ServeLimits, Server, SourceKind, connect
from tests.library import FolderLibrary, Version, make_version

HASTE = ServeLimits(idle_s=0.4, timeout_s=0.4, rate_min_bytes_per_s=256 * 1024)
PATIENCE_S = 30.0
# More than the kernel's buffers of both ends hold, so that a reader who sleeps stops the sender.
BIG = [CHUNK_BYTES] * 24


@dataclass
class Served:
    """A running server and raw connections to it."""

    server: Server
    url: str
    library: FolderLibrary
    version: Version

    async def dial(self, *, address: str | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self.url)
        local = (address, 0) if address else None
        return await asyncio.open_connection(parts.hostname, parts.port, local_addr=local)

    async def say(self, data: bytes) -> bytes:
        """Send bytes and read until the server ends the connection."""
        reader, writer = await self.dial()
        writer.write(data)
        return await until_end(reader, writer)

    async def is_well(self) -> bool:
        """Another asker gets a chunk."""
        source = connect(self.url, SourceKind.LAN)
        try:
            async for chunk, buffer in source.chunks(self.version.chunks[:1], BufferPool(1)):
                good = Digest.of(buffer.view(chunk.length)) == chunk.digest
                buffer.release()
            return good
        finally:
            await source.close()


async def until_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    data = b""
    try:
        while part := await reader.read(1 << 16):
            data += part
    except ConnectionError:
        pass
    finally:
        writer.close()
    return data


@asynccontextmanager
async def serving(
    folder: Path, sizes: list[int], allowed: ServeLimits | None = None, **options: Callable[..., object]
) -> AsyncIterator[Served]:
    library = FolderLibrary(folder)
    version = make_version(sizes)
    library.add(version)
    server = Server(library, node_id="n1", site="s", allowed=allowed, **options)
    async with asyncio.timeout(PATIENCE_S):
        url = await server.start("127.0.0.1", 0)
        try:
            yield Served(server, url, library, version)
            for _ in range(200):  # What was cut off lets go of its file in the turns that follow.
                if not library.held:
                    break
                await asyncio.sleep(0.01)
            assert library.held == 0
        finally:
            await server.stop(0.2)
            library.close()


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "\r\n"]).encode()


def chunk_paths(version: Version) -> list[str]:
    return [f"/v1/chunks/{chunk.digest.hex()}" for chunk in version.chunks]


async def test_sleeping_reader_is_cut_off(tmp_path: Path) -> None:
    """Who asks for many chunks and reads none is cut off, and holds no file any longer."""
    async with serving(tmp_path, BIG, HASTE) as served:
        reader, writer = await served.dial()
        writer.write(b"".join(get(path) for path in chunk_paths(served.version)))
        assert await served.is_well()
        while served.library.held == 0:
            await asyncio.sleep(0.01)
        while served.library.held:
            await asyncio.sleep(0.02)
        data = await until_end(reader, writer)
        assert len(data) < sum(BIG)


async def test_sleeping_reader_of_a_batch_is_cut_off(tmp_path: Path) -> None:
    """The same for batches, whose bytes go through memory."""
    sizes = [200_000] * 20
    async with serving(tmp_path, sizes, HASTE) as served:
        reader, writer = await served.dial()
        body = b"".join(chunk.digest for chunk in served.version.chunks)
        ask = get("/v1/chunks", f"Content-Length: {len(body)}", method="POST") + body
        writer.write(ask * 8)
        await asyncio.sleep(1.2)
        data = await until_end(reader, writer)
        assert len(data) < 8 * sum(sizes)
        assert await served.is_well()


async def test_steady_reader_is_kept(tmp_path: Path) -> None:
    """A reader that is slow but above the lowest rate gets everything, however full the buffers between are."""
    async with serving(tmp_path, BIG, ServeLimits(timeout_s=0.5, rate_min_bytes_per_s=1024)) as served:
        reader, writer = await served.dial()
        writer.write(b"".join(get(path) for path in chunk_paths(served.version)))
        got = 0
        while got < sum(BIG):
            got += len(await reader.read(1 << 18))
            await asyncio.sleep(0.02)
        writer.close()
        assert got >= sum(BIG)


@pytest.mark.parametrize("begin", [b"", b"GET /v1/no", b"GET /v1/node HTTP/1.1\r\nHost: x\r\nX-More: "])
async def test_silent_asker_is_sent_home(tmp_path: Path, begin: bytes) -> None:
    """Who connects and does not finish a request is sent home."""
    async with serving(tmp_path, [10], HASTE) as served:
        assert await served.say(begin) == b""
        assert await served.is_well()


async def test_dribbled_head_is_sent_home(tmp_path: Path) -> None:
    """A request head that comes byte by byte does not live longer than one that stops."""
    async with serving(tmp_path, [10], HASTE) as served:
        reader, writer = await served.dial()
        try:
            for byte in get("/v1/node", "X-More: " + "a" * 4000):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.02)
                if reader.at_eof():
                    break
            else:
                pytest.fail("the server took the whole head")
        except ConnectionError:
            pass
        writer.close()
        assert await served.is_well()


async def test_slow_body_is_refused(tmp_path: Path) -> None:
    """A batch whose digests do not come is answered with 408 and the connection ends."""
    async with serving(tmp_path, [10], HASTE) as served:
        answer = await served.say(get("/v1/chunks", "Content-Length: 64", method="POST") + b"x" * 10)
        assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ([f"Content-Length: {BATCH_DIGESTS_MAX * 32 + 32}"], b"", 413),
        ([f"Content-Length: {10**15}"], b"", 413),
        ([], b"", 411),
        (["Transfer-Encoding: chunked"], b"20\r\n" + b"a" * 32 + b"\r\n0\r\n\r\n", 411),
        (["Content-Length: 0"], b"", 400),
        (["Content-Length: 31"], b"a" * 31, 400),
        (["Content-Length: -1"], b"", 400),
        (["Content-Length: 32", "Content-Length: 33"], b"a" * 33, 400),
    ],
)
@pytest.mark.parametrize("resource", ["nodes", "chunks"])
async def test_batch_that_is_none_is_refused(
    tmp_path: Path, resource: str, headers: list[str], body: bytes, status: int
) -> None:
    """A batch must have a length, whole digests, and not too many of them."""
    async with serving(tmp_path, [10], HASTE) as served:
        answer = await served.say(get(f"/v1/{resource}", *headers, method="POST") + body)
        assert answer.split(b" ")[1] == str(status).encode()
        assert await served.is_well()


async def test_batch_over_the_cap_is_refused(tmp_path: Path) -> None:
    """A batch of chunks that would be answered with more than the cap is refused before a byte of it is read."""
    async with serving(tmp_path, [CHUNK_BYTES] * 2, HASTE) as served:
        body = served.version.chunks[0].digest * (BATCH_BYTES_MAX // CHUNK_BYTES + 1)
        ask = get("/v1/chunks", f"Content-Length: {len(body)}", "Connection: close", method="POST") + body
        answer = await served.say(ask)
        assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/../etc/passwd",
        "/v1/chunks/../../etc/passwd",
        "/v1/heads/acme/../../x/tags/latest",
        "/v1/heads/../x/tags/latest",
        "/v1/heads/acme/%2e%2e/tags/latest",
        "/v1/heads/acme%2fmodel/tags/latest",
        "/v1/heads/acme/model/tags/../latest",
        "/v1/heads/acme/model/tags/.latest",
        "/v1/heads//acme/model/tags/latest",
        "/v1/heads/acme/tags/latest",
        "/v1/heads/a/b/c/d/e/tags/latest",
        "/v1/heads/acme/model/digests/xyz",
        "/v1/heads/acme/mod\x7fel/tags/latest",
        "/v1/chunks/" + "A" * 64,
        "/v1/chunks/" + "0" * 63,
        "/v1/chunks/" + "0" * 64 + "/",
        "/v1/chunks/" + "0" * 64 + "?x=1",
        "/v1/have/" + "0" * 64,
        "/v1/nodes/" + "0" * 64,
        "http://elsewhere/v1/node",
        "/" + "a" * 6000,
    ],
)
async def test_path_that_is_no_resource_is_not_found(tmp_path: Path, path: str) -> None:
    """Whatever is not exactly a resource is not there, and never reaches the library as a name."""
    async with serving(tmp_path, [10], HASTE) as served:
        answer = await served.say(get(path, "Connection: close"))
        assert answer.split(b" ")[1] in (b"404", b"400")
        assert served.library.asked == []
        assert b"root:" not in answer


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "HEAD"])
async def test_nothing_can_be_written(tmp_path: Path, method: str) -> None:
    """Only GET and POST are answered."""
    async with serving(tmp_path, [10], HASTE) as served:
        answer = await served.say(get("/v1/node", "Connection: close", method=method))
        assert answer.split(b" ")[1] in (b"405", b"400")


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,
        os.urandom(3000) + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/node HTTP/1.1\r\nHost: x\r\nBroken\r\n\r\n",
        b"GET /v1/node HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /v1/node HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        b"POST /v1/nodes HTTP/1.1\r\nContent-Length: 32\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=["TLS", "noise", "version", "header", "long header", "long path", "many headers", "smuggling"],
)
async def test_garbage_is_refused(tmp_path: Path, data: bytes) -> None:
    """What is not HTTP gets a 400 or nothing, and the connection ends."""
    async with serving(tmp_path, [10], HASTE) as served:
        answer = await served.say(data)
        assert answer == b"" or answer.startswith(b"HTTP/1.")
        assert b" 200 " not in answer.split(b"\r\n")[0]
        assert await served.is_well()


async def test_thousand_connections_from_one_address(tmp_path: Path) -> None:
    """One address gets its share of connections and no more; another address is served meanwhile."""
    async with serving(tmp_path, [CHUNK_BYTES]) as served:
        crowd = await asyncio.gather(*(served.dial() for _ in range(1000)))
        reader, writer = await served.dial(address="127.0.0.2")
        writer.write(get(chunk_paths(served.version)[0], "Connection: close"))
        assert (await until_end(reader, writer)).startswith(b"HTTP/1.1 200 ")
        answers = 0
        for reader, writer in crowd:
            try:
                writer.write(get("/v1/node", "Connection: close"))
                answers += (await reader.read(100)).startswith(b"HTTP/1.1 200 ")
            except ConnectionError:
                pass
            writer.close()
        assert answers == CONNECTIONS_PER_ADDRESS_MAX
        await asyncio.sleep(0.05)
        assert await served.is_well()


async def test_connections_in_total_are_capped(tmp_path: Path) -> None:
    """Over the cap nobody gets in, and as soon as somebody leaves, somebody does."""
    allowed = ServeLimits(connections_max=3, connections_per_address_max=3)
    async with serving(tmp_path, [10], allowed) as served:
        crowd = [await served.dial() for _ in range(3)]
        assert await served.say(get("/v1/node", "Connection: close")) == b""
        crowd[0][1].close()
        await asyncio.sleep(0.05)
        assert (await served.say(get("/v1/node", "Connection: close"))).startswith(b"HTTP/1.1 200 ")
        for _, writer in crowd:
            writer.close()


async def test_file_that_changes_while_it_is_sent_never_makes_a_whole_answer(tmp_path: Path) -> None:
    """A chunk whose file is edited after its first byte was sent breaks off, and is not offered again."""
    edited: list[Path] = []

    def pace(_address: str, _count: int) -> float:
        # Called before each slice: the file changes between the first two.
        if len(edited) == 1:
            os.utime(edited[0], ns=(1, 1))
        edited.append(path)
        return 0.0

    async with serving(tmp_path, [CHUNK_BYTES], pace=pace) as served:
        path = next(iter(served.library.places.values()))[0]
        answer = await served.say(get(chunk_paths(served.version)[0]))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert len(body) < CHUNK_BYTES
        again = await served.say(get(chunk_paths(served.version)[0], "Connection: close"))
        assert again.startswith(b"HTTP/1.1 404 ")


async def test_file_that_was_cut_short_never_makes_a_whole_answer(tmp_path: Path) -> None:
    """A file that ends before its chunk does gives 404, not a wait and not a short answer that looks whole."""
    async with serving(tmp_path, [CHUNK_BYTES]) as served:
        (digest, place) = next(iter(served.library.places.items()))
        os.truncate(place[0], 1000)
        facts = place[0].stat()
        served.library.places[digest] = (*place[:3], (facts.st_mtime_ns, facts.st_size))
        answer = await served.say(get(chunk_paths(served.version)[0], "Connection: close"))
        assert answer.startswith(b"HTTP/1.1 404 ")


async def test_asker_that_leaves_frees_its_file(tmp_path: Path) -> None:
    """Whoever hangs up in the middle of a chunk leaves nothing held."""
    async with serving(tmp_path, BIG) as served:
        for _ in range(20):
            reader, writer = await served.dial()
            writer.write(b"".join(get(path) for path in chunk_paths(served.version)))
            await reader.read(1000)
            writer.transport.abort()
        assert await served.is_well()


async def test_stop_lets_running_answers_end(tmp_path: Path) -> None:
    """A server that is stopped finishes what it is sending, takes nothing new, and breaks what does not end."""
    async with serving(tmp_path, BIG) as served:
        idle_reader, idle_writer = await served.dial()
        reader, writer = await served.dial()
        sleepy_reader, sleepy_writer = await served.dial()
        writer.write(get(chunk_paths(served.version)[0]))
        sleepy_writer.write(b"".join(get(path) for path in chunk_paths(served.version)))
        await asyncio.sleep(0.3)
        stopping = asyncio.ensure_future(served.server.stop(0.5))
        data = await until_end(reader, writer)
        assert data.endswith(served.version.bytes_of(served.version.chunks[0]))
        assert await until_end(idle_reader, idle_writer) == b""
        await stopping
        assert len(await until_end(sleepy_reader, sleepy_writer)) < sum(BIG)
        with pytest.raises(ConnectionError):
            await served.dial()
