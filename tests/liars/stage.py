"""A published model, its honest seed, and fresh homes that trust its publisher."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from p2psync.store import Published, Store
from p2psync.transport import Server
from p2psync.trust import TrustStore
from tests.liars.answers import PeerAnswers
from tests.liars.puller import Outcome
from tests.stores import KEY, WEIGHTS, contents, publish, tensors_of, write_safetensors

MIB = 1 << 20


@dataclass
class Stage:
    """A model on disk and the store that published it."""

    base: Path
    folder: Path
    store: Store
    version: Published

    @classmethod
    def set(cls, base: Path, tensors: int = 12, tensor_bytes: int = 2 * MIB) -> Stage:
        """Publish a model of random tensors, in chunks of 1 MiB and some small ones."""
        folder = base / "model"
        folder.mkdir(parents=True)
        write_safetensors(folder / WEIGHTS, tensors_of(1, count=tensors, size=tensor_bytes))
        (folder / "config.json").write_text("{}")
        store = Store.open(base / "publisher")
        return cls(base, folder, store, publish(store, folder, forms=False))

    def publish(self, seed: int) -> Published:
        """A second version, of other tensors."""
        write_safetensors(self.folder / WEIGHTS, tensors_of(seed, count=12, size=2 * MIB))
        self.version = publish(self.store, self.folder, forms=False)
        return self.version

    @property
    def answers(self) -> PeerAnswers:
        """What an honest peer that has it all says."""
        return PeerAnswers(self.store)

    @property
    def size(self) -> int:
        """Of the whole model."""
        return sum(map(len, contents(self.folder).values()))

    def other_chunk(self) -> bytes:
        """The bytes of one chunk of 1 MiB, and no other chunk has them."""
        return (self.folder / WEIGHTS).read_bytes()[-MIB:]

    def node(self, name: str) -> Path:
        """A fresh home that trusts the publisher."""
        home = self.base / "nodes" / name
        shutil.rmtree(home, ignore_errors=True)
        TrustStore(home / "trust").add("acme/*", KEY.verify_key)
        return home

    @asynccontextmanager
    async def seed(self, port: int = 0) -> AsyncIterator[str]:
        """The honest seed; yields its URL."""
        server = Server(self.store, node_id="seed")
        try:
            yield await server.start("127.0.0.1", port)
        finally:
            await server.stop(0.2)

    def assert_pulled(self, outcome: Outcome) -> None:
        """The files are those that were published."""
        assert outcome.code == 0, (outcome.answer, outcome.events)
        assert outcome.fault == ""
        assert contents(Path(outcome.answer["path"])) == contents(self.folder)
