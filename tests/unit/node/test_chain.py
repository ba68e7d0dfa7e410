"""A way over other versions has an end, and what a follower asks for at a time has a bound."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from p2psync.content import Digest
from p2psync.errors import SourceUnreachableError
from p2psync.limits import CHAIN_BASES_MAX, CHAIN_VERSIONS_MAX, CHUNK_BYTES, MIRROR_BYTES_MAX
from p2psync.manifest import Chunk, Encoded, Manifest, Reference
from p2psync.node import mirror, pull
from p2psync.node.chain import version_between
from p2psync.node.pull import Pull, PullRequest
from p2psync.node.sources import SourceSet
from p2psync.store import Store
from p2psync.transport import Buffer, Source
from tests.unit.node.conftest import Shop


class Absent:
    """A store that has nothing, and a set of sources of which none answers. ``asked`` is what was looked for."""

    def __init__(self) -> None:
        self.asked: list[Digest] = []

    def manifest(self, root: Digest) -> None:
        self.asked.append(root)

    def has(self, _digest: Digest) -> bool:
        return False

    async def open(self, _root: Digest) -> list[Source]:
        raise SourceUnreachableError("nobody is there")


async def test_a_few_bases_of_a_version_are_looked_at(shop: Shop) -> None:
    """The publisher may name many more; each costs a manifest from outside, so the first ones have to do."""
    bases = tuple(Digest.of(b"%d" % number) for number in range(CHAIN_BASES_MAX + 4))
    manifest = replace(shop.manifest, bases=bases, forms=Digest.of(b"forms"))
    absent = Absent()
    root = shop.published.root
    assert await version_between(cast("Store", absent), root, manifest, cast("SourceSet", absent)) is None
    assert absent.asked == list(bases[:CHAIN_BASES_MAX])


async def test_a_chain_of_versions_has_an_end(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each version on the way may have one on its own way, but for the last that a pull brings so."""
    looked: list[int] = []

    async def between(_store: Store, _root: Digest, _manifest: Manifest, _sources: SourceSet) -> None:
        looked.append(chain)

    monkeypatch.setattr(pull, "version_between", between)
    with Store.open(tmp_path / "home") as store:
        for chain in range(CHAIN_VERSIONS_MAX + 2):
            request = PullRequest(Reference.parse("acme/model"), chain=chain)
            events: list[dict[str, Any]] = []
            sources = SourceSet((), events.append)
            async with Pull(store, request, events.append)._over_another(sources, shop.published.head, shop.manifest):
                assert events == []
    assert looked == list(range(CHAIN_VERSIONS_MAX))


class Asked:
    """A source that gives nothing. ``batches`` are what it was asked for at a time."""

    def __init__(self) -> None:
        self.batches: list[list[Chunk]] = []

    async def chunks(self, batch: Sequence[Chunk], _pool: object) -> AsyncGenerator[tuple[Chunk, Buffer]]:
        self.batches.append(list(batch))
        for _ in ():
            yield _


async def test_a_follower_asks_for_a_little_at_a_time(shop: Shop) -> None:
    """Every encoded chunk is asked for once, no request is for more than the bound, and none is for less than fits."""
    length = CHUNK_BYTES - 1
    rows = {number: Encoded(number, 1, Digest.of(b"%d" % number), length, ()) for number in range(11)}
    source = Asked()
    await mirror._bring(cast("Store", Absent()), shop.published.root, rows, cast("Source", source))
    assert [chunk.index for batch in source.batches for chunk in batch] == list(rows)
    sizes = [sum(chunk.length for chunk in batch) for batch in source.batches]
    assert max(sizes) <= MIRROR_BYTES_MAX
    assert min(sizes[:-1]) + length > MIRROR_BYTES_MAX
