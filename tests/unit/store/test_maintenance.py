"""Verify, repair, rm, prune and export: nothing good is lost."""

import fcntl
import os
import shutil
from dataclasses import replace

import pytest

from p2psync.errors import (
    DamagedError,
    ModelNotFoundError,
    StoreInUseError,
    StoreUnwritableError,
    UnsafePathError,
    UsageError,
)
from p2psync.manifest import Reference, build_tree, peek_head
from p2psync.store import DamageKind, Store, linux
from tests.stores import (
    KEY,
    NAME,
    NOW_S,
    WEIGHTS,
    begin,
    contents,
    edit,
    feed,
    make_model,
    manifest_of,
    publish,
    pull,
    tensors_of,
    write_safetensors,
)


@pytest.fixture
def two(seed, node, model):
    """Two versions in both stores; the second changed one tensor, and the tag names it."""
    first = publish(seed, model)
    pull(seed, node, first)
    write_safetensors(model / WEIGHTS, tensors_of(1, {2: 9}))
    second = publish(seed, model)
    pull(seed, node, second)
    return first, second


def heal(source, node, version):
    """Repair a version from another store; returns the bytes that moved."""
    incoming = node.begin_repair(NAME, version.root)
    moved = feed(source, incoming)
    incoming.install()
    return moved


def test_verify_finds_nothing_in_a_good_store(node, two):
    """Every file and every byte is counted."""
    report = node.verify(None)
    assert report.damages == ()
    assert report.files == 8
    assert report.bytes == sum(v.head.size for v in two)
    assert node.verify(Reference(NAME)).files == 4
    with pytest.raises(ModelNotFoundError):
        node.verify(Reference(NAME, "absent"))


def test_verify_lists_all_damage(node, two, model):
    """Edited, shortened, lengthened, missing and replaced files are all named, with the bytes that are wrong."""
    path = node.installed(NAME, two[1].root, range(4))
    edit(path / WEIGHTS, 400_000)
    edit(path / WEIGHTS, 1_400_000)
    (path / "empty").unlink()
    (path / "empty").symlink_to("vocab.txt")
    (path / "sub folder" / "größe.json").unlink()
    damages = {d.path: d for d in node.verify(Reference(NAME)).damages}
    assert damages["empty"].kind is DamageKind.REPLACED
    assert damages["sub folder/größe.json"].kind is DamageKind.MISSING
    assert damages[WEIGHTS].kind is DamageKind.CHANGED
    assert [length for _, length in damages[WEIGHTS].ranges] == [300_001, 300_004]
    assert damages[WEIGHTS].bytes == 600_005
    assert len(damages) == 3


@pytest.mark.parametrize("harm", [lambda p: os.truncate(p, 650_000), lambda p: os.truncate(p, 800_000)])
def test_wrong_size_is_damage(node, two, harm):
    """A file that was cut short, or that something was added to, is damaged; so is the version that shares it."""
    path = node.installed(NAME, two[1].root, range(4))
    (path / "vocab.txt").chmod(0o644)
    harm(path / "vocab.txt")
    assert [(d.path, d.kind) for d in node.verify(None).damages] == [("vocab.txt", DamageKind.CHANGED)] * 2


def test_damaged_file_is_never_served(seed, node, two):
    """After an edit no chunk of the file is located, and the inventory says so."""
    path = node.installed(NAME, two[1].root, range(4))
    weights = manifest_of(seed, two[1]).files[1]
    digests = [d for b in weights.blobs for d, _ in b.chunks.walk(b.length)]
    before = node.inventory(two[1].root)
    edit(path / WEIGHTS, 400_000)
    held = [d for d in digests if node.has(d)]
    # The first version still has the tensors that both share.
    assert len(held) == len(digests) - 1
    assert node.inventory(two[1].root) != before
    (node.home / "models" / NAME / two[0].root.hex() / WEIGHTS).unlink()
    assert not any(node.has(d) for d in digests)
    assert [d.path for d in node.reprove_withdrawn()] == [WEIGHTS, WEIGHTS]
    assert node.reprove_withdrawn() == []


