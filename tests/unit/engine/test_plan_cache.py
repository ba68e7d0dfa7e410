"""A plan is built once for each skeleton, weights, shapes, builder and device; what is damaged is built again."""

import os

import pytest

from p2psync.content import Digest
from p2psync.engine.plan_cache import PlanCache, contents_of, default_folder, key_of
from p2psync.errors import IncompleteModelError
from p2psync.limits import PLAN_CACHE_BYTES_MAX
from tests.unit.engine.tiny_engine import make_engine

CONTENTS = Digest.of(b"contents")
SHAPES = {"x": (1, 4), "y": (2,)}


class Building:
    """Gives another plan each time."""

    def __init__(self, size=100):
        self.size = size
        self.count = 0

    def __call__(self):
        self.count += 1
        return bytes([self.count]) * self.size


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "plans"


def test_a_plan_is_built_once(folder):
    """The second time it is read, by another process too."""
    build = Building()
    first = PlanCache(folder).get("a", build)
    assert PlanCache(folder).get("a", build) == first
    assert build.count == 1
    assert PlanCache(folder).get("b", build) != first


@pytest.mark.parametrize("damage", [b"", b"short", bytes(132)], ids=["empty", "cut", "other bytes"])
def test_a_damaged_plan_is_built_again(folder, damage):
    """What does not answer to its digest is never loaded."""
    build = Building()
    PlanCache(folder).get("a", build)
    (folder / "a.plan").write_bytes(damage)
    assert PlanCache(folder).get("a", build) == bytes([2]) * 100
    assert PlanCache(folder).get("a", build) == bytes([2]) * 100


def test_a_link_is_not_followed(folder, tmp_path):
    """Somebody else's file is no plan of ours, however right its digest."""
    build = Building()
    PlanCache(folder).get("a", build)
    (folder / "a.plan").rename(tmp_path / "elsewhere")
    (folder / "a.plan").symlink_to(tmp_path / "elsewhere")
    assert PlanCache(folder).get("a", build) == bytes([2]) * 100
    assert not (folder / "a.plan").is_symlink()


def test_the_folder_is_its_owners_alone(folder):
    """Nobody else may put code for our GPU there."""
    PlanCache(folder).get("a", Building())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "a.plan").stat().st_mode & 0o077 == 0
    assert os.listdir(folder) == ["a.plan"]


def test_what_was_not_used_for_longest_goes_first(folder):
    """The folder keeps its bound, and the plan that was just built stays."""
    build = Building()
    cache = PlanCache(folder, bytes_max=300)
    for at, key in enumerate("abc"):
        cache.get(key, build)
        if key != "c":
            os.utime(folder / f"{key}.plan", (at, at))
    assert sorted(path.stem for path in folder.iterdir()) == ["b", "c"]
    huge = Building(size=1000)
    cache.get("huge", huge)
    assert [path.stem for path in folder.iterdir()] == ["huge"]
    # One that exceeds the bound alone is not read back: it would be the first to go.
    cache.get("huge", huge)
    assert huge.count == 2


def test_the_folder_has_a_bound_unless_another_is_asked_for(folder):
    """Plans that together are as large as the bound make room for one that is built."""
    PlanCache(folder).get("old", Building())
    os.truncate(folder / "old.plan", PLAN_CACHE_BYTES_MAX)
    os.utime(folder / "old.plan", (1, 1))
    PlanCache(folder).get("new", Building())
    assert os.listdir(folder) == ["new.plan"]


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path):
    """The plan is given all the same."""
    (tmp_path / "file").write_bytes(b"")
    build = Building()
    assert PlanCache(tmp_path / "file" / "plans").get("a", build) == bytes([1]) * 100
    assert PlanCache(tmp_path / "file" / "plans").get("a", build) == bytes([2]) * 100


def test_every_part_of_a_key_counts():
    """Other contents, shapes, versions and devices are other plans."""
    keys = {
        key_of(CONTENTS, SHAPES, "tensorrt 11", "L4, 8.9"),
        key_of(Digest.of(b"others"), SHAPES, "tensorrt 11", "L4, 8.9"),
        key_of(CONTENTS, {"x": (2, 4), "y": (2,)}, "tensorrt 11", "L4, 8.9"),
        key_of(CONTENTS, SHAPES, "tensorrt 12", "L4, 8.9"),
        key_of(CONTENTS, SHAPES, "tensorrt 11", "L40, 8.9"),
    }
    assert len(keys) == 5
    assert key_of(CONTENTS, dict(reversed(SHAPES.items())), "tensorrt 11", "L4, 8.9") in keys


def test_contents_are_the_skeleton_and_its_weights(tmp_path):
    """A changed byte of either, and nothing else, is another model."""
    engine = make_engine(tmp_path / "fp32")
    skeleton = engine / "high.onnx"
    before = contents_of(skeleton)
    (engine / "engine.json").write_text("{}")
    assert contents_of(skeleton) == before
    weights = engine / "high.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert contents_of(skeleton) != before
    weights.unlink()
    with pytest.raises(IncompleteModelError):
        contents_of(skeleton)


def test_the_folder_is_named_by_the_environment(monkeypatch, tmp_path):
    """P2PSYNC_PLANS first, then the cache of the user."""
    monkeypatch.setenv("P2PSYNC_PLANS", str(tmp_path / "own"))
    assert default_folder() == tmp_path / "own"
    monkeypatch.delenv("P2PSYNC_PLANS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "p2psync" / "plans"
