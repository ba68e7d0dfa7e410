"""Publishing: all of a directory or nothing, sharing what the store has."""

import os
import socket

import pytest

from p2psync.content import BlobKind
from p2psync.errors import (
    InvalidConfigError,
    InvalidReferenceError,
    MalformedError,
    ModelNotFoundError,
    NotFoundError,
    StoreError,
    UnsafePathError,
    UsageError,
)
from p2psync.manifest import Reference, peek_head
from p2psync.store import PublishOptions, Store, hashing, linux
from tests.stores import (
    KEY,
    NAME,
    NOW_S,
    WEIGHTS,
    contents,
    edit,
    home_files,
    manifest_of,
    publish,
    tensors_of,
    write_safetensors,
)


@pytest.fixture
def store(home):
    with Store.open(home) as opened:
        yield opened


def test_snapshot_holds_the_same_files_read_only(store, model):
    """A published snapshot is a copy: equal bytes, mode 0444, of its own inodes."""
    published = publish(store, model)
    installed = store.installed(NAME, published.root, range(4))
    assert contents(installed) == contents(model)
    for path in contents(model):
        assert (installed / path).stat().st_mode & 0o777 == 0o444
        assert (installed / path).stat().st_ino != (model / path).stat().st_ino
    assert published.files == 4
    assert published.head.size == sum(map(len, contents(model).values()))


def test_manifest_says_what_was_read(store, model):
    """Files are sorted by path, weights are cut at their tensors, and SHA-256 is of the whole file."""
    import hashlib

    manifest = manifest_of(store, publish(store, model))
    assert [f.path for f in manifest.files] == sorted(contents(model), key=str.encode)
    weights = next(f for f in manifest.files if f.path == WEIGHTS)
    assert [b.name for b in weights.blobs if b.kind is BlobKind.TENSOR] == list(tensors_of(1))
    for file in manifest.files:
        assert file.sha256 == hashlib.sha256((model / file.path).read_bytes()).digest()


def test_versions_count_up_per_tag(store, model):
    """Each publish under a tag gets the next number; another tag starts at one."""
    assert publish(store, model).head.version == 1
    edit(model / "vocab.txt")
    assert publish(store, model).head.version == 2
    assert publish(store, model, "stable").head.version == 1


def test_same_content_again_is_a_new_version_of_the_same_root(store, model):
    """Publishing unchanged bytes gives a new number, the same digest, and says so."""
    first = publish(store, model)
    second = publish(store, model)
    assert (second.root, second.head.version) == (first.root, 2)
    assert second.unchanged
    assert not first.unchanged
    assert second.new_bytes == 0
    assert store.versions()[0].tags == {"latest": 2}


def test_equal_files_of_the_next_version_are_links(store, model):
    """A version that changes one file shares the inodes of the others with the version before."""
    first = publish(store, model)
    write_safetensors(model / WEIGHTS, tensors_of(1, {2: 9}))
    second = publish(store, model)
    old, new = (store.installed(NAME, v.root, range(4)) for v in (first, second))
    assert (old / "vocab.txt").stat().st_ino == (new / "vocab.txt").stat().st_ino
    assert (old / WEIGHTS).stat().st_ino != (new / WEIGHTS).stat().st_ino
    assert second.new_bytes == 300_002
    assert store.verify(None).damages == ()


def test_renamed_file_is_a_link_too(store, model):
    """A file of the store under another name is found by its bytes."""
    first = publish(store, model)
    (model / "vocab.txt").rename(model / "words.txt")
    second = publish(store, model)
    old, new = (store.installed(NAME, v.root, range(4)) for v in (first, second))
    assert (old / "vocab.txt").stat().st_ino == (new / "words.txt").stat().st_ino


def test_file_equal_up_to_its_end_is_no_link(store, model):
    """A file of the same size that differs in its last byte only is copied."""
    first = publish(store, model)
    edit(model / WEIGHTS, (model / WEIGHTS).stat().st_size - 1)
    second = publish(store, model)
    assert second.root != first.root
    assert contents(store.installed(NAME, second.root, range(4))) == contents(model)
    assert contents(store.installed(NAME, first.root, range(4))) != contents(model)


def test_edited_installed_file_is_not_linked(store, model):
    """A stored file that was edited is not taken for the one that was proved."""
    first = publish(store, model)
    edit(store.installed(NAME, first.root, range(4)) / "vocab.txt")
    write_safetensors(model / WEIGHTS, tensors_of(2))
    second = publish(store, model)
    assert contents(store.installed(NAME, second.root, range(4))) == contents(model)


def test_publishing_again_heals_the_same_version(store, model):
    """Files of a version that were damaged are replaced when the same bytes are published again."""
    first = publish(store, model)
    path = store.installed(NAME, first.root, range(4))
    edit(path / "vocab.txt")
    (path / "empty").unlink()
    assert store.installed(NAME, first.root, range(4)) is None
    publish(store, model)
    assert contents(store.installed(NAME, first.root, range(4))) == contents(model)
    assert store.verify(None).damages == ()