def test_touched_file_is_taken_back(node, two):
    """A file whose times changed but whose bytes did not is withdrawn, proved, and served again."""
    path = node.installed(NAME, two[1].root, range(4))
    os.utime(path / "vocab.txt")
    assert node.installed(NAME, two[1].root, range(4)) is None
    assert node.usage().withdrawn == 1
    assert node.reprove_withdrawn() == []
    assert node.installed(NAME, two[1].root, range(4)) == path


def test_file_that_its_user_restored_is_taken_back(node, two):
    """A file that proved to be damaged is read again once it changes, and served again when it is right."""
    path = node.installed(NAME, two[1].root, range(4)) / WEIGHTS
    good = path.read_bytes()
    edit(path)
    assert len(node.verify(Reference(NAME)).damages) == 1
    path.write_bytes(good)
    assert node.reprove_withdrawn() == []
    assert node.installed(NAME, two[1].root, range(4)) is not None


def test_repair_fetches_only_what_is_nowhere(seed, node, two, model):
    """Good chunks come from the damaged file itself and from other versions; the file is replaced as a whole."""
    path = node.installed(NAME, two[1].root, range(4))
    edit(path / WEIGHTS, 700_000)
    edit(path / WEIGHTS, 1_400_000)
    assert len(node.verify(None).damages) == 1
    # The tensor at 700,000 is the changed one, which no other file has; the other one stands in the first version.
    assert heal(seed, node, two[1]) == 300_002
    assert contents(path) == contents(model)
    assert node.verify(None).damages == ()
    assert heal(seed, node, two[1]) == 0


def test_repair_of_missing_and_replaced_files(seed, node, two, model):
    """Whatever stands where a file must be makes way for the file."""
    path = node.installed(NAME, two[1].root, range(4))
    (path / "vocab.txt").unlink()
    (path / "vocab.txt").symlink_to("/etc/passwd")
    shutil.rmtree(path / "sub folder")
    node.verify(None)
    heal(seed, node, two[1])
    assert contents(path) == contents(model)
    assert not (path / "vocab.txt").is_symlink()
    assert node.verify(None).damages == ()


def test_repair_of_a_removed_directory(seed, node, two, model):
    """A version whose directory its user removed is brought back."""
    path = node.installed(NAME, two[1].root, range(4))
    shutil.rmtree(path)
    assert len(node.verify(None).damages) == 4
    heal(seed, node, two[1])
    assert contents(path) == contents(model)


def test_repair_of_an_in_place_version_is_a_copy(seed, node, model):
    """Files of a publisher are not mended: the version becomes a snapshot in the home."""
    version = publish(node, model, in_place=True)
    publish(seed, model)
    edit(model / "vocab.txt")
    before = contents(model)
    assert [d.kind for d in node.verify(None).damages] == [DamageKind.CHANGED]
    assert 0 < heal(seed, node, version) < 700_000
    assert contents(model) == before
    assert not node.versions()[0].fragile
    assert node.verify(None).damages == ()


def test_repair_of_a_lost_manifest(seed, node, two):
    """A garbled manifest is damage; the next pull writes it again and moves no chunk."""
    nodes = node.home / "manifests" / f"{two[1].root.hex()}.nodes"
    nodes.write_bytes(nodes.read_bytes()[:-9])
    assert [d.kind for d in node.verify(Reference(NAME)).damages] == [DamageKind.MANIFEST]
    with pytest.raises(DamagedError):
        node.begin_repair(NAME, two[1].root)
    incoming = begin(seed, node, two[1])
    assert incoming.missing == []
    incoming.install()
    assert node.verify(None).damages == ()


def test_repair_of_an_unknown_version(node, two):
    """There is nothing to repair of a version that is not here."""
    with pytest.raises(ModelNotFoundError):
        node.begin_repair("acme/other", two[0].root)


