"""Each step by which the engine changes a disk fails once, or is the last before the power fails."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import av
import pytest

from p2psync.engine import Identity, Job, Wish, candidates, generations, run, running
from p2psync.engine.plan_cache import PlanCache
from p2psync.engine.pointers import Pointers, Target
from p2psync.engine.video import png
from p2psync.errors import P2PSyncError, StoreError
from tests.disk_faults import FAULTS, Killed, failing, unsynced
from tests.disk_trials import Trial, each_cut, each_failure, each_failure_and_a_cut, in_turn
from tests.unit.engine.test_generations import ONE
from tests.unit.engine.test_video import frames, read_png

__all__ = ["unsynced"]

FIRST, SECOND, THIRD = (
    Target(f"/engines/{n}", f"demo/tiny:v{n}", f"b3:{n}", "int8", "ort-cpu") for n in ("one", "two", "three")
)


def nothing(_folder: Path) -> None:
    """Where nothing stands yet."""


# Which engine runs, and which ran before ------------------------------------------------------------------------------


def pointers(folder: Path) -> Pointers:
    return Pointers(folder / "home" / "engines")


def after(*targets: Target):
    """What a folder is before: these engines were activated, one after the other."""
    return lambda folder: [pointers(folder).switch(target) for target in targets]


def named(*pairs: tuple[Target | None, Target | None]):
    """Current and last-good are one of these pairs."""

    def holds(folder: Path) -> None:
        assert (pointers(folder).current(), pointers(folder).last_good()) in pairs

    return holds


# Of a second switch, last-good comes first: between the two steps both pointers name what ran.
SWITCHES = (
    Trial(
        "first activation",
        nothing,
        after(FIRST),
        named((None, None), (FIRST, None)),
        named((FIRST, None)),
    ),
    Trial(
        "activation",
        after(FIRST, SECOND),
        after(THIRD),
        named((SECOND, FIRST), (SECOND, SECOND), (THIRD, SECOND)),
        named((THIRD, SECOND)),
    ),
    Trial(
        "rollback",
        after(FIRST, SECOND),
        lambda folder: pointers(folder).go_back(),
        named((SECOND, FIRST), (FIRST, FIRST)),
        named((FIRST, FIRST)),
    ),
)


# The log of generations -----------------------------------------------------------------------------------------------


def log(folder: Path) -> Path:
    return folder / "generations.jsonl"


def append(folder: Path, time_unix_s: int) -> None:
    generations.append(log(folder), replace(ONE, time_unix_s=time_unix_s))


def times(folder: Path) -> list[int]:
    return [line["time_unix_s"] for line in generations.last(log(folder), 100)]


def three_lines(folder: Path) -> None:
    for at in range(3):
        append(folder, at)


def keeps_three_lines(folder: Path) -> None:
    """At a second try the line may be there twice: which was told as failed and is there all the same."""
    assert times(folder) in ([0, 1, 2], [0, 1, 2, 3])


def has_the_fourth(folder: Path) -> None:
    assert times(folder) in ([0, 1, 2, 3], [0, 1, 2, 3, 3])


def keeps_the_newer_half(folder: Path) -> None:
    assert times(folder) in ([0, 1, 2], [2], [2, 3])


def has_the_fourth_behind_the_newer_half(folder: Path) -> None:
    assert times(folder)[-1] == 3
    assert set(times(folder)) <= {0, 1, 2, 3}
    assert log(folder).stat().st_size <= generations.GENERATIONS_BYTES_MAX


LOGS = (
    Trial("log", three_lines, lambda f: append(f, 3), keeps_three_lines, has_the_fourth),
    Trial("full log", three_lines, lambda f: append(f, 3), keeps_the_newer_half, has_the_fourth_behind_the_newer_half),
)


@pytest.fixture
def bounded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """A trial of the log; of the full one three lines are as many as it may have."""
    trial: Trial = request.param
    if trial.name == "full log":
        line = json.dumps(asdict(ONE), separators=(",", ":")).encode() + b"\n"
        monkeypatch.setattr(generations, "GENERATIONS_BYTES_MAX", 3 * len(line) + 1)
    return trial


# Plans ----------------------------------------------------------------------------------------------------------------

PLAN = bytes(range(256)) * 400


def cache(folder: Path) -> PlanCache:
    return PlanCache(folder / "cache" / "plans", bytes_max=2 * len(PLAN))


def is_right(folder: Path) -> None:
    """What is given is what was asked for, kept or built again; and what is half done is cleared away."""
    for key in ("old", "new"):
        assert cache(folder).get(key, lambda key=key: key.encode() + PLAN) == key.encode() + PLAN


def is_kept(folder: Path) -> None:
    is_right(folder)
    cache(folder).get("new", lambda: b"new" + PLAN)
    assert [path.name for path in (folder / "cache" / "plans").iterdir() if path.suffix != ".plan"] == []
    assert sum(path.stat().st_size for path in (folder / "cache" / "plans").iterdir()) <= 4 * len(PLAN)


PLANS = (
    Trial("first plan", nothing, lambda f: cache(f).get("new", lambda: b"new" + PLAN), is_right, is_kept),
    Trial(
        "another plan",
        lambda f: cache(f).get("old", lambda: b"old" + PLAN),
        lambda f: cache(f).get("new", lambda: b"new" + PLAN),
        is_right,
        is_kept,
    ),
)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("trial", SWITCHES, ids=lambda trial: trial.name)
def test_every_step_of_a_switch_fails_once(trial: Trial, fault: str, tmp_path: Path) -> None:
    """Both pointers name engines that ran, and the same again succeeds."""
    assert len(list(each_failure(trial, tmp_path, fault))) > 4


@pytest.mark.parametrize("trial", SWITCHES, ids=lambda trial: trial.name)
def test_a_power_cut_after_any_step_of_a_switch(trial: Trial, tmp_path: Path) -> None:
    """The same, of what reached the disk; and what was told as active is."""
    assert len(list(each_cut(trial, tmp_path))) > 15


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("trial", SWITCHES, ids=lambda trial: trial.name)
def test_a_switch_that_succeeds_after_a_fault_survives_a_power_cut(trial: Trial, fault: str, tmp_path: Path) -> None:
    """A step that failed is not taken for done by the next switch."""
    assert len(list(each_failure_and_a_cut(trial, tmp_path, fault))) > 4


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("bounded", LOGS, ids=lambda trial: trial.name, indirect=True)
def test_every_step_of_the_log_fails_once(bounded: Trial, fault: str, tmp_path: Path) -> None:
    """No line but the one that was cut short is lost with it, and the next one is whole."""
    assert len(list(each_failure(bounded, tmp_path, fault))) > 2


@pytest.mark.parametrize("bounded", LOGS, ids=lambda trial: trial.name, indirect=True)
def test_a_power_cut_after_any_step_of_the_log(bounded: Trial, tmp_path: Path) -> None:
    """Lines that were there stay, and one that was told as written is there."""
    assert len(list(each_cut(bounded, tmp_path))) > 5


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("trial", PLANS, ids=lambda trial: trial.name)
def test_every_step_of_the_plan_cache_fails_once(trial: Trial, fault: str, tmp_path: Path) -> None:
    """The plan is given all the same, the right one, and what a killed builder left is removed."""
    assert len(list(each_failure(trial, tmp_path, fault))) > 4


@pytest.mark.parametrize("trial", PLANS, ids=lambda trial: trial.name)
def test_a_power_cut_after_any_step_of_the_plan_cache(trial: Trial, tmp_path: Path) -> None:
    """What was not synced is built again; nothing else is ever given."""
    assert len(list(each_cut(trial, tmp_path))) > 10


# What a run puts out --------------------------------------------------------------------------------------------------


class Painted:
    """An engine whose work is done: what is tried here is where its frames go."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def latents(self, _request, _hooks):
        return None

    def frames(self, _latents, cancel):
        yield from (frames(5)[:1], frames(5)[1:])


