"""A build's directory is not there or whole: whatever step fails, and after whichever the power goes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from p2psync import disk
from p2psync.compress.placing import placed
from p2psync.compress.tensors import Source, write_tensors
from p2psync.errors import StoreUnwritableError
from tests.disk_faults import FAULTS, failing, unsynced
from tests.disk_trials import Trial, each_cut, each_failure, each_failure_and_a_cut, told

__all__ = ["unsynced"]

WEIGHTS = {"a": np.arange(9000, dtype=np.float32), "b": np.ones((3, 5), np.int8)}


def build(folder: Path) -> None:
    """What a build does with a disk: weights, a description, a file that a library writes by itself."""
    with placed(folder / "out" / "engine") as work:
        (work / "int8").mkdir()
        write_tensors(str(work / "int8" / "high.safetensors"), {k: Source.of(v) for k, v in WEIGHTS.items()})
        disk.write_new(work / "int8" / "engine.json", json.dumps({"format": 1}).encode())
        (work / "tokenizer.json").write_text("{}")


def nothing(_folder: Path) -> None:
    """Where nothing stands yet."""


def beside(folder: Path) -> None:
    """An older build, and a file of the user."""
    (folder / "out" / "before").mkdir(parents=True)
    (folder / "out" / "before" / "engine.json").write_text("{}")


def absent_or_whole(folder: Path) -> None:
    if (folder / "out" / "engine").exists():
        whole(folder)


def whole(folder: Path) -> None:
    engine = folder / "out" / "engine"
    assert json.loads((engine / "int8" / "engine.json").read_bytes()) == {"format": 1}
    assert (engine / "tokenizer.json").read_text() == "{}"
    data = (engine / "int8" / "high.safetensors").read_bytes()
    assert all(value.tobytes() in data for value in WEIGHTS.values())


def alone(folder: Path) -> None:
    whole(folder)
    assert {path.name for path in (folder / "out").iterdir()} <= {"engine", "before"}


def again(folder: Path) -> None:
    """A build of which the first was killed once it had its name is told so."""
    with told(StoreUnwritableError):
        build(folder)


TRIALS = (
    Trial("first build", nothing, build, absent_or_whole, whole, again),
    Trial("another build", beside, build, absent_or_whole, whole, again),
)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_every_step_fails_once(trial: Trial, fault: str, tmp_path: Path) -> None:
    """Absent or whole, and the same again succeeds."""
    assert len(list(each_failure(trial, tmp_path, fault))) > 10


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_a_power_cut_after_any_step(trial: Trial, tmp_path: Path) -> None:
    """Absent or whole, and what was told as built is there: also the files that a library wrote."""
    assert len(list(each_cut(trial, tmp_path))) > 30


@pytest.mark.parametrize("fault", ["full", "broken"])
@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_what_succeeds_after_a_fault_survives_a_power_cut(trial: Trial, fault: str, tmp_path: Path) -> None:
    """A build that was told as failed is not found by the next one."""
    assert len(list(each_failure_and_a_cut(trial, tmp_path, fault))) > 10


def test_what_a_killed_build_left_is_removed(tmp_path: Path) -> None:
    """By the next build beside it, and not what a running one uses."""
    left = [tmp_path / "out" / f".compress-{name}" for name in ("dead", "alive")]
    for folder in left:
        folder.mkdir(parents=True)
    held = os.open(left[1], os.O_RDONLY)
    try:
        assert disk.hold(held)
        build(tmp_path)
    finally:
        os.close(held)
    assert [folder.exists() for folder in left] == [False, True]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Its error is the caller's; the disk's is an error of ours."""
    with pytest.raises(ZeroDivisionError), placed(tmp_path / "engine") as work:
        (work / "half").write_text("x")
        raise ZeroDivisionError
    with failing(6, "full"), pytest.raises(StoreUnwritableError, match="cannot be written"):
        build(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.name != "out"] == []
