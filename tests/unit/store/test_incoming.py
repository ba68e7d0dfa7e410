"""Bringing a version: reuse, resume, journal, install."""

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2psync.errors import DamagedError, StoreError, StoreFullError, StoreInUseError
from p2psync.manifest import Reference, chunk_table, peek_head
from p2psync.store import Store, linux, records
from p2psync.store.home import Identity
from tests.stores import (
    NAME,
    WEIGHTS,
    begin,
    contents,
    edit,
    feed,
    manifest_of,
    publish,
    pull,
    tensors_of,
    write_safetensors,
)

FILES = st.dictionaries(
    st.sampled_from(["a", "b.bin", "dir/c", "dir/d e", "ü"]),
    st.tuples(st.integers(0, 2_500_000), st.integers(0, 3)),
    min_size=1,
)


@settings(max_examples=15, deadline=None)
@given(first=FILES, second=FILES, stop=st.integers(0, 12), clean=st.booleans())
def test_round_trip(tmp_path_factory, first, second, stop, clean):
    """What is published arrives byte by byte, interrupted or not, over an older version or not."""
    base = tmp_path_factory.mktemp("trip")
    with Store.open(base / "seed") as seed, Store.open(base / "node") as node:
        for number, files in enumerate((first, second)):
            folder = base / str(number)
            for path, (size, content) in files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(random.Random(content).randbytes(size))
            version = publish(seed, folder)
            incoming = begin(seed, node, version)
            moved = feed(seed, incoming, stop)
            incoming.close(clean=clean)
            incoming = begin(seed, node, version)
            assert incoming.resumed_bytes >= moved
            assert incoming.total_bytes == incoming.resumed_bytes + incoming.reused_bytes + sum(
                chunk.length for chunk in incoming.missing
            )
            feed(seed, incoming)
            assert contents(incoming.install()) == contents(folder)
        assert node.verify(None).damages == ()


def test_pulled_version_is_installed(seed, node, model):
    """Files are 0444 under models/<name>/<digest>, the tag names the version, nothing is left under partial."""
    version = publish(seed, model)
    path = pull(seed, node, version)
    assert path == node.home / "models" / NAME / version.root.hex()
    assert contents(path) == contents(model)
    assert {(path / p).stat().st_mode & 0o777 for p in contents(model)} == {0o444}
    assert node.head(NAME, "latest") == node.head(NAME, str(version.root)) == version.envelope
    assert os.listdir(node.home / "partial") == []
    assert node.installed(NAME, version.root, range(4)) == path
    assert node.inventory(version.root) == seed.inventory(version.root)


def test_update_moves_only_what_changed(seed, node, model):
    """The next version links equal files and copies equal chunks; only the changed tensor is missing."""
    first = pull(seed, node, publish(seed, model))
    write_safetensors(model / WEIGHTS, tensors_of(1, {2: 9}))
    version = publish(seed, model)
    incoming = begin(seed, node, version)
    assert [c.length for c in incoming.missing] == [300_002]
    assert incoming.reused_bytes == incoming.total_bytes - 300_002
    feed(seed, incoming)
    path = incoming.install()
    assert contents(path) == contents(model)
    assert (path / "vocab.txt").stat().st_ino == (first / "vocab.txt").stat().st_ino
    assert node.verify(None).damages == ()


def test_reuse_never_believes_a_changed_file(seed, node, model):
    """Chunks of a file that its user edited are proved while they are copied; the bad one is fetched."""
    first = pull(seed, node, publish(seed, model))
    edit(first / WEIGHTS, 400_000)
    edit(first / "vocab.txt", 1000)
    write_safetensors(model / WEIGHTS, tensors_of(1, {4: 9}))
    incoming = begin(seed, node, publish(seed, model))
    assert 600_000 < sum(c.length for c in incoming.missing) < 1_400_000
    feed(seed, incoming)
    assert contents(incoming.install()) == contents(model)