@pytest.fixture
def job(shared_engine, tmp_path_factory, monkeypatch):
    """A job that puts a clip, a sheet and frames into a folder."""
    monkeypatch.setattr(running, "open_pipeline", lambda *_: Painted())
    log = tmp_path_factory.mktemp("log") / "generations.jsonl"

    def of(folder: Path) -> Job:
        return Job(
            among=candidates(shared_engine),
            wish=Wish("a red circle", seed=3, steps=1, frames=5),
            out=folder / "clip.mp4",
            identity=Identity("demo/tiny:v1", "b3:00", 1),
            log=log,
            frames_dir=folder / "frames",
        )

    return of


OLD = {"clip.mp4": b"an old clip", "clip.sheet.png": b"an old sheet", "frames/frame-00005.png": b"an old frame"}


def with_old_files(folder: Path) -> None:
    (folder / "frames").mkdir()
    for name, data in OLD.items():
        (folder / name).write_bytes(data)


def old_or_whole(folder: Path) -> int:
    """Every file is as it was, or new and whole; returns how many are new."""
    new = 0
    for path in (folder / "clip.mp4", folder / "clip.sheet.png", *(folder / "frames").glob("frame-*")):
        data = path.read_bytes()
        if data == OLD.get(str(path.relative_to(folder))):
            continue
        new += 1
        if path.suffix == ".png":
            assert png(read_png(data)) == data
        else:
            with av.open(str(path)) as container:
                assert sum(1 for _ in container.decode(video=0)) == 5
    return new


