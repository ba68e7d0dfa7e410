"""A publisher leaves out what means nothing: what is signed is the snapped copy, and the own files stay as they are."""

import os

import numpy as np
import pytest

from p2psync.content import Digest
from p2psync.errors import DamagedError, ModelNotFoundError, StoreError, UsageError
from p2psync.manifest import Reference, chunk_table
from p2psync.store import Snap, Store, linux
from p2psync.store.snap import Snapper
from tests.integration.test_forms import WEIGHTS, bfloat16, write
from tests.stores import NAME, manifest_of, publish

# 700,000 elements: two chunks.
SHAPE = (700, 1000)


def model(seed=0, **changes):
    """Three matrices; ``changes`` gives the deviation of what is added to some."""
    made = {}
    for number, name in enumerate(("a", "b", "c")):
        values = np.random.default_rng(number).normal(0, 0.02, SHAPE)
        values += np.random.default_rng([seed, number]).normal(0, 1, SHAPE) * changes.get(name, 0.0)
        made[name] = bfloat16(values)
    return made


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "home") as opened:
        publish(opened, write(tmp_path / "base", model()), "base")
        yield opened


def snap(store, folder, threshold, steps=0):
    return publish(store, folder, "new", bases=(Reference(NAME, "base"),), snap=Snap(threshold, steps))


def tensors_in(store, version):
    """The three matrices as they were signed."""
    manifest = manifest_of(store, version)
    raw = b"".join(store.read_chunk(chunk.digest) for chunk in chunk_table(manifest))
    size = SHAPE[0] * SHAPE[1] * 2
    start = len(raw) - 3 * size
    return {n: np.frombuffer(raw[start + i * size : start + (i + 1) * size], np.uint16) for i, n in enumerate("abc")}


def test_a_tensor_that_hardly_changed_keeps_the_bases_bytes(store, tmp_path):
    """Under the threshold all of it does, over it none; what is left out is told, and nothing else differs."""
    folder = write(tmp_path / "new", model(1, a=1e-4, b=4e-3))
    before = (folder / WEIGHTS).read_bytes(), (folder / WEIGHTS).stat().st_mtime_ns
    version = snap(store, folder, 1e-3)
    assert ((folder / WEIGHTS).read_bytes(), (folder / WEIGHTS).stat().st_mtime_ns) == before
    found, base, own = tensors_in(store, version), model(), model(1, a=1e-4, b=4e-3)
    assert np.array_equal(found["a"], base["a"].ravel())
    assert np.array_equal(found["b"], own["b"].ravel())
    (told,) = version.snapped
    assert (told.tensor, told.whole, told.left_out) == ("a", True, int((own["a"] != base["a"]).sum()))
    assert told.relative == pytest.approx((1e-4 / 0.02) ** 2, rel=0.5)
    assert store.verify(None).damages == ()
    plain = publish(store, folder, "plain")
    assert plain.snapped == ()
    assert plain.root != version.root


def test_steps_snap_elements_of_the_others(store, tmp_path):
    """Of a tensor over the threshold those elements stay that are near; the others are the new ones."""
    own, base = model(1, b=2e-4), model()
    version = snap(store, write(tmp_path / "new", own), 1e-9, steps=1)
    found = tensors_in(store, version)["b"]
    kept = found != own["b"].ravel()
    assert np.array_equal(found[kept], base["b"].ravel()[kept])
    (told,) = version.snapped
    assert (told.whole, told.left_out) == (False, int(kept.sum()))
    assert 0 < told.left_out < told.changed
    assert np.all(np.abs(own["b"].ravel()[kept].astype(int) - base["b"].ravel()[kept].astype(int)) == 1)


def test_what_cannot_be_compared_stays(store, tmp_path):
    """A tensor with a NaN, one of another shape, and one that the base lacks."""
    own = model(1, a=1e-5, b=1e-5)
    own["a"] = own["a"].copy()
    own["a"][0, 0] = 0x7FC0
    own["b"] = own["b"].reshape(SHAPE[::-1])
    own["d"] = own.pop("c")
    version = snap(store, write(tmp_path / "new", own), 0.5)
    assert version.snapped == ()
    signed = chunk_table(manifest_of(store, version))
    assert Digest.of(own["a"].tobytes()[: 1 << 20]) in {chunk.digest for chunk in signed}