def test_in_place_reads_files_where_they_are(store, model):
    """An in-place version copies nothing, is fragile, and serves chunks from the directory itself."""
    published = publish(store, model, in_place=True)
    info = store.versions()[0]
    assert info.fragile
    assert info.path == model
    assert not [p for p in home_files(store.home) if p.endswith("vocab.txt")]
    chunk = manifest_of(store, published).files[1].blobs[0]
    located = store.locate(next(digest for digest, _ in chunk.chunks.walk(chunk.length)))
    assert os.fstat(located.fd).st_ino == (model / WEIGHTS).stat().st_ino
    located.release()


def test_in_place_version_becomes_a_snapshot(store, model):
    """Publishing the same bytes as a snapshot leaves the directory alone from then on."""
    first = publish(store, model, in_place=True)
    edit(model / "vocab.txt")
    assert store.installed(NAME, first.root, range(4)) is None
    edit(model / "vocab.txt")
    second = publish(store, model)
    assert second.root == first.root
    assert not store.versions()[0].fragile
    edit(model / "vocab.txt")
    assert store.installed(NAME, first.root, range(4)) is not None
    assert store.verify(None).damages == ()


def test_snapshot_and_in_place_agree(tmp_path, model):
    """Both ways of publishing make the same root."""
    with Store.open(tmp_path / "a") as a, Store.open(tmp_path / "b") as b:
        assert publish(a, model).root == publish(b, model, in_place=True).root


def _symlink(path):
    path.symlink_to("vocab.txt")


def _fifo(path):
    os.mkfifo(path)


def _socket(path):
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.close()


def _folder_link(path):
    path.symlink_to("/etc", target_is_directory=True)


@pytest.mark.parametrize("make", [_symlink, _fifo, _socket, _folder_link])
def test_what_is_no_file_is_refused(store, model, make, tmp_path, monkeypatch):
    """A symlink, a FIFO or a socket in the tree ends with exit 5; nothing is published."""
    monkeypatch.chdir(model)
    make(model.__class__("odd"))
    with pytest.raises(UnsafePathError, match="odd"):
        publish(store, model)
    assert store.versions() == []
    assert os.listdir(store.home / "publishing") == []


@pytest.mark.parametrize("name", ["VOCAB.TXT", "a:b\\c", "tail.", "con", "nu\nl"])
def test_unsafe_names_are_refused(store, model, name):
    """Names that another system reads differently, or as the same, end with exit 5."""
    (model / name).write_bytes(b"x")
    with pytest.raises(UnsafePathError):
        publish(store, model)
    assert store.versions() == []


def test_undecodable_name_is_refused(store, model):
    """A file name that is no UTF-8 ends with exit 5."""
    with open(os.fsencode(model) + b"/\xff", "wb"):
        pass
    with pytest.raises(UnsafePathError):
        publish(store, model)


def test_editor_leftovers_are_files(store, model):
    """Hidden files and backups are published like any other."""
    (model / ".notes~").write_bytes(b"x")
    assert ".notes~" in [f.path for f in manifest_of(store, publish(store, model)).files]


def test_broken_weights_are_refused(store, model):
    """A truncated safetensors file ends with exit 5, and nothing is published."""
    with (model / WEIGHTS).open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(MalformedError):
        publish(store, model)
    assert store.versions() == []
    assert os.listdir(store.home / "publishing") == []


@pytest.mark.parametrize("in_place", [False, True])
def test_file_that_changes_while_it_is_read(store, model, monkeypatch, in_place):
    """A write to a file during the publish ends in an error that names it; nothing is published."""
    real = hashing.cut_file

    def meddling(threads, fd, layout, copy, advance):
        done = real(threads, fd, layout, copy, advance)
        edit(model / "vocab.txt", 5)
        return done

    monkeypatch.setattr("p2psync.store.publish.cut_file", meddling)
    monkeypatch.setattr(linux, "reflink", lambda *_: False)
    with pytest.raises(StoreError, match=r"vocab\.txt changed"):
        publish(store, model, in_place=in_place)
    assert store.versions() == []
    assert os.listdir(store.home / "publishing") == []


def test_file_that_shrinks_while_it_is_read(store, model, monkeypatch):
    """A file that is cut short during the publish ends in the same error."""
    real = os.preadv

    def shrinking(fd, buffers, offset):
        if len(buffers[0]) > 100_000 and os.fstat(fd).st_size == 700_000:
            os.truncate(model / "vocab.txt", 10)
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", shrinking)
    monkeypatch.setattr(linux, "reflink", lambda *_: False)
    with pytest.raises(StoreError, match="changed while it was read"):
        publish(store, model)


def test_bases_are_resolved_and_signed(store, model):
    """--base names versions of this home, or any digest; the root and the head carry their digests."""
    first = publish(store, model)
    edit(model / "vocab.txt")
    second = publish(store, model, bases=(Reference(NAME), Reference(NAME, digest=first.root)))
    assert second.head.bases == (first.root,)
    assert manifest_of(store, second).bases == (first.root,)