def test_prune_takes_the_version_without_a_tag(node, two, model):
    """A dry run says what would go and frees nothing; prune frees exactly that, and links stay whole."""
    plan = node.prune(dry_run=True)
    assert [(r.kind, r.what) for r in plan.removed] == [("version", f"{NAME}@{two[0].root}")]
    assert 0 < plan.freed_bytes < two[0].head.size
    used = node.usage().models_bytes
    assert len(node.versions()) == 2
    done = node.prune(dry_run=False)
    assert (done.removed, done.freed_bytes) == (plan.removed, plan.freed_bytes)
    assert used - node.usage().models_bytes >= done.freed_bytes - 65536
    assert contents(node.installed(NAME, two[1].root, range(4))) == contents(model)
    assert node.manifest(two[0].root) is None
    assert node.inventory(two[0].root) is None
    assert node.head(NAME, str(two[0].root)) is None
    assert node.verify(None).damages == ()
    assert node.prune(dry_run=False).removed == ()


def test_prune_keeps_tagged_pinned_and_running(seed, node, two, model):
    """A second tag, a pin and a pull in flight each keep a version."""
    node.tag(Reference(NAME, digest=two[0].root), "stable", KEY, NOW_S)
    assert node.prune(dry_run=False).removed == ()
    node.remove(Reference(NAME, "stable"), dry_run=False)
    edit(model / "vocab.txt")
    third = publish(seed, model)
    incoming = begin(seed, node, third)
    kinds = [r.kind for r in node.prune(dry_run=False).removed]
    assert kinds == []
    feed(seed, incoming)
    assert contents(incoming.install()) == contents(model)
    assert [r.what for r in node.prune(dry_run=False).removed] == [f"{NAME}@{two[1].root}"]


def test_prune_leaves_recent_partials(seed, node, model):
    """An interrupted pull is kept for a week, then it goes."""
    version = publish(seed, model)
    incoming = begin(seed, node, version)
    feed(seed, incoming, 3)
    incoming.close(clean=True)
    assert node.prune(dry_run=False).removed == ()
    folder = node.home / "partial" / version.root.hex()
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    removed = node.prune(dry_run=False).removed
    assert [r.kind for r in removed] == ["partial"]
    assert removed[0].bytes > 0
    assert not folder.exists()
    assert node.manifest(version.root) is None


def test_prune_never_touches_files_in_place(seed, model):
    """An in-place version without a tag is forgotten; its files stay."""
    first = publish(seed, model, in_place=True)
    (model / "note").write_bytes(b"x")
    publish(seed, model, in_place=True)
    before = contents(model)
    report = seed.prune(dry_run=False)
    assert [r.what for r in report.removed] == [f"{NAME}@{first.root}"]
    assert contents(model) == before


def test_rm_of_the_last_tag_frees_the_files(node, two, model):
    """A dry run changes nothing; rm takes the tag and the version, and the other version stays whole."""
    plan = node.remove(Reference(NAME), dry_run=True)
    assert [r.kind for r in plan.removed] == ["tag", "version"]
    assert node.resolve(Reference(NAME))[0] == two[1].root
    assert node.remove(Reference(NAME), dry_run=False).freed_bytes == plan.freed_bytes
    with pytest.raises(ModelNotFoundError):
        node.resolve(Reference(NAME))
    assert [v.root for v in node.versions()] == [two[0].root]
    assert node.verify(None).damages == ()


def test_rm_of_one_of_two_tags_keeps_the_files(node, two):
    """While another tag names the version, rm only takes the tag."""
    node.tag(Reference(NAME), "stable", KEY, NOW_S)
    report = node.remove(Reference(NAME), dry_run=False)
    assert [r.kind for r in report.removed] == ["tag"]
    assert report.freed_bytes == 0
    assert node.resolve(Reference(NAME, "stable"))[0] == two[1].root


def test_rm_of_a_digest_takes_its_tags_and_pin(seed, node, two):
    """A digest removes a version whatever names it."""
    node.tag(Reference(NAME), "stable", KEY, NOW_S)
    report = node.remove(Reference(NAME, digest=two[1].root), dry_run=False)
    assert sorted(r.kind for r in report.removed) == ["tag", "tag", "version"]
    pull(seed, node, two[0])
    node.remove(Reference(NAME, digest=two[0].root), dry_run=False)
    assert node.versions() == []
    assert os.listdir(node.home / "models") == []
    assert os.listdir(node.home / "manifests") == []


