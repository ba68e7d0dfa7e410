"""A node's store under any order of pulls, kills, edits, repairs and removals is what a plain table says it is."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from p2psync.content import Digest
from p2psync.manifest import Reference, chunk_table
from p2psync.store import Store
from tests.stores import NAME, WEIGHTS, begin, contents, edit, feed, manifest_of, publish, tensors_of, write_safetensors

# Versions that share some of their tensors and files, and differ in others.
CHANGES = ({}, {0: 7}, {1: 8}, {0: 7, 2: 9})


class Library:
    """A publisher with all versions, made once; nothing of it changes."""

    def __init__(self, room: Path) -> None:
        self.store = Store.open(room / "seed")
        self.versions = []
        self.files = []
        for number, changed in enumerate(CHANGES):
            folder = room / f"v{number}"
            folder.mkdir()
            write_safetensors(folder / WEIGHTS, tensors_of(1, changed, count=3, size=5_000))
            (folder / "config.json").write_bytes(b"{}" if number % 2 else b"{ }")
            (folder / "shared.txt").write_bytes(b"the same in all of them")
            self.versions.append(publish(self.store, folder, f"v{number}"))
            self.files.append(contents(folder))


class Node(RuleBasedStateMachine):
    """``here`` are the versions that are installed, ``spoilt`` the (version, file) pairs that were edited."""

    library: Library

    def __init__(self) -> None:
        super().__init__()
        self.room = Path(tempfile.mkdtemp())
        self.store = Store.open(self.room / "home")
        self.here: set[int] = set()
        self.spoilt: set[tuple[int, str]] = set()

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.room)

    def folder(self, number: int) -> Path:
        return self.room / "home" / "models" / NAME / self.library.versions[number].root.hex()

    @rule(number=st.integers(0, 3))
    def pull(self, number: int) -> None:
        """Bring a version; what was spoilt of it is healed by that."""
        incoming = begin(self.library.store, self.store, self.library.versions[number])
        feed(self.library.store, incoming)
        assert contents(incoming.install()) == self.library.files[number]
        self.here.add(number)
        self.spoilt = {one for one in self.spoilt if one[0] != number}

    @rule(number=st.integers(0, 3), chunks=st.integers(0, 5))
    def pull_and_die(self, number: int, chunks: int) -> None:
        """Begin to bring a version, and end as if killed: what is installed is what it was."""
        incoming = begin(self.library.store, self.store, self.library.versions[number])
        feed(self.library.store, incoming, chunks)
        self.reopen()

    @rule()
    def reopen(self) -> None:
        """Another process takes the home over."""
        self.store.close()
        self.store = Store.open(self.room / "home")

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def edit(self, data: st.DataObject) -> None:
        """A user changes a byte of an installed file: of every version that the file is a hard link of."""
        number = data.draw(st.sampled_from(sorted(self.here)))
        name = data.draw(st.sampled_from(sorted(self.library.files[number])))
        path = self.folder(number) / name
        same = os.stat(path).st_ino
        edit(path)
        good = path.read_bytes() == self.library.files[number][name]
        for other in self.here:
            for file in self.library.files[other]:
                if os.stat(self.folder(other) / file).st_ino == same:
                    (self.spoilt.discard if good else self.spoilt.add)((other, file))

    @rule()
    def verify(self) -> None:
        """All damage is listed, and nothing else."""
        found = {(self.number_of(one.root), one.path) for one in self.store.verify(None).damages}
        assert found == self.spoilt

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def repair(self, data: st.DataObject) -> None:
        """A version is healed from the publisher, with the chunks of its files that are good."""
        number = data.draw(st.sampled_from(sorted(self.here)))
        self.store.verify(None)
        incoming = self.store.begin_repair(NAME, self.library.versions[number].root)
        feed(self.library.store, incoming)
        incoming.install()
        self.spoilt = {one for one in self.spoilt if one[0] != number}

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """A version goes; what it shares with others stays."""
        number = data.draw(st.sampled_from(sorted(self.here)))
        self.store.remove(Reference(NAME, digest=self.library.versions[number].root), dry_run=False)
        self.here.discard(number)
        self.spoilt = {one for one in self.spoilt if one[0] != number}

    @rule()
    def prune(self) -> None:
        """Nothing goes that is installed: each version here is one that was asked for."""
        self.store.prune(dry_run=False)

    @invariant()
    def good_files_are_what_was_published(self) -> None:
        """Every file of every version that is here, but those that were edited."""
        for number in self.here:
            for name, data in self.library.files[number].items():
                if (number, name) not in self.spoilt:
                    assert (self.folder(number) / name).read_bytes() == data

    @invariant()
    def no_wrong_byte_is_given_out(self) -> None:
        """Whatever the store locates for a digest hashes to it, or is seen to have changed."""
        for version in self.library.versions:
            for chunk in chunk_table(manifest_of(self.library.store, version)):
                located = self.store.locate(chunk.digest)
                if located is None:
                    continue
                try:
                    data = located.read()
                    assert Digest.of(data) == chunk.digest or not located.intact()
                finally:
                    located.release()

    def number_of(self, root: Digest) -> int:
        return next(n for n, version in enumerate(self.library.versions) if version.root == root)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    made = Library(tmp_path_factory.mktemp("library"))
    yield made
    made.store.close()


@pytest.mark.parametrize("examples", [12, pytest.param(400, marks=pytest.mark.slow)])
def test_a_store_is_what_a_plain_table_says(library, examples):
    """Any order of what may happen to a home, killed and edited meanwhile."""
    Node.library = library
    run_state_machine_as_test(
        Node,
        settings=settings(
            max_examples=examples,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
