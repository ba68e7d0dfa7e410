"""The log of generations is bounded, whole under concurrency, and never holds a prompt."""

import json
import multiprocessing
from dataclasses import fields, replace

import pytest

from p2psync.engine import generations
from p2psync.engine.generations import Generation, append, last
from p2psync.errors import StoreUnwritableError

ONE = Generation(
    time_unix_s=1,
    reference="demo/tiny:v1",
    digest="b3:00",
    version=1,
    variant="int8",
    backend="ort-cpu",
    precision="int8",
    height_px=64,
    width_px=64,
    frames=9,
    steps=8,
    seconds=1.5,
    seconds_per_step=0.1,
    peak_memory_bytes=100,
    outcome="done",
)


def test_newest_last(tmp_path):
    """Lines come back in order, the newest last, as plain values."""
    path = tmp_path / "generations.jsonl"
    assert last(path, 3) == []
    for at in range(5):
        append(path, replace(ONE, time_unix_s=at))
    assert [line["time_unix_s"] for line in last(path, 3)] == [2, 3, 4]
    assert last(path, 1)[0] == json.loads(json.dumps({f.name: getattr(ONE, f.name) for f in fields(ONE)})) | {
        "time_unix_s": 4
    }
    assert path.stat().st_mode & 0o777 == 0o600


def test_has_no_field_for_a_prompt():
    """What is noted is figures and names of versions."""
    assert not {f.name for f in fields(Generation)} & {"prompt", "text", "seed"}


def test_is_bounded(tmp_path, monkeypatch):
    """Beyond its bound the older half goes, and what stays are whole lines."""
    monkeypatch.setattr(generations, "GENERATIONS_BYTES_MAX", 4000)
    path = tmp_path / "generations.jsonl"
    for at in range(100):
        append(path, replace(ONE, time_unix_s=at))
        assert path.stat().st_size <= 4000
    lines = [json.loads(line)["time_unix_s"] for line in path.read_text().splitlines()]
    assert lines == list(range(lines[0], 100))
    assert len(lines) >= 5


def test_a_torn_line_is_passed_over(tmp_path):
    """A line that a crash cut short hides no other."""
    path = tmp_path / "generations.jsonl"
    append(path, ONE)
    with path.open("a") as file:
        file.write('{"time_unix_s": 2, "refer\n[]\n')
    append(path, replace(ONE, time_unix_s=3))
    assert [line["time_unix_s"] for line in last(path, 9)] == [1, 3]


def test_a_line_that_is_nested_without_end_is_passed_over(tmp_path):
    """Like every other line that is none of ours."""
    path = tmp_path / "generations.jsonl"
    append(path, ONE)
    path.write_bytes(path.read_bytes() + b"[" * 100_000 + b"\n")
    assert [line["time_unix_s"] for line in last(path, 9)] == [1]


def write_many(path, first):
    for at in range(first, first + 50):
        append(path, replace(ONE, time_unix_s=at))


def test_two_writers(tmp_path):
    """Two runs at once on one home lose no line and mix none."""
    path = tmp_path / "generations.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(path, first)) for first in (0, 1000)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert sorted(line["time_unix_s"] for line in last(path, 1000)) == [*range(50), *range(1000, 1050)]


def test_unwritable(tmp_path):
    """A log that cannot be written says so as an error of this disk."""
    with pytest.raises(StoreUnwritableError):
        append(tmp_path / "nowhere" / "generations.jsonl", ONE)
