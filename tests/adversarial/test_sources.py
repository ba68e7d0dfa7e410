"""What every lie of a source ends in: a named error, soon, with every buffer given back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from p2psync.content import Digest
from p2psync.errors import (
    ModelNotFoundError,
    P2PSyncError,
    RemoteProtocolError,
    SourceTimeoutError,
    SourceUnreachableError,
    WithdrawnError,
)
from p2psync.limits import CHUNK_BYTES, KIB, MIB
from p2psync.manifest import Chunk
from p2psync.transport import BufferPool, Source, SourceKind, Timeouts, connect
from tests import liars
from tests.liars import Liar, PeerAnswers, TreeAnswers
from tests.library import FolderLibrary, Version, make_version, write_origin_tree

HASTE = Timeouts(connect_s=0.5, response_s=0.5, rate_min_bytes_per_s=1024, window_s=0.4)
# Many small chunks at the end, so that the inventory is long enough to be sent in parts.
SIZES = [CHUNK_BYTES, 300 * KIB, 1000, 2000, CHUNK_BYTES, CHUNK_BYTES, *[3] * 1600]
# A lie must be over within this. Far above what it takes, so that a slow machine does not fail the test.
PATIENCE_S = 20.0

ERRORS = {
    liars.Silent: SourceTimeoutError,
    liars.Mute: SourceTimeoutError,
    liars.ShortBody: SourceUnreachableError,
    liars.EndlessBody: RemoteProtocolError,
    liars.Dribble: SourceTimeoutError,
    liars.DribbledHead: SourceTimeoutError,
    liars.SilentInBody: SourceTimeoutError,
    liars.SilentAfterHead: SourceTimeoutError,
    liars.ResetNearEnd: SourceUnreachableError,
    liars.NotFound: WithdrawnError,
    liars.Redirect: RemoteProtocolError,
    liars.LengthTooLong: RemoteProtocolError,
    liars.LengthTooShort: RemoteProtocolError,
    liars.LengthGiant: RemoteProtocolError,
    liars.TwoLengths: RemoteProtocolError,
    liars.Chunked: RemoteProtocolError,
    liars.ChunkedWithLength: RemoteProtocolError,
    liars.GiantHead: RemoteProtocolError,
    liars.GiantLine: RemoteProtocolError,
    liars.Garbage: RemoteProtocolError,
    liars.OldHttp: RemoteProtocolError,
    liars.Interim: (RemoteProtocolError, SourceTimeoutError),
    liars.NoContent: RemoteProtocolError,
    liars.OtherStatus: RemoteProtocolError,
    liars.ServerError: SourceUnreachableError,
    liars.HangsUp: SourceUnreachableError,
}


@pytest.fixture
def version() -> Version:
    return make_version(SIZES)


@pytest.fixture
async def answers(tmp_path: Path, version: Version) -> AsyncIterator[PeerAnswers]:
    library = FolderLibrary(tmp_path)
    library.add(version)
    yield PeerAnswers(library)
    library.close()


@asynccontextmanager
async def asking(liar: Liar, *, fast: bool = True) -> AsyncIterator[Source]:
    async with asyncio.timeout(PATIENCE_S), liar.running() as url:
        source = connect(url, SourceKind.LAN, timeouts=HASTE, fast=fast)
        try:
            yield source
        finally:
            await source.close()


async def read(source: Source, batch: list[Chunk], pool: BufferPool) -> list[bytes]:
    got = []
    async with aclosing(source.chunks(batch, pool)) as chunks:
        async for chunk, buffer in chunks:
            got.append(bytes(buffer.view(chunk.length)))
            buffer.release()
    return got


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "aiohttp"])
@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
async def test_lie_about_a_chunk_ends_in_its_error(
    kind: type[Liar], fast: bool, answers: PeerAnswers, version: Version
) -> None:
    """Whatever a peer does instead of sending a chunk ends in the named error, soon, with every buffer back."""
    pool = BufferPool(3)
    async with asking(kind(answers), fast=fast) as source:
        with pytest.raises(ERRORS[kind]) as caught:
            await read(source, version.chunks[4:6], pool)
        assert pool.free == 3
        assert source.wire.received < 16 * MIB
        if kind is liars.Redirect:
            assert liars.Redirect.target in str(caught.value)


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "aiohttp"])
@pytest.mark.parametrize("kind", [*ERRORS, liars.OtherRange], ids=lambda kind: kind.__name__)
async def test_lie_about_a_range_ends_in_its_error(
    kind: type[Liar], fast: bool, tmp_path: Path, version: Version
) -> None:
    """The same for the packs of an origin tree, where one range holds several chunks."""
    write_origin_tree(tmp_path, version)
    pool = BufferPool(3)
    async with asking(kind(TreeAnswers(tmp_path)), fast=fast) as source:
        expected = ERRORS.get(kind, RemoteProtocolError)
        with pytest.raises(expected):
            await source.open(version.root)
            await read(source, version.chunks[4:6], pool)
        assert pool.free == 3
        assert source.wire.received < 16 * MIB


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "aiohttp"])
async def test_wrong_bytes_are_handed_over_unproved(fast: bool, answers: PeerAnswers, version: Version) -> None:
    """A flipped bit and another valid chunk arrive as bytes that do not hash to what was asked for."""
    other = liars.AnotherChunk(answers)
    other.other = version.bytes_of(version.chunks[5])
    for liar in (liars.FlippedBit(answers), other):
        async with asking(liar, fast=fast) as source:
            (got,) = await read(source, [version.chunks[4]], BufferPool(1))
            assert Digest.of(got) != version.chunks[4].digest


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "aiohttp"])
async def test_bytes_after_the_end_never_reach_a_chunk(fast: bool, answers: PeerAnswers, version: Version) -> None:
    """A peer that never stops sending gives its first chunk and no other; what follows is cut off."""
    pool = BufferPool(3)
    async with asking(liars.EndlessTail(answers), fast=fast) as source:
        assert await read(source, [version.chunks[4]], pool) == [version.bytes_of(version.chunks[4])]
        with contextlib.suppress(RemoteProtocolError, SourceUnreachableError):
            batch = version.chunks[4:6]
            assert await read(source, batch, pool) == [version.bytes_of(chunk) for chunk in batch]
        assert pool.free == 3
        assert source.wire.received < 16 * MIB


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "aiohttp"])
@pytest.mark.parametrize("kind", [liars.BrokenFrames, liars.PutsOff], ids=lambda kind: kind.__name__)
async def test_broken_batch_is_refused(kind: type[Liar], fast: bool, answers: PeerAnswers, version: Version) -> None:
    """Frames that do not fit end in RemoteProtocolError, for chunks and for nodes."""
    pool = BufferPool(2)
    async with asking(kind(answers, lambda request: request.method == "POST"), fast=fast) as source:
        with pytest.raises(RemoteProtocolError):
            await read(source, version.chunks[2:4], pool)
        with pytest.raises(RemoteProtocolError):
            await source.nodes(list(version.nodes))
        assert pool.free == 2


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("resource", ["heads", "nodes", "have"])
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "aiohttp"])
async def test_lie_about_a_resource_ends_in_its_error(
    kind: type[Liar], fast: bool, resource: str, answers: PeerAnswers, version: Version
) -> None:
    """Heads, nodes and inventories are read with the same care as chunks."""
    about = {
        "heads": lambda source: source.head(version.name, version.tag),
        "nodes": lambda source: source.nodes(list(version.nodes)),
        "have": lambda source: source.inventory(version.root, len(version.chunks)),
    }[resource]
    expected: object = ERRORS[kind]
    if kind is liars.NotFound:
        expected = {"heads": ModelNotFoundError, "nodes": RemoteProtocolError, "have": ModelNotFoundError}[resource]
    # An honest head or node may be a byte shorter or longer: what it says is proved by its digest or signature.
    honest_length = kind in (liars.LengthTooLong, liars.LengthTooShort) and resource == "heads"
    async with asking(kind(answers, lambda request: f"/{resource}" in request.path), fast=fast) as source:
        if honest_length:
            assert (await about(source)).envelope != version.envelope
            return
        with pytest.raises(expected):
            await about(source)
        assert source.wire.received < 4 * MIB


async def test_head_of_another_name_is_handed_over_unproved(answers: PeerAnswers, version: Version) -> None:
    """A head that was asked for and one that was not look alike here: only its signature tells."""
    async with asking(liars.OtherHead(answers, b'{"other":1}')) as source:
        assert (await source.head(version.name, "latest")).envelope == b'{"other":1}'


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "aiohttp"])
async def test_not_modified_needs_a_question(fast: bool, answers: PeerAnswers, version: Version) -> None:
    """A 304 to who has nothing is refused."""

    class NotModified(Liar):
        async def lie(self, writer, request, answer):
            writer.write(b'HTTP/1.1 304 Not Modified\r\nP2PSync-Protocol: 1\r\nETag: "e"\r\n\r\n')

    async with asking(NotModified(answers, lambda request: "/heads/" in request.path), fast=fast) as source:
        with pytest.raises(RemoteProtocolError):
            await source.head(version.name, "latest")


async def test_other_protocol_is_refused(answers: PeerAnswers, version: Version) -> None:
    """A peer that speaks another protocol is named, whatever is asked first."""

    class Newer(Liar):
        async def lie(self, writer, request, answer):
            writer.write(answer.head(P2PSync_Protocol="2") + answer.body)

    async with asking(Newer(answers, lambda request: True)) as source:
        with pytest.raises(RemoteProtocolError, match="protocol"):
            await source.head(version.name, "latest")
        with pytest.raises(RemoteProtocolError, match="protocol"):
            await source.open(version.root)


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "aiohttp"])
async def test_connection_that_ends_between_answers_loses_nothing(
    fast: bool, announced: bool, answers: PeerAnswers, version: Version
) -> None:
    """A server may close a connection after some answers; the rest is asked again on another one."""
    liar = liars.PoliteCloser(answers)
    liar.announced = announced
    async with asking(liar, fast=fast) as source:
        await source.head(version.name, "latest")
        batch = [*version.chunks[4:6], *version.chunks[:2], *version.chunks[4:6]]
        assert await read(source, batch, BufferPool(3)) == [version.bytes_of(chunk) for chunk in batch]


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "aiohttp"])
async def test_closing_ends_what_runs(fast: bool, answers: PeerAnswers, version: Version) -> None:
    """A source that is closed in the middle of a body ends that lane at once, and its buffers come back."""
    pool = BufferPool(3)
    async with asking(liars.SilentInBody(answers), fast=fast) as source:
        await source.head(version.name, "latest")
        lane = asyncio.ensure_future(read(source, version.chunks[4:6], pool))
        await asyncio.sleep(0.1)
        await source.close()
        with pytest.raises((SourceUnreachableError, RemoteProtocolError)):
            await lane
        assert pool.free == 3


async def test_nobody_listens(version: Version) -> None:
    """A dead port ends in SourceUnreachableError whatever is asked."""
    for fast in (True, False):
        source = connect("http://127.0.0.1:9", SourceKind.LAN, timeouts=HASTE, fast=fast)
        with pytest.raises(SourceUnreachableError):
            await source.head("acme/model", "latest")
        with pytest.raises(SourceUnreachableError):
            await read(source, version.chunks[:1], BufferPool(1))
        await source.close()


@pytest.mark.parametrize("url", ["http://no-such-host.invalid", f"http://{'a' * 70}.example", "http://[::1]:9"])
async def test_host_that_cannot_be_dialled(url: str) -> None:
    """A name that does not resolve, one that cannot be a name, and a dead IPv6 port are unreachable."""
    source = connect(url, SourceKind.WAN, timeouts=HASTE)
    with pytest.raises(P2PSyncError) as caught:
        await source.head("acme/model", "latest")
    assert isinstance(caught.value, SourceUnreachableError)
    await source.close()