def test_unknown_base(store, model):
    """A base that is not here ends with exit 3."""
    with pytest.raises(ModelNotFoundError):
        publish(store, model, bases=(Reference("acme/other"),))


def test_expiry_is_counted_from_now(store, model):
    """An expiry is a span; without it a head never expires."""
    assert publish(store, model, expires_s=60).head.expires == NOW_S + 60
    assert publish(store, model).head.expires is None


def test_variants_are_listed(store, model):
    """Settings make variants over the published files and is not published itself."""
    (model / "p2psync.toml").write_text('[variants.small]\nfiles = ["vocab.txt"]\ndefault = true\n')
    manifest = manifest_of(store, publish(store, model))
    assert [f.path for f in manifest.files] == ["empty", WEIGHTS, "sub folder/größe.json", "vocab.txt"]
    assert [(v.name, v.files, v.default) for v in manifest.variants] == [("small", (3,), True)]
    assert store.versions()[0].variants == ("small",)


def test_bad_settings_publish_nothing(store, model):
    """An unknown key ends with exit 2 before a byte is copied."""
    (model / "p2psync.toml").write_text('[variants.small]\nfile = ["vocab.txt"]\n')
    with pytest.raises(InvalidConfigError) as caught:
        publish(store, model)
    assert caught.value.hint == "did you mean files?"


def test_nothing_to_publish(store, tmp_path):
    """An empty directory, a file and a path that is not there are told apart."""
    (tmp_path / "void" / "deep").mkdir(parents=True)
    with pytest.raises(UsageError):
        publish(store, tmp_path / "void")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(UsageError):
        publish(store, tmp_path / "file")
    with pytest.raises(NotFoundError):
        publish(store, tmp_path / "nowhere")


def test_home_is_not_published(store, tmp_path, model):
    """A directory that holds the home, or an origin tree inside the directory, is refused."""
    with pytest.raises(UsageError):
        publish(store, tmp_path)
    with pytest.raises(UsageError):
        publish(store, model, origin_tree=model / "tree")
    first = publish(store, model)
    with pytest.raises(UsageError):
        publish(store, store.installed(NAME, first.root, range(4)), in_place=True)


def test_digest_cannot_be_published(store, model):
    """A reference with a digest is no place to publish to."""
    root = publish(store, model).root
    with pytest.raises(InvalidReferenceError):
        store.publish(model, Reference(NAME, digest=root), KEY, PublishOptions(now_unix_s=NOW_S))


def test_external_data_is_never_a_link(store, tmp_path):
    """The data file of an ONNX skeleton is marked, and copied even when the store has the same bytes."""
    onnx = pytest.importorskip("onnx")
    np = pytest.importorskip("numpy")
    folder = tmp_path / "onnx"
    folder.mkdir()
    weight = onnx.numpy_helper.from_array(np.arange(60_000, dtype=np.float32), "w")
    node = onnx.helper.make_node("Identity", ["w"], ["y"])
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [60_000])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [output], [weight]))
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    first = publish(store, folder)
    (folder / "note").write_bytes(b"x")
    second = publish(store, folder)
    manifest = manifest_of(store, second)
    assert [f.path for f in manifest.files if f.external] == ["m.data"]
    old, new = (store.installed(NAME, v.root, {0}) for v in (first, second))
    assert (old / "m.data").stat().st_ino != (new / "m.data").stat().st_ino
    assert (old / "m.onnx").stat().st_ino == (new / "m.onnx").stat().st_ino
    (folder / "m.data").unlink()
    with pytest.raises(MalformedError, match=r"m\.data"):
        publish(store, folder)


def test_tag_signs_a_new_head(store, model):
    """Tagging makes a head of the same root under another tag, counted on its own."""
    first = publish(store, model)
    head = store.tag(Reference(NAME), "stable", KEY, NOW_S)
    assert (head.root, head.tag, head.version) == (first.root, "stable", 1)
    assert peek_head(store.head(NAME, "stable")) == head
    assert store.versions()[0].tags == {"latest": 1, "stable": 1}
    with pytest.raises(ModelNotFoundError):
        store.tag(Reference(NAME, "absent"), "stable", KEY, NOW_S)


def test_progress_ends_at_the_total(store, model):
    """Hashing tells how far it is and ends at the size of the directory; so does encoding, at that of its tensors."""
    events = []
    store.publish(model, Reference(NAME), KEY, PublishOptions(now_unix_s=NOW_S), events.append)
    size = sum(map(len, contents(model).values()))
    assert [e for e in events if e["event"] == "hashing"][-1] == {"event": "hashing", "done": size, "total": size}
    assert events[-1]["event"] == "encoding"
    assert events[-1]["done"] == events[-1]["total"] > 0


def test_directory_stands_in_for_a_damaged_copy(store, model):
    """Publishing in place what a damaged snapshot held leaves no orphan of the snapshot behind."""
    first = publish(store, model)
    path = store.installed(NAME, first.root, range(4))
    edit(path / "vocab.txt")
    assert publish(store, model, in_place=True).root == first.root
    assert store.installed(NAME, first.root, range(4)) == model
    assert not path.exists()
    assert store.verify(None).damages == ()