def test_reuse_from_a_copied_home(seed, node, model, tmp_path):
    """A home that was copied proves its files again before it links or serves them."""
    import shutil

    version = publish(seed, model)
    pull(seed, node, version)
    node.close()
    shutil.copytree(tmp_path / "node", tmp_path / "copy")
    write_safetensors(model / WEIGHTS, tensors_of(1, {0: 9}))
    second = publish(seed, model)
    with Store.open(tmp_path / "copy") as copy:
        chunk = chunk_table(manifest_of(seed, version))[0]
        assert copy.locate(chunk.digest) is None
        assert not any(copy.inventory(version.root))
        assert copy.installed(NAME, version.root, range(4)) is None
        incoming = begin(seed, copy, second)
        assert [c.length for c in incoming.missing] == [300_000]
        feed(seed, incoming)
        assert contents(incoming.install()) == contents(model)
        assert copy.reprove_withdrawn() == []
        located = copy.locate(chunk.digest)
        located.release()
        assert copy.inventory(version.root) == seed.inventory(version.root)


def test_clean_end_is_believed(seed, node, model, monkeypatch):
    """After a clean end nothing is read again."""
    version = publish(seed, model)
    incoming = begin(seed, node, version)
    moved = feed(seed, incoming, 3)
    incoming.close(clean=True)
    monkeypatch.setattr(linux, "written_extents", lambda *_: pytest.fail("read again"))
    incoming = begin(seed, node, version)
    assert incoming.resumed_bytes == moved
    incoming.close(clean=True)


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: os.truncate(path, 5),
        lambda path: os.truncate(path, path.stat().st_size - 3),
        lambda path: edit(path, 100),
        lambda path: path.write_bytes(random.Random(1).randbytes(5000)),
        lambda path: path.write_bytes(b""),
    ],
    ids=["deleted", "truncated", "torn", "flipped", "garbled", "emptied"],
)
def test_harmed_journal_costs_nothing_but_reading(seed, node, model, harm):
    """A journal that is lost or garbled: what arrived is proved again and kept."""
    version = publish(seed, model)
    incoming = begin(seed, node, version)
    moved = feed(seed, incoming, 3)
    incoming.close(clean=True)
    harm(node.home / "partial" / version.root.hex() / "journal")
    incoming = begin(seed, node, version)
    assert incoming.resumed_bytes == moved
    feed(seed, incoming)
    assert contents(incoming.install()) == contents(model)


def test_partial_file_that_changed_is_not_believed(seed, node, model):
    """An edit of a partial file after a clean end is found: the chunk is missing again."""
    version = publish(seed, model)
    incoming = begin(seed, node, version)
    feed(seed, incoming)
    incoming.close(clean=True)
    edit(node.home / "partial" / version.root.hex() / "tree" / WEIGHTS, 700_000)
    incoming = begin(seed, node, version)
    assert [c.length for c in incoming.missing] == [300_002]
    feed(seed, incoming)
    assert contents(incoming.install()) == contents(model)


def test_running_pull_serves_what_it_proved(seed, node, model):
    """Chunks of an unfinished version can be located, and its inventory says which."""
    version = publish(seed, model)
    incoming = begin(seed, node, version)
    first, *_ = incoming.missing
    assert node.locate(first.digest) is None
    feed(seed, incoming, 1)
    located = node.locate(first.digest)
    incoming.write(incoming.missing[0], seed.locate(incoming.missing[0].digest).read())
    assert located.intact()
    data = located.read()
    located.release()
    theirs = seed.locate(first.digest)
    assert data == theirs.read()
    theirs.release()
    assert node.inventory(version.root)[0] == 0b11
    assert node.node(version.root) is not None
    incoming.close(clean=False)
    assert node.locate(first.digest) is None


def test_located_chunk_survives_the_install(seed, node, model):
    """A chunk that is being read while its version is installed stays what it was."""
    version = publish(seed, model)
    incoming = begin(seed, node, version)
    chunk = incoming.missing[0]
    feed(seed, incoming)
    located = node.locate(chunk.digest)
    incoming.install()
    assert located.intact()
    assert len(located.read()) == chunk.length
    located.release()


