"""Finding chunks: kept descriptors, identities, bit sets."""

import errno
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.content import Digest
from p2psync.errors import StoreError
from p2psync.manifest import chunk_table
from p2psync.store.descriptors import Descriptors
from p2psync.store.index import pack_cut, pack_runs, unpack_cut, unpack_runs
from p2psync.store.locate import _set_run
from tests.stores import NAME, WEIGHTS, contents, edit, manifest_of, publish


def test_every_chunk_is_found(seed, model):
    """Each chunk of a version is located, and its bytes hash to its digest."""
    version = publish(seed, model)
    table = chunk_table(manifest_of(seed, version))
    for chunk in table:
        located = seed.locate(chunk.digest)
        assert Digest.of(located.read()) == chunk.digest
        assert (located.length, located.intact()) == (chunk.length, True)
        located.release()
    assert seed.locate(Digest.of(b"unknown")) is None
    assert not seed.has(Digest.of(b"unknown"))
    bits = seed.inventory(version.root)
    assert sum((b).bit_count() for b in bits) == len(table)
    assert len(bits) == (len(table) + 7) // 8
    assert seed.inventory(Digest.of(b"unknown")) is None


@pytest.mark.parametrize(
    "harm",
    [
        lambda p: edit(p, 10),
        lambda p: (p.chmod(0o644), os.truncate(p, 10)),
        lambda p: p.unlink(),
        lambda p: (p.rename(p.with_suffix(".old")), p.write_bytes(b"new")),
        lambda p: (p.unlink(), p.symlink_to("/etc/hostname")),
        lambda p: (p.unlink(), os.mkfifo(p)),
        os.utime,
        lambda p: p.chmod(0o600),
    ],
    ids=["edited", "cut", "deleted", "replaced", "linked", "fifo", "touched", "chmod"],
)
@pytest.mark.parametrize("opened_before", [False, True])
def test_whatever_happens_to_a_file_withdraws_it(seed, model, harm, opened_before):
    """Every change that is not ours is noticed, whether the file was open already or not."""
    version = publish(seed, model)
    chunk = next(c for c in chunk_table(manifest_of(seed, version)) if c.places[0].file == 1 and c.length > 1000)
    held = seed.locate(chunk.digest) if opened_before else None
    harm(seed.installed(NAME, version.root, range(4)) / WEIGHTS)
    if held is not None:
        assert not held.intact()
        held.release()
    assert seed.locate(chunk.digest) is None
    assert seed.inventory(version.root) != bytes(len(seed.inventory(version.root)))


def test_descriptors_do_not_pile_up(seed, tmp_path):
    """With more files than descriptors are kept, every chunk can still be read."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number:03}").write_bytes(b"%d" % number)
    version = publish(seed, folder)
    before = len(os.listdir("/proc/self/fd"))
    held = [seed.locate(c.digest) for c in chunk_table(manifest_of(seed, version))]
    assert {located.read() for located in held} == set(contents(folder).values())
    for located in held:
        located.release()
    seed.locate(next(iter(chunk_table(manifest_of(seed, version)))).digest).release()
    assert len(os.listdir("/proc/self/fd")) <= before + 257


def test_locate_from_many_threads(seed, model):
    """Threads that locate and release at once never read another file's bytes."""
    version = publish(seed, model)
    table = chunk_table(manifest_of(seed, version))
    wrong = []

    def work():
        for _ in range(30):
            for chunk in table:
                located = seed.locate(chunk.digest)
                if Digest.of(located.read()) != chunk.digest:
                    wrong.append(chunk)
                located.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_descriptor_in_use_is_not_closed(tmp_path):
    """An evicted or dropped file stays open until its last user is done."""
    kept = Descriptors(1)
    (tmp_path / "a").write_bytes(b"a")
    open_a = lambda: os.open(tmp_path / "a", os.O_RDONLY)  # noqa: E731 - counted by name below
    first = kept.acquire("a", open_a)
    again = kept.acquire("a", open_a)
    other = kept.acquire("b", open_a)
    kept.drop("a")
    assert first is again
    assert os.pread(first.fd, 1, 0) == b"a"
    kept.release(first)
    assert os.pread(first.fd, 1, 0) == b"a"
    kept.release(again)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first.fd)
    kept.close()
    assert os.pread(other.fd, 1, 0) == b"a"
    kept.release(other)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(other.fd)


def test_a_process_that_can_open_no_more_closes_what_is_idle(tmp_path):
    """Of every instance, and nothing that is in use. Where that does not help the error is the system's."""
    paths = [tmp_path / str(number) for number in range(3)]
    for path in paths:
        path.write_bytes(path.name.encode())
    one, other = Descriptors(), Descriptors()
    used = one.acquire(0, lambda: os.open(paths[0], os.O_RDONLY))
    idle = other.acquire(1, lambda: os.open(paths[1], os.O_RDONLY))
    other.release(idle)
    tries = []

    def opens_the_second_time():
        tries.append(1)
        if len(tries) == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return os.open(paths[2], os.O_RDONLY)

    late = one.acquire(2, opens_the_second_time)
    assert os.pread(late.fd, 1, 0) == b"2"
    assert os.pread(used.fd, 1, 0) == b"0"
    assert idle.dropped

    def never_opens():
        tries.append(1)
        raise OSError(errno.EMFILE, "Too many open files")

    tries.clear()
    with pytest.raises(OSError, match="Too many open files"):
        one.acquire(3, never_opens)
    assert len(tries) == 2

    def refused():
        tries.append(1)
        raise PermissionError(errno.EACCES, "Permission denied")

    tries.clear()
    with pytest.raises(PermissionError):
        one.acquire(4, refused)
    assert len(tries) == 1
    one.release(used)
    one.release(late)
    one.close()
    other.close()


def test_a_file_that_cannot_be_opened_now_stays_proved(seed, model, monkeypatch):
    """No descriptors are no damage: the reader learns that it is this process, and later the file is given out."""
    version = publish(seed, model)
    chunk = next(iter(chunk_table(manifest_of(seed, version))))

    def full(path, *_, **__):
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        with pytest.raises(StoreError, match="Too many open files") as caught:
            seed.locate(chunk.digest)
    assert "ulimit -n" in caught.value.hint
    located = seed.locate(chunk.digest)
    assert Digest.of(located.read()) == chunk.digest
    located.release()


@given(st.sets(st.integers(0, 300)))
def test_runs_round_trip(numbers):
    """A set of chunk numbers survives being packed as runs, and sets exactly its bits."""
    runs = pack_runs(numbers)
    assert {n for first, count in unpack_runs(runs) for n in range(first, first + count)} == numbers
    bits = bytearray(38)
    for first, count in unpack_runs(runs):
        _set_run(bits, first, count)
    assert {n for n in range(304) if bits[n >> 3] >> (n & 7) & 1} == numbers


@given(st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.integers(0, 2**32 - 1))))
def test_cut_round_trips(chunks):
    """The chunks of a file survive being packed."""
    assert list(unpack_cut(pack_cut(chunks))) == chunks
