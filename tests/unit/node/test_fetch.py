"""A fetch brings every chunk proved, whatever single sources do, and leaves nothing behind when it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2psync.content import Digest
from p2psync.errors import (
    DigestMismatchError,
    RemoteProtocolError,
    SourceUnreachableError,
    StalledError,
    StoreFullError,
    WithdrawnError,
)
from p2psync.limits import PULL_BUFFERS
from p2psync.manifest import Chunk, chunk_table
from p2psync.node import fetch as module
from p2psync.node import landing
from p2psync.node.fetch import Fetch, Version
from p2psync.node.sources import SourceSet
from p2psync.store import Incoming, Store
from p2psync.swarm import lan, outside, requests, sources
from p2psync.transport import SourceKind
from tests.stores import begin, contents
from tests.unit.node.conftest import Shop
from tests.unit.node.fakes import FakeSource, for_ever, read_chunk

Events = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks, rests and the patience of the endgame are a fraction of what they are."""
    monkeypatch.setattr(module, "TICK_S", 0.02)
    monkeypatch.setattr(sources, "REST_FIRST_S", 0.01)
    monkeypatch.setattr(lan, "_LATE_S", 0.05)
    for room in (outside, requests):
        monkeypatch.setattr(room, "LATE_FLOOR_S", 0.05)
    for room in (lan, outside):
        monkeypatch.setattr(room, "LATE_FACTOR", 0.0)


@pytest.fixture
def incoming(shop: Shop, home: Path) -> Iterator[Incoming]:
    """The shop's model, of which nothing has arrived."""
    with Store.open(home) as store:
        yield begin(shop.store, store, shop.published)


@pytest.fixture
def events() -> Events:
    """What a fetch tells."""
    return []


def fetching(shop: Shop, incoming: Incoming, emit: Any, **options: Any) -> Fetch:
    """A fetch of the shop's model, with no neighbours."""
    manifest = shop.store.manifest(shop.published.head.root)
    assert manifest is not None
    version = Version(shop.published.head.root, chunk_table(manifest))
    return Fetch(incoming, version, SourceSet((), emit), emit, **options)


async def run(fetch: Fetch, *sources: FakeSource) -> None:
    """Fetch from sources whose inventories are what they hold."""
    async with asyncio.timeout(20):
        await fetch.run(sources, {s.url: s.held for s in sources})


def assert_whole(shop: Shop, incoming: Incoming) -> None:
    """What was fetched installs, and is the published folder."""
    assert contents(incoming.install()) == contents(shop.folder)


async def assert_nothing_left(fetch: Fetch) -> None:
    """No task runs, no writer lives, and every buffer is back."""
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert fetch._pool.free == PULL_BUFFERS
    assert not [t for t in threading.enumerate() if t.name.startswith("p2psync-write")]


async def test_bytes_are_counted_by_source_and_kind(shop: Shop, incoming: Incoming, events: Events) -> None:
    """Two sources with half of the chunks each give all; their counts sum to what was missing."""
    near = FakeSource("near", shop.store, held=b"\x55" * 8)
    far = FakeSource("far", shop.store, SourceKind.WAN, held=b"\xaa" * 8)
    fetch = fetching(shop, incoming, events.append)
    missing = sum(c.length for c in incoming.missing)
    await run(fetch, near, far)
    assert fetch.counts.lan == fetch.counts.by_source["near"] > 0
    assert fetch.counts.wan == fetch.counts.by_source["far"] > 0
    assert fetch.counts.lan + fetch.counts.wan == missing
    assert events[-1]["event"] == "progress"
    assert events[-1]["done"] == events[-1]["total"] == incoming.total_bytes
    await assert_nothing_left(fetch)
    assert_whole(shop, incoming)


