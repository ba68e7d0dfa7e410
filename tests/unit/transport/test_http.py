"""What aiohttp carries: HTTPS, proxies, and an honest count of bytes."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from multidict import CIMultiDict

from p2psync.errors import RemoteProtocolError, SourceUnreachableError, WithdrawnError
from p2psync.limits import CHUNK_BYTES
from p2psync.transport import BufferPool, Server, SourceKind, Timeouts, Wire, connect
from p2psync.transport.endpoint import parse_endpoint
from p2psync.transport.http import HttpClient, _Answer
from tests.liars import read_request
from tests.library import FolderLibrary, Version, make_version, write_origin_tree
from tests.web import static

PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "all_proxy")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of 127.0.0.1, with its key in the same file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("tls") / "cert.pem"
    key = path.with_name("key.pem")
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path


@asynccontextmanager
async def over_https(tmp_path: Path, certificate: Path) -> AsyncIterator[tuple[str, Version]]:
    version = make_version([CHUNK_BYTES, 10, 300_000])
    write_origin_tree(tmp_path, version)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with static(tmp_path, ssl_context=context) as url:
        yield url, version


async def test_certificate_of_nobody_is_refused(tmp_path: Path, certificate: Path) -> None:
    """A server whose certificate no authority of this system signed is unreachable, and the reason is said."""
    async with over_https(tmp_path, certificate) as (url, _):
        source = connect(url, SourceKind.WAN)
        with pytest.raises(SourceUnreachableError, match=r"(?i)certificate"):
            await source.head("acme/model", "latest")
        await source.close()


async def test_chunks_over_https(tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An origin behind a certificate that the system trusts is read like any other."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    # aiohttp makes its default context once and for all when it is imported.
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", ssl.create_default_context())
    async with over_https(tmp_path, certificate) as (url, version):
        source = connect(url, SourceKind.WAN)
        assert (await source.head("acme/model", "latest")).envelope == version.envelope
        await source.open(version.root)
        got = []
        async for chunk, buffer in source.chunks(version.chunks, BufferPool(2)):
            got.append(bytes(buffer.view(chunk.length)))
            buffer.release()
        assert b"".join(got) == version.data
        assert source.wire.received > len(version.data)
        await source.close()


async def test_plain_server_behind_an_https_url(tmp_path: Path) -> None:
    """A server that does not speak TLS is unreachable under an https URL."""
    library = FolderLibrary(tmp_path)
    server = Server(library, node_id="n")
    url = await server.start("127.0.0.1", 0)
    source = connect(url.replace("http:", "https:"), SourceKind.WAN)
    with pytest.raises(SourceUnreachableError):
        await source.head("acme/model", "latest")
    await source.close()
    await server.stop(0.1)


@asynccontextmanager
async def proxying(answers: list[bytes]) -> AsyncIterator[tuple[str, list[str]]]:
    """A proxy that answers by itself; yields its URL and the lines that it was asked."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await read_request(reader)
                asked.append(f"{request.method} {request.path}")
                writer.write(answers[min(len(asked), len(answers)) - 1])
                await writer.drain()
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    server.close()
    await asyncio.sleep(0.01)


def ok(body: bytes, *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers, "\r\n"]
    return "\r\n".join(lines).encode() + body


async def test_proxy_of_the_environment_carries_what_comes_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A WAN source goes through the proxy, chunks too; the site's own nodes never do."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    version = make_version([300_000])
    answers = [ok(b"{}", "P2PSync-Protocol: 1"), ok(version.data)]
    async with proxying(answers) as (proxy, asked):
        monkeypatch.setenv("http_proxy", proxy)
        outside = connect("http://origin.example", SourceKind.WAN)
        assert (await outside.head("acme/model", "latest")).envelope == b"{}"
        async for chunk, buffer in outside.chunks(version.chunks, BufferPool(1)):
            assert bytes(buffer.view(chunk.length)) == version.data
            buffer.release()
        await outside.close()
        assert asked == [
            "GET http://origin.example/v1/heads/acme/model/tags/latest",
            f"GET http://origin.example/v1/chunks/{version.chunks[0].digest.hex()}",
        ]
        inside = connect("http://127.0.0.1:9", SourceKind.LAN, timeouts=Timeouts(connect_s=1.0))
        with pytest.raises(SourceUnreachableError):
            await inside.head("acme/model", "latest")
        await inside.close()
        assert len(asked) == 2


async def test_proxy_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that does not let a connection through makes the source unreachable, and says so."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    async with proxying([b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"]) as (proxy, asked):
        monkeypatch.setenv("https_proxy", proxy)
        source = connect("https://origin.example", SourceKind.WAN)
        with pytest.raises(SourceUnreachableError, match="proxy"):
            await source.head("acme/model", "latest")
        assert asked == ["CONNECT origin.example:443"]
        await source.close()


async def test_credentials_stay_out_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No credential file is read: a source gets only the login that its URL has."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    seen: list[str | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await read_request(reader)).headers.get("authorization"))
        writer.write(ok(b"{}", "P2PSync-Protocol: 1", "Connection: close"))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for login in ("", "me:secret@"):
        source = connect(f"http://{login}127.0.0.1:{port}", SourceKind.WAN)
        await source.head("acme/model", "latest")
        await source.close()
    assert seen == [None, "Basic bWU6c2VjcmV0"]
    server.close()
    await asyncio.sleep(0.01)


async def test_bucket_that_hides_what_it_lacks(tmp_path: Path) -> None:
    """A bucket that answers 403 for a key that is not there has withdrawn the chunk, not broken the protocol."""
    version = make_version([CHUNK_BYTES])
    write_origin_tree(tmp_path, version)
    index = (tmp_path / "v1/index" / version.root.hex()).read_bytes()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await read_request(reader)
                forbidden = b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno!\r\n0\r\n\r\n"
                writer.write(ok(index) if "/index/" in request.path else forbidden)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    for fast in (True, False):
        source = connect(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", SourceKind.WAN, fast=fast)
        await source.open(version.root)
        with pytest.raises(WithdrawnError):
            async for _ in source.chunks(version.chunks, BufferPool(1)):
                pass
        await source.close()
    server.close()
    await asyncio.sleep(0.01)


def answer_of(content: object, *lengths: str) -> _Answer:
    """An answer as a library gives it that is less strict than the one of today."""
    headers = CIMultiDict([("Content-Length", length) for length in lengths])
    response = SimpleNamespace(status=200, headers=headers, content=content)
    client = HttpClient(parse_endpoint("https://origin.example"), None, Timeouts(), Wire())
    return _Answer(client, "v1/node", response, Timeouts())  # type: ignore[arg-type]


@pytest.mark.parametrize("lengths", [("3", "3"), ("3", "4"), ("+3",), ("-3",), ("3, 3",), ("\u0663",), ("",)])
async def test_a_length_that_has_two_readings_is_refused(lengths: tuple[str, ...]) -> None:
    """What two programs could read differently is no length, whatever the library that parsed it lets through."""
    with pytest.raises(RemoteProtocolError, match="answered v1/node with the Content-Length"):
        answer_of(None, *lengths)


async def test_a_body_that_ends_early_is_not_waited_for() -> None:
    """The library says so by an error; where it said it by no bytes, reading would never end."""
    pieces = iter([b"he", b""])

    class Content:
        async def read(self, _bytes_max: int) -> bytes:
            return next(pieces)

    with pytest.raises(SourceUnreachableError, match=r"origin\.example ended the answer to v1/node early"):
        await answer_of(Content(), "5").read_all(5)
