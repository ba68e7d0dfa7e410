"""The static tree: everything in packs, older packs used again, nothing half."""

import os

import pytest

from p2psync import disk
from p2psync.content import Digest
from p2psync.errors import DamagedError, MalformedError, StoreError
from p2psync.limits import PACK_BYTES_MAX, PACK_BYTES_MIN
from p2psync.manifest import chunk_table, decode_index, peek_head, read_tree
from p2psync.store import Store, origin_tree
from tests.stores import NAME, WEIGHTS, contents, edit, make_model, publish, tensors_of, write_safetensors


def read_version(tree, root):
    """Every file of a version, read from the tree alone."""
    index = decode_index((tree / "v1" / "index" / root.hex()).read_bytes())
    packs = {pack: (tree / "v1" / "packs" / f"{pack.hex()}.pack").read_bytes() for pack in index.packs}
    assert all(Digest.of(data) == pack for pack, data in packs.items())

    def part(pack, offset, length):
        return packs[index.packs[pack]][offset : offset + length]

    manifest = read_tree(root, lambda digest: part(*index.nodes[digest]))
    files = [bytearray(file.size) for file in manifest.files]
    table = chunk_table(manifest)
    assert len(table) == len(index)
    for chunk, spot in zip(table, index, strict=True):
        data = part(spot.pack, spot.offset, chunk.length)
        assert Digest.of(data) == chunk.digest
        for place in chunk.places:
            files[place.file][place.offset : place.offset + chunk.length] = data
    return {file.path: bytes(data) for file, data in zip(manifest.files, files, strict=True)}


@pytest.fixture
def tree(tmp_path):
    return tmp_path / "origin tree"


def test_tree_holds_the_version(seed, model, tree):
    """Heads, index and packs are enough to read every byte back."""
    version = publish(seed, model, origin_tree=tree)
    heads = tree / "v1" / "heads" / NAME
    assert (heads / "tags" / "latest").read_bytes() == version.envelope
    assert (heads / "digests" / version.root.hex()).read_bytes() == version.envelope
    assert read_version(tree, version.root) == contents(model)
    assert version.origin["packs"] == 1
    assert version.origin["bytes"] > version.head.size
    assert not [name for _, _, names in os.walk(tree) for name in names if name.startswith(".")]


def test_next_version_adds_only_what_changed(seed, model, tree):
    """Chunks and nodes in older packs are not written again, and old versions stay readable."""
    first = publish(seed, model, origin_tree=tree)
    before = contents(model)
    write_safetensors(model / WEIGHTS, tensors_of(1, {2: 9}))
    second = publish(seed, model, origin_tree=tree)
    assert second.origin["packs"] == 1
    assert 300_002 < second.origin["bytes"] < 302_000
    assert read_version(tree, second.root) == contents(model)
    assert read_version(tree, first.root) == before
    assert publish(seed, model, origin_tree=tree).origin == {"packs": 0, "bytes": 0}


def test_tree_of_another_home_is_continued(seed, model, tree, tmp_path):
    """A home that never saw the older versions reads them from the tree: numbers go on, packs are shared."""
    publish(seed, model, origin_tree=tree)
    (model / "note").write_bytes(b"x")
    with Store.open(tmp_path / "other") as other:
        version = publish(other, model, origin_tree=tree)
        assert version.head.version == 2
        assert version.origin["bytes"] < 5000
        assert read_version(tree, version.root) == contents(model)


def test_missing_pack_is_written_again(seed, model, tree):
    """A pack that was lost or cut short is no place to point to."""
    version = publish(seed, model, origin_tree=tree)
    (pack,) = (tree / "v1" / "packs").iterdir()
    os.truncate(pack, pack.stat().st_size // 2)
    again = publish(seed, model, origin_tree=tree)
    assert again.root == version.root
    assert read_version(tree, version.root) == contents(model)


def test_packs_keep_their_bounds(seed, tmp_path, tree):
    """A large version fills packs between the bounds; only the last is smaller."""
    folder = make_model(tmp_path / "large", size=16 << 20)
    version = publish(seed, folder, origin_tree=tree)
    sizes = sorted((p.stat().st_size for p in (tree / "v1" / "packs").iterdir()), reverse=True)
    assert len(sizes) == 3
    assert sizes[0] <= PACK_BYTES_MAX
    assert all(size >= PACK_BYTES_MIN for size in sizes[:-1])
    assert read_version(tree, version.root) == contents(folder)


def test_broken_indexes_are_passed_over(seed, model, tree):
    """Nonsense in the index folder costs nothing."""
    (tree / "v1" / "index").mkdir(parents=True)
    (tree / "v1" / "index" / ("0" * 64)).write_bytes(b"nonsense")
    (tree / "v1" / "index" / "readme").write_bytes(b"nonsense")
    version = publish(seed, model, origin_tree=tree)
    assert read_version(tree, version.root) == contents(model)


def test_broken_head_is_no_zero(seed, model, tree):
    """A head of the tree that cannot be read stops the publish: its number must not be guessed."""
    publish(seed, model, origin_tree=tree)
    (tree / "v1" / "heads" / NAME / "tags" / "latest").write_bytes(b"{}")
    with pytest.raises(MalformedError):
        publish(seed, model, origin_tree=tree)


def test_change_between_publish_and_tree(seed, model, tree, monkeypatch):
    """An in-place file that changes before it reached the tree is an error; the tree has no head of the version."""
    real = origin_tree.write

    def meddling(*args):
        edit(model / "vocab.txt")
        return real(*args)

    monkeypatch.setattr(origin_tree, "write", meddling)
    with pytest.raises(DamagedError):
        publish(seed, model, in_place=True, origin_tree=tree)
    assert not (tree / "v1" / "heads").exists()


def test_crash_leaves_the_old_tree(seed, model, tree, monkeypatch):
    """A crash before the heads leaves the tree as it was; the next publish goes on with its packs."""
    first = publish(seed, model, origin_tree=tree)
    real = disk.write_durably

    def crash(path, data, **how):
        if tree in path.parents and "heads" in path.parts:
            raise KeyboardInterrupt
        real(path, data, **how)

    monkeypatch.setattr(disk, "write_durably", crash)
    edit(model / "vocab.txt")
    with pytest.raises(KeyboardInterrupt):
        publish(seed, model, origin_tree=tree)
    monkeypatch.undo()
    assert peek_head((tree / "v1" / "heads" / NAME / "tags" / "latest").read_bytes()).root == first.root
    again = publish(seed, model, origin_tree=tree)
    assert again.origin["packs"] == 0
    assert read_version(tree, again.root) == contents(model)


def test_tree_where_a_file_stands(seed, model, tmp_path):
    """A tree that cannot be written is an error of that disk; the version is in the store."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError):
        publish(seed, model, origin_tree=tmp_path / "file")
