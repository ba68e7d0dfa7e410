"""An origin tree in a folder is read like one behind a web server, whatever stands in its place."""

from __future__ import annotations

import os
import threading
from contextlib import aclosing
from pathlib import Path

import pytest

from p2psync.errors import ModelNotFoundError, RemoteProtocolError, SourceTimeoutError, WithdrawnError
from p2psync.transport import BufferPool, SourceKind, Timeouts, connect
from p2psync.transport.folder import FolderTree, parse_file_url
from tests.library import make_version, write_origin_tree


def test_url_is_a_path() -> None:
    """A file URL names a folder of this machine, spaces and all."""
    assert parse_file_url("file:///media/a%20b/x") == Path("/media/a b/x")
    assert parse_file_url("file://localhost/media") == Path("/media")


async def test_missing_medium_is_not_found(tmp_path: Path) -> None:
    """An origin that is not there is "not found", and the hint says what to look at."""
    source = connect((tmp_path / "gone").as_uri(), SourceKind.WAN)
    with pytest.raises(ModelNotFoundError, match="no origin tree") as caught:
        await source.head("acme/model", "latest")
    assert caught.value.hint is not None


async def test_other_things_than_files_are_refused(tmp_path: Path) -> None:
    """A folder or a FIFO in the place of a head or a pack is refused at once; nobody waits for its other end."""
    version = make_version([10, 20])
    write_origin_tree(tmp_path, version)
    tags = tmp_path / "v1/heads/acme/model/tags"
    os.mkfifo(tags / "pipe")
    (tags / "folder").mkdir()
    source = connect(tmp_path.as_uri(), SourceKind.WAN)
    for tag in ("pipe", "folder"):
        with pytest.raises(RemoteProtocolError):
            await source.head("acme/model", tag)
    await source.open(version.root)
    for pack in (tmp_path / "v1/packs").iterdir():
        pack.unlink()
        os.mkfifo(pack)
    pool = BufferPool(1)
    with pytest.raises(RemoteProtocolError):
        async with aclosing(source.chunks(version.chunks, pool)) as chunks:
            async for _ in chunks:
                pass
    assert pool.free == 1


async def test_pack_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    """A pack that ends within a chunk breaks the protocol; a giant head does too."""
    version = make_version([10_000, 20_000])
    write_origin_tree(tmp_path, version)
    (pack,) = (tmp_path / "v1/packs").iterdir()
    os.truncate(pack, 15_000)
    source = connect(tmp_path.as_uri(), SourceKind.WAN)
    await source.open(version.root)
    with pytest.raises(RemoteProtocolError):
        async with aclosing(source.chunks(version.chunks, BufferPool(1))) as chunks:
            async for _, buffer in chunks:
                buffer.release()
    (tmp_path / "v1/heads/acme/model/tags/big").write_bytes(bytes(5000))
    with pytest.raises(RemoteProtocolError):
        await source.head("acme/model", "big")


async def test_medium_that_hangs_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that does not return ends in a timeout, and the memory it may still write into is never used again."""
    version = make_version([10, 20])
    write_origin_tree(tmp_path, version)
    source = connect(
        tmp_path.as_uri(), SourceKind.WAN, timeouts=Timeouts(response_s=0.05, rate_min_bytes_per_s=1 << 30)
    )
    await source.open(version.root)
    hang, late = threading.Event(), []

    def read_late(self: FolderTree, path: str, first: int, view: memoryview) -> None:
        hang.wait()
        view[:2] = b"\xff\xff"
        late.append(view)

    monkeypatch.setattr(FolderTree, "_read_at", read_late)
    pool = BufferPool(1)
    with pytest.raises(SourceTimeoutError):
        async with aclosing(source.chunks(version.chunks, pool)) as chunks:
            async for _ in chunks:
                pass
    fresh = await pool.acquire()
    hang.set()
    while not late:
        pass
    assert bytes(fresh.view(2)) == b"\0\0"


async def test_range_of_a_missing_file_is_nothing(tmp_path: Path) -> None:
    """A pack that is gone is an absence, not a failure of the medium."""
    source = connect(tmp_path.as_uri(), SourceKind.WAN)
    version = make_version([10])
    write_origin_tree(tmp_path, version)
    await source.open(version.root)
    for pack in (tmp_path / "v1/packs").iterdir():
        pack.unlink()
    assert await source.nodes(list(version.nodes)) == {}
    with pytest.raises(WithdrawnError):
        async with aclosing(source.chunks(version.chunks, BufferPool(1))) as chunks:
            async for _ in chunks:
                pass