def test_rm_refuses_what_is_in_flight(seed, node, two, model):
    """A version that is being pulled cannot be removed, and something that is not here is not found."""
    edit(model / "vocab.txt")
    third = publish(seed, model)
    incoming = begin(seed, node, third)
    with pytest.raises(StoreInUseError):
        node.remove(Reference(NAME, digest=third.root), dry_run=False)
    incoming.close(clean=True)
    assert [r.kind for r in node.remove(Reference(NAME, digest=third.root), dry_run=False).removed] == ["partial"]
    with pytest.raises(ModelNotFoundError):
        node.remove(Reference(NAME, digest=third.root), dry_run=False)


def test_removal_does_not_withdraw_shared_files(node, two):
    """A chunk that is being read from a shared inode stays intact while the other version is removed."""
    file = manifest_of(node, two[1]).files[3]
    digest = next(d for b in file.blobs for d, _ in b.chunks.walk(b.length))
    located = node.locate(digest)
    node.prune(dry_run=False)
    assert located.intact()
    located.release()
    assert node.has(digest)


def test_removal_that_crashed_is_ended(node, two, monkeypatch):
    """A kill between moving a version away and forgetting it leaves no ghost."""

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("p2psync.store.index.Index.remove", crash)
    with pytest.raises(KeyboardInterrupt):
        node.prune(dry_run=False)
    monkeypatch.undo()
    home = node.home
    node.close()
    with Store.open(home) as again:
        assert [v.root for v in again.versions()] == [two[1].root]
        assert os.listdir(home / "publishing") == []
        assert again.verify(None).damages == ()


def test_export_copies(node, two, model, tmp_path):
    """Exported files are copies of the user's own: writable, equal, beside what is there."""
    target = tmp_path / "größe out"
    node.export(NAME, two[1].root, range(4), target)
    assert contents(target) == contents(model)
    assert (target / WEIGHTS).stat().st_mode & 0o200
    (target / "mine").write_bytes(b"mine")
    edit(target / WEIGHTS)
    node.export(NAME, two[1].root, range(4), target)
    assert contents(target) == contents(model) | {"mine": b"mine"}
    assert node.verify(None).damages == ()


def test_export_links(node, two, model, tmp_path):
    """--link makes read-only names of the stored files, which stay proved; a copy over them breaks the link only."""
    target = tmp_path / "out"
    node.export(NAME, two[1].root, range(4), target, link=True)
    path = node.installed(NAME, two[1].root, range(4))
    assert (target / WEIGHTS).stat().st_ino == (path / WEIGHTS).stat().st_ino
    node.export(NAME, two[1].root, range(4), target, link=True)
    node.export(NAME, two[1].root, range(4), target)
    assert (target / WEIGHTS).stat().st_ino != (path / WEIGHTS).stat().st_ino
    assert node.installed(NAME, two[1].root, range(4)) == path
    assert node.verify(None).damages == ()


