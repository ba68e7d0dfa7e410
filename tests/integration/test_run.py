"""A pulled engine runs from the command line: clip, plan, probe, and the errors a user meets."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest

from tests.integration.lab import Home, Publisher
from tests.unit.engine.tiny_engine import make_engine, with_probe

REF = "acme/clip:v1"
PROMPT = ("--prompt", "a red circle moves left", "--seed", "3")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A node that pulled a tiny engine with a signed probe from its publisher."""
    base = tmp_path_factory.mktemp("run")
    folder = base / "model"
    with_probe(make_engine(folder / "fp32"))
    publisher = Publisher.at(base / "publisher")
    publisher.publish(folder, REF)
    node = publisher.node(base / "node")
    with publisher.home.serve() as seed:
        node.run("pull", REF, "--from", seed.url)
    return node


def test_prompt_becomes_a_clip(home: Home, tmp_path: Path) -> None:
    """``run`` writes an mp4 with the frames that were asked for, a sheet and the frames; one seed, one clip."""
    words = (*PROMPT, "--frames", "9", "--steps", "2", "--json")
    told = home.run("run", REF, *words, "--out", tmp_path / "a.mp4", "--frames-dir", tmp_path / "frames").json
    assert (told["variant"], told["backend"], told["seed"], told["frames"]) == ("fp32", "ort-cpu", 3, 9)
    with av.open(str(tmp_path / "a.mp4")) as movie:
        assert sum(1 for _ in movie.decode(video=0)) == 9
    assert (tmp_path / "a.sheet.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "frames").glob("*.png"))) == 9
    home.run("run", REF, *words, "--out", tmp_path / "b.mp4", "--frames-dir", tmp_path / "again")
    first, second = ((tmp_path / name / "frame-00009.png").read_bytes() for name in ("frames", "again"))
    assert first == second


def test_last_line_is_the_clip(home: Home, tmp_path: Path) -> None:
    """Standard output is the path; progress and what it took go to standard error, and one line to the log."""
    done = home.run("run", REF, *PROMPT, "--steps", "2", "--out", tmp_path / "a.mp4")
    assert done.line == str(tmp_path / "a.mp4")
    assert "denoising 2 of 2" in done.stderr
    last = json.loads((home.path / "generations.jsonl").read_text().splitlines()[-1])
    assert (last["reference"], last["outcome"]) == (REF, "done")
    assert "circle" not in json.dumps(last)


def test_plan_makes_nothing(home: Home) -> None:
    """``run --plan`` says what a clip would take, without a prompt."""
    plan = home.run("run", REF, "--plan", "--frames", "81", "--json").json
    assert plan["variant"] == "fp32"
    assert plan["frames"] == 81
    assert plan["fits"] in {"together", "swapped", "no", "unknown"}


def test_verify_answers_the_probe(home: Home) -> None:
    """``verify --run`` proves the bytes and then the answers."""
    run = home.run("verify", REF, "--run", "--json").json["run"]
    assert run["probe"]
    assert run["stages"]
    assert all(stage["distance"] <= stage["tolerance"] for stage in run["stages"])
    assert home.run("verify", REF, "--json").json["run"] is None


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        ((*PROMPT,), 2, "--out"),
        ((*PROMPT, "--out", "/proc/clip.mp4"), 6, ""),
        ((*PROMPT, "--out", "clip.gif"), 2, "mp4"),
        ((*PROMPT, "--out", "clip.mp4", "--frames", "10"), 9, "9"),
        ((*PROMPT, "--out", "clip.mp4", "--size", "50x64"), 9, "48"),
        (("--prompt", "", "--out", "clip.mp4"), 2, "--prompt"),
        ((*PROMPT, "--out", "clip.mp4", "--backend", "ort-cuda"), 9, ""),
        ((*PROMPT, "--out", "clip.mp4", "--variant", "int4"), 3, "fp32"),
    ],
)
def test_refusals(home: Home, tmp_path: Path, words: tuple[str, ...], code: int, hint: str) -> None:
    """Each refusal has its code and says what to do; nothing is written."""
    words = tuple(str(tmp_path / word) if word.startswith("clip.") else word for word in words)
    done = home.run("run", REF, *words, code=None)
    assert done.code == code, done.stderr
    assert done.stderr.startswith("error: ")
    assert hint in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_version_that_is_not_here(home: Home) -> None:
    """``run`` fetches nothing: what is not installed is not found, and the hint is the pull."""
    done = home.run("run", "acme/other:v1", *PROMPT, "--out", "x.mp4", code=3)
    assert "acme/other" in done.stderr


def test_variant_under_its_floor_is_not_published(tmp_path: Path) -> None:
    """``publish`` refuses a variant under its floor and says measure, value, floor and worst layer: exit 9."""
    publisher = Publisher.at(tmp_path / "publisher")
    engine = make_engine(tmp_path / "model" / "int8")
    report = {"format": 1, "variant": "int8", "reference": "fp16", "clips": 8, "ssim": 0.71, "ssim_least": 0.5}
    report |= {"ssim_floor": 0.85, "accuracy": None, "accuracy_floor": 0.0, "layers": [["low/blocks.0", 0.4]]}
    (engine / "quality.json").write_text(json.dumps(report))
    done = publisher.home.run("publish", tmp_path / "model", REF, "--key", "maker", code=9)
    for fact in ("SSIM", "0.71", "0.85", "low/blocks.0"):
        assert fact in done.stderr
    (engine / "quality.json").write_text(json.dumps({**report, "ssim": 0.93}))
    publisher.publish(tmp_path / "model", REF)