def all_new_files(folder: Path) -> None:
    assert old_or_whole(folder) == 7


def all_new(folder: Path) -> None:
    all_new_files(folder)
    assert list(folder.rglob(".*")) == []


def test_every_step_of_an_output_fails_once(job, tmp_path: Path) -> None:
    """No half file has its name, no older one is lost, and nothing is left behind once the run succeeds."""
    trial = Trial("output", with_old_files, lambda f: run(job(f)), old_or_whole, all_new)
    assert len(list(each_failure(trial, tmp_path, *FAULTS))) > 40


def test_a_power_cut_after_any_step_of_an_output(job, tmp_path: Path) -> None:
    """The same, of what reached the disk."""
    trial = Trial("output", with_old_files, lambda f: run(job(f)), old_or_whole, all_new_files)
    assert len(list(each_cut(trial, tmp_path, in_turn))) > 30


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_every_step_of_an_output_fails_in_every_way(fault: str, job, tmp_path: Path) -> None:
    """The same with each fault at each step."""
    trial = Trial("output", with_old_files, lambda f: run(job(f)), old_or_whole, all_new)
    assert len(list(each_failure(trial, tmp_path, fault))) > 40


@pytest.mark.parametrize("fault", ["full", "broken"])
def test_a_run_that_the_disk_refused_says_so(fault: str, job, tmp_path: Path) -> None:
    """Whichever step of the clip fails: what the library for video lets pass, nobody takes for a clip."""
    number, refused = 0, 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        with failing(number, fault) as watch:
            try:
                run(job(folder))
                all_new_files(folder)
            except StoreError:
                refused += 1
                assert not (folder / "clip.mp4").exists() or watch.failed[0] == "sync"
        if watch.failed is None:
            break
    assert refused > 30


def test_a_run_after_one_that_the_disk_refused_is_its_own(job, tmp_path: Path) -> None:
    """What the disk said in one clip is not told of the next one in the same process."""
    with_old_files(tmp_path)
    refused = 0
    for number in range(5, 50, 5):
        with failing(number, "full"):
            try:
                run(job(tmp_path))
            except StoreError:
                refused += 1
        run(job(tmp_path))
        all_new(tmp_path)
    assert refused > 5


def test_what_a_killed_run_left_is_removed(job, tmp_path: Path) -> None:
    """And nothing that anybody else has open, or that only looks like it."""
    with_old_files(tmp_path)
    (tmp_path / ".clip.mp4.part").write_bytes(b"not ours")
    with failing(20, "killed"), pytest.raises((Killed, P2PSyncError)):
        run(job(tmp_path))
    left = [path.name for path in tmp_path.rglob(".*.part") if path.name != ".clip.mp4.part"]
    assert left
    run(job(tmp_path))
    assert [path.name for path in tmp_path.rglob(".*.part")] == [".clip.mp4.part"]