def test_chunk_in_several_places_is_fetched_once(seed, node, tmp_path):
    """Equal bytes in two files and twice in one are one chunk, written everywhere."""
    folder = tmp_path / "m"
    folder.mkdir()
    data = random.Random(3).randbytes(50_000)
    write_safetensors(folder / "a.safetensors", {"x": data, "y": data})
    write_safetensors(folder / "b.safetensors", {"z": data})
    version = publish(seed, folder)
    incoming = begin(seed, node, version)
    assert sum(c.length == 50_000 for c in incoming.missing) == 1
    assert incoming.reused_bytes == 100_000
    feed(seed, incoming)
    assert contents(incoming.install()) == contents(folder)


def test_place_that_is_missing_is_filled_from_another(seed, node, tmp_path):
    """After a crash between two places of one chunk, the other place is copied, not fetched."""
    folder = tmp_path / "m"
    folder.mkdir()
    data = random.Random(3).randbytes(50_000)
    write_safetensors(folder / "a.safetensors", {"x": data})
    write_safetensors(folder / "b.safetensors", {"z": data})
    version = publish(seed, folder)
    incoming = begin(seed, node, version)
    feed(seed, incoming)
    incoming.close(clean=False)
    edit(node.home / "partial" / version.root.hex() / "tree" / "b.safetensors", 30_000)
    incoming = begin(seed, node, version)
    assert incoming.missing == []
    assert contents(incoming.install()) == contents(folder)


def test_variants_arrive_one_by_one(seed, node, model):
    """A second selection of files adds to the first; both are whole in the end."""
    version = publish(seed, model)
    path = pull(seed, node, version, {0, 3})
    assert set(contents(path)) == {"empty", "vocab.txt"}
    assert node.installed(NAME, version.root, range(4)) is None
    assert node.present(NAME, version.root) == {0, 3}
    assert not node.versions()[0].complete
    incoming = begin(seed, node, version)
    assert incoming.reused_bytes == 700_000
    feed(seed, incoming)
    assert incoming.install() == path
    assert contents(path) == contents(model)
    assert node.versions()[0].complete


def test_selection_that_changes_keeps_what_arrived(seed, node, model):
    """Interrupting one selection and finishing another loses nothing of the first."""
    version = publish(seed, model)
    incoming = begin(seed, node, version, {1})
    moved = feed(seed, incoming, 3)
    incoming.close(clean=True)
    pull(seed, node, version, {3})
    incoming = begin(seed, node, version, {1})
    assert incoming.resumed_bytes == moved
    feed(seed, incoming)
    incoming.install()
    assert node.present(NAME, version.root) == {1, 3}
    assert os.listdir(node.home / "partial") == []


def test_nothing_missing_installs_at_once(seed, node, model):
    """A version that is here needs nothing; install says where it is."""
    version = publish(seed, model)
    path = pull(seed, node, version)
    incoming = begin(seed, node, version)
    assert incoming.missing == []
    assert incoming.install() == path


def test_one_pull_of_a_version_at_a_time(seed, node, model):
    """A second begin of the same version is refused until the first ends."""
    version = publish(seed, model)
    incoming = begin(seed, node, version)
    with pytest.raises(StoreInUseError):
        begin(seed, node, version)
    incoming.close(clean=True)
    incoming.close(clean=True)
    begin(seed, node, version).discard()
    assert os.listdir(node.home / "partial") == []


def test_install_wants_every_chunk(seed, node, model):
    """Installing with chunks missing is a fault of the caller; nothing gets a name."""
    version = publish(seed, model)
    incoming = begin(seed, node, version)
    with pytest.raises(ValueError, match="chunks are missing"):
        incoming.install()
    with pytest.raises(ValueError, match="has 300000 bytes"):
        incoming.write(next(c for c in incoming.missing if c.length == 300_000), b"x")
    incoming.close(clean=False)
    assert node.versions() == []


def test_room_is_asked_before_the_first_byte(seed, node, model, monkeypatch):
    """A disk without room ends the begin with needed and free bytes; nothing is reserved."""
    version = publish(seed, model)
    monkeypatch.setattr("p2psync.store.incoming.free_bytes", lambda _path: 20 << 20)
    begin(seed, node, version).discard()
    monkeypatch.setattr("p2psync.store.incoming.free_bytes", lambda _path: 17 << 20)
    monkeypatch.setattr("p2psync.store.home.free_bytes", lambda _path: 17 << 20)
    with pytest.raises(StoreFullError) as caught:
        begin(seed, node, version)
    assert caught.value.needed_bytes > (16 << 20) + 2_000_000
    assert caught.value.free_bytes == 17 << 20


