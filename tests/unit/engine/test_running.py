"""One run: outputs are tried first, come whole, and a line says what it took."""

import json

import av
import pytest

from p2psync.engine import Identity, Job, Wish, candidates, generations, run
from p2psync.errors import (
    GenerationCancelledError,
    IncompleteModelError,
    StoreUnwritableError,
    UnfitRequestError,
    UsageError,
)

WHO = Identity("demo/tiny:v1", "b3:00", 1)


@pytest.fixture
def job(shared_engine, tmp_path):
    """A job that writes into an empty directory."""
    (tmp_path / "out").mkdir()
    return lambda **changes: Job(
        **{
            "among": candidates(shared_engine),
            "wish": Wish("a red circle", seed=3, steps=2),
            "out": tmp_path / "out" / "clip.mp4",
            "identity": WHO,
            "log": tmp_path / "generations.jsonl",
        }
        | changes
    )


def logged(tmp_path):
    return generations.last(tmp_path / "generations.jsonl", 9)


def test_makes_a_clip(job, tmp_path):
    """A run leaves an mp4 and a contact sheet, and says what it took."""
    events = []
    clip = run(job(), on_event=lambda *event: events.append(event))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["clip.mp4", "clip.sheet.png"]
    with av.open(str(clip.out)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 9
    assert events == [("step", 1, 2), ("step", 2, 2), ("frames", 1, 9), ("frames", 5, 9), ("frames", 9, 9)]
    record = json.loads(json.dumps(clip.record()))
    assert (record["variant"], record["backend"], record["seed"], record["steps"]) == ("fp32", "ort-cpu", 3, 2)
    assert record["peak_memory_bytes"] > 0
    assert "red" not in json.dumps(record)


def test_leaves_a_line(job, tmp_path):
    """The log says what ran and how it ended, and not what was asked for."""
    run(job())
    (line,) = logged(tmp_path)
    assert (line["reference"], line["version"], line["outcome"], line["variant"]) == ("demo/tiny:v1", 1, "done", "fp32")
    assert line["seconds"] > 0
    assert line["seconds_per_step"] > 0
    assert "circle" not in (tmp_path / "generations.jsonl").read_text()


def test_frames_on_request(job, tmp_path):
    """Frames are numbered from one, and their directory is made."""
    run(job(frames_dir=tmp_path / "a" / "frames"))
    assert sorted(p.name for p in (tmp_path / "a" / "frames").iterdir()) == [f"frame-{n:05d}.png" for n in range(1, 10)]


@pytest.mark.parametrize("where", ["none/clip.mp4", "file/clip.mp4"])
def test_unwritable_output_fails_first(job, tmp_path, where):
    """An output that cannot be written fails before the first step."""
    (tmp_path / "file").write_text("x")
    steps = []
    with pytest.raises(StoreUnwritableError):
        run(job(out=tmp_path / where), on_event=lambda *event: steps.append(event))
    assert steps == []
    assert logged(tmp_path)[0]["outcome"] == "store_unwritable"


def test_unwritable_frames_fail_first(job, tmp_path):
    """So does a directory of frames."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreUnwritableError):
        run(job(frames_dir=tmp_path / "file"), on_event=lambda *_: pytest.fail("a step was made"))
    assert list((tmp_path / "out").iterdir()) == []


def test_wrong_name(job, tmp_path):
    """Another format is the caller's error."""
    with pytest.raises(UsageError):
        run(job(out=tmp_path / "clip.gif"))


def test_cancelled(job, tmp_path):
    """A cancelled run leaves no output and one line."""
    with pytest.raises(GenerationCancelledError):
        run(job(), cancel=lambda: True)
    assert list((tmp_path / "out").iterdir()) == []
    assert logged(tmp_path)[0]["outcome"] == "generation_cancelled"


def test_interrupted(job, tmp_path):
    """An interrupt leaves no output, keeps what was there before, and leaves one line."""
    (tmp_path / "out" / "clip.mp4").write_bytes(b"old")

    def interrupt(what, done, of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(job(), on_event=interrupt)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["clip.mp4"]
    assert (tmp_path / "out" / "clip.mp4").read_bytes() == b"old"
    assert logged(tmp_path)[0]["outcome"] == "interrupted"


def test_unfit_request(job, tmp_path):
    """What cannot be made fails before outputs are opened."""
    with pytest.raises(UnfitRequestError):
        run(job(wish=Wish("a", frames=8)))
    assert list((tmp_path / "out").iterdir()) == []


def test_broken_engine(job, engine, tmp_path):
    """A broken engine is named, in the log too."""
    among = candidates(engine)
    (engine / "low.onnx").write_bytes(b"")
    with pytest.raises(IncompleteModelError, match="low"):
        run(job(among=among))
    assert logged(tmp_path)[0]["outcome"] == "incomplete_model"


def test_log_that_cannot_be_written(job, tmp_path):
    """A clip is worth more than its line."""
    clip = run(job(log=tmp_path / "none" / "generations.jsonl"))
    assert clip.out.is_file()


def test_same_seed_same_file(job, tmp_path):
    """One seed gives the same frames twice."""
    first = run(job()).sheet.read_bytes()
    assert run(job()).sheet.read_bytes() == first
    assert run(job(wish=Wish("a red circle", seed=4, steps=2))).sheet.read_bytes() != first