def test_an_update_moves_only_what_was_not_snapped(store, tmp_path):
    """Chunks of the base are chunks that a node has."""
    version = snap(store, write(tmp_path / "new", model(1, a=1e-4, b=4e-3)), 1e-3)
    base = {c.digest for c in chunk_table(store.manifest(store.resolve(Reference(NAME, "base"))[0]))}
    missing = sum(c.length for c in chunk_table(manifest_of(store, version)) if c.digest not in base)
    assert missing == SHAPE[0] * SHAPE[1] * 2


def test_files_that_were_published_as_they_are_are_snapped_too(store, tmp_path):
    """An equal file in the home is no reason to take it as it is."""
    folder = write(tmp_path / "new", model(1, a=1e-4))
    publish(store, folder, "plain")
    assert [one.tensor for one in snap(store, folder, 1e-3).snapped] == ["a"]


@pytest.mark.parametrize(("threshold", "steps"), [(1e-3, 0), (1e-9, 1)], ids=["whole", "elements"])
def test_a_base_that_rots_meanwhile_publishes_nothing(store, tmp_path, monkeypatch, threshold, steps):
    """Half of a tensor is never signed: between comparing and writing, the base's bytes are proved again."""
    honest, count = Snapper._read, 0

    def rotten(self, digest):
        nonlocal count
        count += 1
        # Two chunks of the first tensor are compared, the first of them is written.
        return None if count == 4 else honest(self, digest)

    monkeypatch.setattr(Snapper, "_read", rotten)
    with pytest.raises(DamagedError, match="changed while"):
        snap(store, write(tmp_path / "new", model(1, a=1e-4)), threshold, steps)
    assert [info.tags for info in store.versions()] == [{"base": 1}]


def test_a_base_that_is_not_here_is_refused(store, tmp_path):
    """What is compared with nothing would look as if nothing had been left out."""
    folder = write(tmp_path / "new", model(1, a=1e-4))
    absent = Reference(NAME, digest=Digest.of(b"absent"))
    with pytest.raises(ModelNotFoundError, match="is not in this home"):
        publish(store, folder, "new", bases=(absent,), snap=Snap(1e-3))


def test_the_first_base_that_has_a_tensor_counts(store, tmp_path):
    """Others are not looked at, however near."""
    publish(store, write(tmp_path / "near", model(1, a=4e-3)), "near")
    folder = write(tmp_path / "new", model(1, a=4e-3, b=1e-5))
    bases = (Reference(NAME, "base"), Reference(NAME, "near"))
    version = publish(store, folder, "new", bases=bases, snap=Snap(1e-3))
    assert [one.tensor for one in version.snapped] == ["b"]
    version = publish(store, folder, "other", bases=bases[::-1], snap=Snap(1e-3))
    assert [one.tensor for one in version.snapped] == ["b"]


@pytest.mark.parametrize("wrong", [{"bases": ()}, {"in_place": True}], ids=["no base", "in place"])
def test_without_a_base_or_a_copy_it_is_refused(store, tmp_path, wrong):
    """And nothing is published."""
    folder = write(tmp_path / "new", model(1, a=1e-4))
    how = {"bases": (Reference(NAME, "base"),), "snap": Snap(1e-3), **wrong}
    with pytest.raises(UsageError):
        publish(store, folder, "new", **how)
    assert [info.tags for info in store.versions()] == [{"base": 1}]


def test_a_file_that_shrinks_while_it_is_copied_publishes_nothing(store, tmp_path, monkeypatch):
    """What is changed before it is signed is a whole copy of what stood there."""
    folder = write(tmp_path / "new", model(1, a=1e-4))
    honest = linux.copy_range

    def shrinking(*arguments):
        os.truncate(folder / WEIGHTS, 1000)
        return honest(*arguments)

    monkeypatch.setattr(linux, "reflink", lambda _source, _target: False)
    monkeypatch.setattr(linux, "copy_range", shrinking)
    with pytest.raises(StoreError, match="changed") as caught:
        snap(store, folder, 1e-3)
    assert caught.traceback[-1].name == "_take"
    assert [info.tags for info in store.versions()] == [{"base": 1}]