def test_failed_sync_is_not_repeated(seed, node, model, monkeypatch):
    """When the disk loses writes, the file is given up and every later call fails; the next begin fetches it again."""
    version = publish(seed, model)
    incoming = begin(seed, node, version, {1})
    feed(seed, incoming)

    def failing(_fd):
        raise OSError(5, "I/O error")

    monkeypatch.setattr(os, "fdatasync", failing)
    with pytest.raises(Exception, match="lost writes"):
        incoming.sync()
    monkeypatch.undo()
    with pytest.raises(Exception, match="lost writes"):
        incoming.sync()
    with pytest.raises(ValueError, match="missing"):
        incoming.install()
    incoming.close(clean=True)
    incoming = begin(seed, node, version, {1})
    assert incoming.resumed_bytes == 0
    feed(seed, incoming)
    incoming.install()
    assert node.verify(None).damages == ()


def test_head_of_another_version_is_a_fault(seed, node, model):
    """Begin with a head that does not name the version is refused."""
    version = publish(seed, model)
    manifest = manifest_of(seed, version)
    with pytest.raises(ValueError, match="a head of"):
        node.begin("acme/other", manifest, seed.tree(version.root), {0}, version.envelope)


def test_explicit_older_version_leaves_the_tag(seed, node, model):
    """Pulling an older version by its digest pins it and does not move the tag back."""
    first = publish(seed, model)
    edit(model / "vocab.txt")
    second = publish(seed, model)
    pull(seed, node, second)
    pull(seed, node, first)
    assert peek_head(node.head(NAME, "latest")).root == second.root
    infos = {v.root: v for v in node.versions()}
    assert infos[first.root].pinned
    assert not infos[second.root].pinned
    assert node.prune(dry_run=False).removed == ()
    node.put_head(first.envelope, first.head)
    assert peek_head(node.head(NAME, "latest")).root == second.root


def test_newer_head_of_the_same_root(seed, node, model):
    """A head that is filed alone moves the tag."""
    pull(seed, node, publish(seed, model))
    again = publish(seed, model)
    node.put_head(again.envelope, again.head)
    assert node.versions()[0].tags == {"latest": 2}
    assert node.resolve(Reference(NAME))[1] == again.envelope


def test_close_of_the_store_ends_pulls_like_a_crash(seed, node, model, tmp_path):
    """A store that is closed during a pull loses nothing that was proved."""
    version = publish(seed, model)
    incoming = begin(seed, node, version)
    moved = feed(seed, incoming, 3)
    node.close()
    with Store.open(tmp_path / "node") as again:
        assert begin(seed, again, version).resumed_bytes == moved


def test_disk_that_refuses_the_write(seed, node, model, monkeypatch):
    """ENOSPC in the middle of a pull is a StoreFullError; what was written before is kept."""
    version = publish(seed, model)
    incoming = begin(seed, node, version)
    moved = feed(seed, incoming, 2)
    real = os.pwrite

    def full(fd, data, offset):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreFullError) as caught:
        feed(seed, incoming, 1)
    assert caught.value.needed_bytes > 0
    monkeypatch.setattr(os, "pwrite", real)
    incoming.close(clean=True)
    incoming = begin(seed, node, version)
    assert incoming.resumed_bytes == moved
    feed(seed, incoming)
    assert contents(incoming.install()) == contents(model)


def test_closed_store_files_nothing(node, seed, model, tmp_path):
    """A store that was opened to read refuses to change anything."""
    version = publish(seed, model)
    pull(seed, node, version)
    with Store.open(tmp_path / "node", write=False) as reader:
        assert reader.installed(NAME, version.root, range(4)) is not None
        with pytest.raises(StoreError):
            begin(seed, reader, version)
        with pytest.raises(StoreError):
            reader.prune(dry_run=False)
        assert reader.prune(dry_run=True).freed_bytes == 0