def test_export_removes_what_killed_exports_left(node, two, tmp_path):
    """An old staging directory that nobody locks goes, links in it keep their files proved; any other stays."""
    stored = node.installed(NAME, two[1].root, range(4)) / WEIGHTS
    dead, running, young = (tmp_path / f".p2psync-export-{name}" for name in ("dead", "running", "young"))
    for folder in (dead, running, young):
        (folder / "tree").mkdir(parents=True)
    os.link(stored, dead / "tree" / WEIGHTS)
    node.verify(None)
    for folder in (dead, running):
        os.utime(folder, (NOW_S, NOW_S))
    fd = os.open(running, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        node.export(NAME, two[1].root, range(4), tmp_path / "out")
    finally:
        os.close(fd)
    assert sorted(p.name for p in tmp_path.glob(".p2psync-export-*")) == [running.name, young.name]
    assert node.installed(NAME, two[1].root, range(4)) == stored.parent
    node.export(NAME, two[1].root, range(4), tmp_path / "out 2")
    assert [p.name for p in tmp_path.glob(".p2psync-export-*")] == [young.name]


def test_running_export_is_locked(node, two, tmp_path, monkeypatch):
    """While an export copies, its staging directory is locked, so that no other export removes it."""
    locked = []

    def watched(fd: int, size: int) -> None:
        (staging,) = tmp_path.glob(".p2psync-export-*")
        other = os.open(staging, os.O_RDONLY)
        locked.append(not linux.try_lock(other))
        os.close(other)
        os.ftruncate(fd, size)

    monkeypatch.setattr(linux, "reserve", watched)
    monkeypatch.setattr(linux, "reflink", lambda _source, _target: False)
    node.export(NAME, two[1].root, range(4), tmp_path / "out")
    assert locked == [True] * 4


def test_export_of_some_files(node, two, tmp_path):
    """Only the chosen files are written."""
    node.export(NAME, two[1].root, {3}, tmp_path / "a" / "b")
    assert list(contents(tmp_path / "a" / "b")) == ["vocab.txt"]


def test_export_that_fails_leaves_what_was_there(node, two, tmp_path):
    """A damaged file, a directory in the way, a symlink and the home itself end in errors; nothing half is left."""
    target = tmp_path / "out"
    with pytest.raises(UsageError):
        node.export(NAME, two[1].root, range(4), node.home / "models" / "x")
    (target / WEIGHTS).mkdir(parents=True)
    with pytest.raises(UsageError):
        node.export(NAME, two[1].root, range(4), target)
    assert os.listdir(target) == [WEIGHTS]
    (target / WEIGHTS).rmdir()
    (target / "sub folder").symlink_to(tmp_path)
    with pytest.raises(UnsafePathError):
        node.export(NAME, two[1].root, range(4), target)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError):
        node.export(NAME, two[1].root, range(4), tmp_path / "file")
    edit(node.home / "models" / NAME / two[1].root.hex() / WEIGHTS)
    with pytest.raises(DamagedError, match="changed since"):
        node.export(NAME, two[1].root, range(4), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ModelNotFoundError):
        node.export("acme/other", two[1].root, range(4), tmp_path / "new")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".p2psync")]


def test_owner_is_needed_to_change(node, two):
    """A reader changes nothing, and verify of a reader records nothing."""
    with Store.open(node.home, write=False) as reader:
        with pytest.raises(StoreUnwritableError):
            reader.remove(Reference(NAME), dry_run=False)
        edit(node.home / "models" / NAME / two[1].root.hex() / WEIGHTS)
        assert len(reader.verify(None).damages) == 1
        assert len(reader.versions()) == 2


def test_usage_counts_links_once(node, two, seed, model):
    """Blocks are counted, an inode once, and unfinished pulls are named."""
    usage = node.usage()
    assert usage.versions == 2
    assert usage.models_bytes < sum(v.disk_bytes for v in node.versions())
    edit(model / "vocab.txt")
    third = publish(seed, model)
    incoming = begin(seed, node, third)
    feed(seed, incoming, 1)
    incoming.sync()
    (pending,) = node.usage().unfinished
    assert (pending.root, pending.name) == (third.root, NAME)
    assert 0 < pending.done_bytes <= pending.total_bytes
    incoming.close(clean=True)


def test_unfinished_pull_counts_what_was_synced(seed, node, model):
    """Journalled chunks count, at all their places; neither what was only written does, nor a hole that was read."""
    (model / "twice.bin").write_bytes(b"7" * 2_000_000)
    incoming = begin(seed, node, publish(seed, model))
    tree = next((node.home / "partial").iterdir()) / "tree"
    assert contents(tree).keys() == contents(model).keys()  # Every hole was read.
    (pending,) = node.usage().unfinished
    assert (pending.done_bytes, pending.total_bytes) == (0, incoming.total_bytes)
    feed(seed, incoming, 1)
    assert node.usage().unfinished[0].done_bytes == 0
    incoming.sync()
    missing = incoming.missing
    written = incoming.total_bytes - sum(c.length * len(c.places) for c in missing)
    assert node.usage().unfinished[0].done_bytes == written > 0
    feed(seed, incoming)
    incoming.sync()
    assert node.usage().unfinished[0].done_bytes == incoming.total_bytes
    incoming.close(clean=False)