async def test_corrupt_chunks_come_from_the_other_source(
    shop: Shop, incoming: Incoming, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that sends false bytes is told and dropped; none of its bytes is written, and the other serves all."""
    lied = asyncio.Event()

    async def after_the_lie(_chunk: Chunk) -> None:
        await lied.wait()

    def spoil(_chunk: Chunk) -> bool:
        lied.set()
        return True

    written: list[bool] = []
    write = incoming.write

    def watched(chunk: Chunk, data: memoryview) -> None:
        written.append(Digest.of(data) == chunk.digest)
        write(chunk, data)

    monkeypatch.setattr(incoming, "write", watched)
    liar = FakeSource("liar", shop.store, spoiled=spoil)
    good = FakeSource("good", shop.store, before=after_the_lie)
    fetch = fetching(shop, incoming, events.append)
    await run(fetch, liar, good)
    assert liar.asked
    assert written
    assert all(written)
    assert fetch.counts.by_source["liar"] == 0
    assert isinstance(fetch.errors["liar"], DigestMismatchError)
    assert [e["url"] for e in events if e["event"] == "source" and e["state"] == "dropped"] == ["liar"]
    assert_whole(shop, incoming)


async def test_one_rotten_chunk_costs_that_chunk_only(shop: Shop, incoming: Incoming, events: Events) -> None:
    """A source with one bad chunk is not asked for it again, and gives the rest."""
    bad = incoming.missing[2]
    rotten = FakeSource("rotten", shop.store, spoiled=lambda chunk: chunk.index == bad.index)

    async def only_the_bad_one(chunk: Chunk) -> None:
        if chunk.index != bad.index:
            await for_ever()

    helper = FakeSource("helper", shop.store, held=(1 << bad.index).to_bytes(8, "little"), before=only_the_bad_one)
    fetch = fetching(shop, incoming, events.append)
    await run(fetch, rotten, helper)
    assert rotten.asked.count(bad.index) <= 1
    assert fetch.counts.by_source["helper"] == bad.length
    assert_whole(shop, incoming)


async def test_what_came_is_journalled_by_its_bytes_too(
    shop: Shop, incoming: Incoming, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a fast link much comes before the journal's time is over: a crash costs no more than a bound of it."""
    synced, loop = asyncio.Event(), asyncio.get_running_loop()
    sync = incoming.sync

    def told() -> None:
        sync()
        loop.call_soon_threadsafe(synced.set)

    monkeypatch.setattr(module, "JOURNAL_INTERVAL_S", 3600.0)
    monkeypatch.setattr(module, "JOURNAL_BYTES_MAX", 1)
    monkeypatch.setattr(incoming, "sync", told)
    last = incoming.missing[-1].index

    async def after_the_journal(chunk: Chunk) -> None:
        if chunk.index == last:
            await synced.wait()

    async with asyncio.timeout(8):
        await run(fetching(shop, incoming, events.append), FakeSource("seed", shop.store, before=after_the_journal))
    assert_whole(shop, incoming)


async def test_both_corrupt_ends_as_corrupt(shop: Shop, incoming: Incoming, events: Events) -> None:
    """When nobody is left who sends true bytes, the fetch ends with that, and nothing was written."""
    sources = [FakeSource(url, shop.store, spoiled=lambda _chunk: True) for url in "ab"]
    fetch = fetching(shop, incoming, events.append)
    before = len(incoming.missing)
    with pytest.raises(DigestMismatchError, match=f"{before} chunks .* are missing"):
        await run(fetch, *sources)
    assert len(incoming.missing) == before
    await assert_nothing_left(fetch)


async def test_withdrawn_alone_ends_as_withdrawn(shop: Shop, incoming: Incoming, events: Events) -> None:
    """A lone source that no longer has one chunk ends the fetch; what it had is kept."""
    gone = incoming.missing[-1]

    async def withdraw(chunk: Chunk) -> None:
        if chunk.index == gone.index:
            raise WithdrawnError(f"{chunk.digest} is gone")

    fetch = fetching(shop, incoming, events.append)
    with pytest.raises(WithdrawnError, match="1 chunks") as caught:
        await run(fetch, FakeSource("seed", shop.store, before=withdraw))
    assert caught.value.exit_code == 7
    assert [c.index for c in incoming.missing] == [gone.index]
    await assert_nothing_left(fetch)


async def test_chunk_that_no_source_holds(shop: Shop, incoming: Incoming, events: Events) -> None:
    """Inventories that do not cover the version end the fetch without a wait."""
    with pytest.raises(WithdrawnError, match="no source has them"):
        await run(fetching(shop, incoming, events.append), FakeSource("some", shop.store, held=b"\x01"))
    assert incoming.holds(0)


async def test_broken_source_comes_back(shop: Shop, incoming: Incoming, events: Events) -> None:
    """A lone source whose connection breaks rests and is asked again."""
    breaks = iter([SourceUnreachableError("reset")] * 3)

    async def break_first(_chunk: Chunk) -> None:
        for error in breaks:
            raise error

    fetch = fetching(shop, incoming, events.append)
    await run(fetch, FakeSource("seed", shop.store, before=break_first))
    assert isinstance(fetch.errors["seed"], SourceUnreachableError)
    assert_whole(shop, incoming)


async def test_nonsense_alone_bans(shop: Shop, incoming: Incoming, events: Events) -> None:
    """A lone source that never keeps to the protocol ends the fetch with that."""

    async def nonsense(_chunk: Chunk) -> None:
        raise RemoteProtocolError("not HTTP")

    with pytest.raises(RemoteProtocolError, match=r"not HTTP; .* are missing"):
        await run(fetching(shop, incoming, events.append), FakeSource("seed", shop.store, before=nonsense))


async def test_silence_ends_as_stalled(shop: Shop, incoming: Incoming, events: Events) -> None:
    """No proved byte within the limit ends the fetch, says what is missing and how to go on."""
    fetch = fetching(shop, incoming, events.append, stall_s=0.1)
    with pytest.raises(StalledError, match=r"no proved byte .* chunks .* are missing") as caught:
        await run(fetch, FakeSource("silent", shop.store, before=for_ever))
    assert caught.value.exit_code == 7
    assert caught.value.hint is not None
    await assert_nothing_left(fetch)


async def test_patient_fetch_outwaits_silence(shop: Shop, incoming: Incoming, events: Events) -> None:
    """A fetch that is told to wait does, for as long as nothing comes."""
    began = asyncio.Event()

    async def late(_chunk: Chunk) -> None:
        await began.wait()

    fetch = fetching(shop, incoming, events.append, patient=True, stall_s=0.02)
    running = asyncio.create_task(run(fetch, FakeSource("late", shop.store, before=late)))
    await asyncio.sleep(0.15)
    assert not running.done()
    began.set()
    await running
    assert_whole(shop, incoming)


async def test_late_request_is_doubled_and_then_stopped(shop: Shop, incoming: Incoming, events: Events) -> None:
    """A chunk that a silent source owes comes from another one, and the silent request is cancelled at once."""
    last = incoming.missing[-1].index
    silent = FakeSource("silent", shop.store, held=b"\x01", before=for_ever)

    async def wait_for_the_stop(chunk: Chunk) -> None:
        if chunk.index == last:
            await silent.stopped.wait()

    fetch = fetching(shop, incoming, events.append)
    await run(fetch, silent, FakeSource("good", shop.store, before=wait_for_the_stop))
    assert silent.asked == [0]
    assert silent.stopped.is_set()
    assert fetch.counts.by_source["silent"] == 0
    assert fetch.errors == {}
    assert_whole(shop, incoming)


async def test_chunk_written_but_not_reported_is_reported(shop: Shop, incoming: Incoming, events: Events) -> None:
    """A request that is stopped after its write leaves a chunk that the next request for it accounts for."""

    async def write_first(chunk: Chunk) -> None:
        incoming.write(chunk, read_chunk(shop.store, chunk))

    fetch = fetching(shop, incoming, events.append, stall_s=5.0)
    missing = sum(c.length for c in incoming.missing)
    await run(fetch, FakeSource("seed", shop.store, before=write_first))
    assert fetch.counts.lan == missing
    assert_whole(shop, incoming)


async def test_cancelled_fetch_leaves_nothing(shop: Shop, incoming: Incoming, events: Events) -> None:
    """Cancelling stops every request, gives every buffer back, and keeps what arrived."""
    first = incoming.missing[0].index

    async def first_alone(chunk: Chunk) -> None:
        if chunk.index != first:
            await for_ever()

    sources = [FakeSource("a", shop.store, before=first_alone), FakeSource("b", shop.store, before=for_ever)]
    fetch = fetching(shop, incoming, events.append)
    running = asyncio.create_task(run(fetch, *sources))
    while not (incoming.holds(first) and sources[1].asked):
        await asyncio.sleep(0.01)
    assert fetch._pool.free < PULL_BUFFERS
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert all(source.stopped.is_set() for source in sources)
    await assert_nothing_left(fetch)
    incoming.close(clean=True)


async def test_slow_write_keeps_its_buffer(
    shop: Shop, incoming: Incoming, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow disk a thread writes; a cancelled request keeps its buffer until that write has ended."""
    monkeypatch.setattr(landing, "WRITE_SLOW_S", -1.0)
    monkeypatch.setattr(landing, "WRITE_SLOW_FOR_S", 60.0)
    in_thread, go_on = threading.Event(), threading.Event()
    seen: list[tuple[str, bool]] = []
    write = incoming.write

    def blocking(chunk: Chunk, data: memoryview) -> None:
        name = threading.current_thread().name
        if name.startswith("p2psync-write"):
            in_thread.set()
            go_on.wait(10)
        seen.append((name, Digest.of(data) == chunk.digest))
        write(chunk, data)

    monkeypatch.setattr(incoming, "write", blocking)
    fetch = fetching(shop, incoming, events.append)
    running = asyncio.create_task(run(fetch, FakeSource("seed", shop.store)))
    while not in_thread.is_set():
        await asyncio.sleep(0.005)
    running.cancel()
    await asyncio.sleep(0.05)
    assert not running.done()
    assert fetch._pool.free < PULL_BUFFERS
    go_on.set()
    await asyncio.wait([running])
    assert running.cancelled()
    assert all(true for _, true in seen)
    assert [name for name, _ in seen if name.startswith("p2psync-write")]
    await assert_nothing_left(fetch)


async def test_slow_disk_still_brings_everything(
    shop: Shop, incoming: Incoming, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one slow write the others go through the thread, and a false chunk is refused there too."""
    monkeypatch.setattr(landing, "WRITE_SLOW_S", -1.0)
    bad = incoming.missing[3].index
    once = iter([True])
    liar = FakeSource("seed", shop.store, spoiled=lambda chunk: chunk.index == bad and next(once, False))
    fetch = fetching(shop, incoming, events.append)
    await run(fetch, liar, FakeSource("other", shop.store))
    await assert_nothing_left(fetch)
    assert_whole(shop, incoming)


@pytest.mark.parametrize("error", [StoreFullError("full", needed_bytes=2, free_bytes=1), RuntimeError("a bug")])
async def test_error_of_this_disk_ends_the_fetch(
    shop: Shop, incoming: Incoming, events: Events, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """What the disk, or a bug, raises in a write ends the fetch as it is; no source is blamed."""

    def refuse(_chunk: Chunk, _data: memoryview) -> None:
        raise error

    monkeypatch.setattr(incoming, "write", refuse)
    fetch = fetching(shop, incoming, events.append)
    with pytest.raises(type(error)) as caught:
        await run(fetch, FakeSource("a", shop.store), FakeSource("b", shop.store))
    assert caught.value is error
    assert fetch.errors == {}
    await assert_nothing_left(fetch)


async def test_journal_that_fails_ends_the_fetch(
    shop: Shop, incoming: Incoming, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that cannot be written ends the fetch, even while the sources deliver."""
    error = StoreFullError("full", needed_bytes=2, free_bytes=1)

    def refuse() -> None:
        raise error

    async def one_then_none(chunk: Chunk) -> None:
        if chunk.index:
            await for_ever()

    monkeypatch.setattr(module, "JOURNAL_INTERVAL_S", 0.02)
    monkeypatch.setattr(incoming, "sync", refuse)
    fetch = fetching(shop, incoming, events.append)
    with pytest.raises(StoreFullError):
        await run(fetch, FakeSource("seed", shop.store, before=one_then_none))
    await assert_nothing_left(fetch)