def test_external_data_is_copied_not_linked(seed, node, tmp_path):
    """ONNX external data that an older version has arrives as a file of its own, without a byte from the source."""
    onnx = pytest.importorskip("onnx")
    np = pytest.importorskip("numpy")
    folder = tmp_path / "onnx"
    folder.mkdir()
    weight = onnx.numpy_helper.from_array(np.arange(600_000, dtype=np.float32), "w")
    graph = onnx.helper.make_node("Identity", ["w"], ["y"])
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [600_000])
    model = onnx.helper.make_model(onnx.helper.make_graph([graph], "g", [], [output], [weight]))
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    first = pull(seed, node, publish(seed, folder))
    (folder / "note").write_bytes(b"x")
    incoming = begin(seed, node, publish(seed, folder))
    assert [chunk.length for chunk in incoming.missing] == [1]
    feed(seed, incoming)
    second = incoming.install()
    assert contents(second) == contents(folder)
    assert (first / "m.data").stat().st_nlink == (second / "m.data").stat().st_nlink == 1
    assert (second / "m.onnx").stat().st_nlink == 2


def quiet_edit(path):
    """Change a file and set its times back, as some editors do."""
    times = path.stat()
    edit(path, 5)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    path.chmod(0o444)


def test_linked_file_that_changes_before_the_install(seed, node, model):
    """A file that was linked and then edited through its other name is not recorded as good; the next try heals it."""
    first = pull(seed, node, publish(seed, model))
    (model / "note").write_bytes(b"x")
    version = publish(seed, model)
    incoming = begin(seed, node, version)
    feed(seed, incoming)
    quiet_edit(first / "vocab.txt")
    with pytest.raises(DamagedError, match=r"vocab\.txt changed"):
        incoming.install()
    incoming.close(clean=True)
    assert node.installed(NAME, version.root, range(5)) is None
    incoming = begin(seed, node, version)
    assert 0 < feed(seed, incoming) < 700_000
    assert contents(incoming.install()) == contents(model)
    assert node.installed(NAME, version.root, range(5)) is not None


def test_linked_file_that_changes_before_the_publish_ends(node, model, monkeypatch):
    """The same for publish: what was linked must still be what was proved when the version is recorded."""
    first = publish(node, model)
    path = node.installed(NAME, first.root, range(4))
    (model / "note").write_bytes(b"x")
    real = records.move_in

    def meddling(*args, **options):
        quiet_edit(path / "vocab.txt")
        return real(*args, **options)

    monkeypatch.setattr("p2psync.store.publish.move_in", meddling)
    second = publish(node, model)
    assert node.installed(NAME, second.root, range(5)) is None
    assert {d.path for d in node.verify(None).damages} == {"vocab.txt"}
    monkeypatch.undo()
    publish(node, model)
    assert contents(node.installed(NAME, second.root, range(5))) == contents(model)


def test_journal_that_cannot_be_written(seed, node, model, monkeypatch):
    """A journal without room loses nothing: the chunks are named by the next one that can be written."""
    version = publish(seed, model)
    incoming = begin(seed, node, version)
    moved = feed(seed, incoming, 3)
    real = os.write
    monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StoreFullError):
        incoming.sync()
    monkeypatch.setattr(os, "write", real)
    incoming.close(clean=True)
    monkeypatch.setattr(linux, "written_extents", lambda *_: pytest.fail("read again"))
    assert begin(seed, node, version).resumed_bytes == moved


def test_device_number_may_change_with_the_mount(seed, node, model, monkeypatch):
    """The home's device is not part of what tells its files: its number differs after some mounts."""
    version = publish(seed, model)
    path = pull(seed, node, version)
    node.close()
    real = Identity.of
    monkeypatch.setattr(Identity, "of", classmethod(lambda _cls, facts: real(facts)._replace(dev=12345)))
    stat = os.stat

    def moved(target, **options):
        found = list(stat(target, **options))
        return os.stat_result([*found[:2], 12345, *found[3:]])

    monkeypatch.setattr("p2psync.store.index.os.stat", moved)
    with Store.open(path.parents[3]) as again:
        assert again.installed(NAME, version.root, range(4)) == path