def test_unfinished_update_counts_linked_files(seed, node, model):
    """A file that another version has is done as soon as it is linked."""
    pull(seed, node, publish(seed, model))
    (model / "vocab.txt").write_bytes(os.urandom(500_000))
    incoming = begin(seed, node, publish(seed, model))
    (pending,) = node.usage().unfinished
    assert pending.done_bytes == sum(len(data) for path, data in contents(model).items() if path != "vocab.txt")
    incoming.close(clean=True)


def test_heads_of_all_tags(node, two):
    """The first head of a version stays under its digest, whatever tags come later."""
    node.tag(Reference(NAME), "stable", KEY, NOW_S)
    assert peek_head(node.head(NAME, str(two[1].root))).tag == "latest"
    assert node.head(NAME, "absent") is None
    assert node.head(NAME, "b3:nonsense") is None


def test_large_models_link_in_batches(seed, node, tmp_path):
    """Hundreds of equal small files go through every batch of links and renames."""
    folder = make_model(tmp_path / "many")
    for number in range(200):
        (folder / f"{number}.json").write_text(str(number))
    first = publish(seed, folder)
    pull(seed, node, first)
    (folder / "extra").write_bytes(b"x")
    second = publish(seed, folder)
    incoming = begin(seed, node, second)
    assert [c.length for c in incoming.missing] == [1]
    feed(seed, incoming)
    incoming.install()
    assert len(node.prune(dry_run=False).removed) == 1
    assert node.verify(None).damages == ()
    for number in range(200):
        (node.home / "models" / NAME / second.root.hex() / f"{number}.json").unlink()
    assert len(node.verify(None).damages) == 200
    heal(seed, node, second)
    assert node.verify(None).damages == ()


def test_bytes_that_the_disk_cannot_read(seed, node, two, model, monkeypatch):
    """EIO in one chunk names that chunk alone; repair copies the readable ones and fetches it."""
    path = node.installed(NAME, two[1].root, range(4)) / WEIGHTS
    inode = path.stat().st_ino
    read, copy = os.preadv, os.copy_file_range

    def check(fd, offset, length):
        if os.fstat(fd).st_ino == inode and offset <= 700_000 < offset + length:
            raise OSError(5, "Input/output error")

    def failing_read(fd, buffers, offset):
        check(fd, offset, len(buffers[0]))
        return read(fd, buffers, offset)

    def failing_copy(source, target, count, source_offset, target_offset):
        check(source, source_offset, count)
        return copy(source, target, count, source_offset, target_offset)

    monkeypatch.setattr(os, "preadv", failing_read)
    monkeypatch.setattr(os, "copy_file_range", failing_copy)
    (damage,) = node.verify(Reference(NAME)).damages
    assert damage.kind is DamageKind.UNREADABLE
    assert damage.bytes == 300_002
    assert heal(seed, node, two[1]) == 300_002
    assert node.verify(None).damages == ()
    assert contents(path.parent) == contents(model)


def test_wrong_sha256_in_the_manifest(seed, node, model):
    """A publisher's wrong SHA-256 over right chunks is named, and is nothing that a repair mends."""
    manifest = manifest_of(seed, publish(seed, model))
    files = (*manifest.files[:3], replace(manifest.files[3], sha256=bytes(32)))
    tree = build_tree(replace(manifest, files=files))
    incoming = node.begin(NAME, replace(manifest, files=files), tree, range(4), None)
    feed(seed, incoming)
    incoming.install()
    assert [(d.path, d.kind) for d in node.verify(None).damages] == [("vocab.txt", DamageKind.MISLABELLED)]
    assert node.installed(NAME, tree.root, range(4)) is not None
    assert node.begin_repair(NAME, tree.root).missing == []
