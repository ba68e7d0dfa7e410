"""The engine's benchmark judges what was measured, however it came out, and makes the same model in both forms."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import engine_int8, engine_load, engine_start, engine_swap
from p2psync.engine.model import load
from p2psync.limits import MIB

MADE = {"parameters": 43_000_000, "pruned_parameters": 30_000_000, "fast_int8": True}
FACTS = {
    "fp32": {"bytes": 1000, "error": 0.0},
    "int8": {"bytes": 270, "error": 0.02},
    "int8-ends-precise": {"bytes": 271, "error": 0.02},
    "int8-pruned": {"bytes": 200, "error": 0.9},
}


def steps(**ms):
    names = {"fp32": 100.0, "int8": 40.0, "int8_ends_precise": 50.0, "int8_pruned": 30.0} | ms
    return [
        {"form": name.replace("_", "-"), "round": number, "ms": took * slow}
        for number, slow in enumerate((1, 3, 1))
        for name, took in names.items()
    ]


def test_forms_are_judged_in_time_and_bytes():
    """A form exactly on its bound keeps it; a round on a busy machine slows both sides of its ratio."""
    table = engine_int8.group(steps(), FACTS, MADE).table
    assert [row.met for row in table] == [True, True, False, False, True, True]
    assert "2.50x" in table[0].ours
    assert "43 M" in table[0].what
    assert "pruned by 30%" in table[4].what


def test_a_slow_form_is_a_miss():
    """2.19 is not 2.2."""
    assert not engine_int8.group(steps(int8=100 / 2.19), FACTS, MADE).table[0].met


def test_a_processor_without_int8_kernels_is_named():
    """Its miss is a miss, and the row says on what."""
    row = engine_int8.group(steps(int8=90.0), FACTS, MADE | {"fast_int8": False}).table[0]
    assert not row.met
    assert "without VNNI" in row.what


def loads(seconds=0.2, anonymous=90 * MIB, embedded=1100 * MIB):
    def run(form, took, held):
        return {"form": form, "seconds": took, "loaded": {"anonymous": held}, "ran": {"anonymous": held}}

    return [run("mapped", seconds, anonymous), run("mapped", seconds, 1), run("embedded", 3.0, embedded)]


@pytest.mark.parametrize(
    ("runs", "pss", "met"),
    [
        (loads(), 600, [True, True, True]),
        (loads(seconds=0.31), 600, [False, True, True]),
        (loads(anonymous=101_000_000), 600, [True, False, True]),
        (loads(), 1000, [True, True, False]),
    ],
)
def test_loading_is_judged_by_the_worst_memory_and_the_median_time(runs, pss, met):
    """Two processes of 1000 bytes that share nothing weigh 2000 together."""
    two = [{"rss": 1000, "pss": pss, "anonymous": 30}] * 2
    assert [row.met for row in engine_load.group(runs, two, 10**9).table] == met


def test_both_forms_of_a_model_answer_alike(tmp_path, monkeypatch):
    """What is appended to the ONNX file is what its reader finds as its initialisers."""
    monkeypatch.setattr(engine_load, "_WIDTH", 64)
    files = engine_load.make(tmp_path, layers=3, seed=1)
    row = np.random.RandomState(0).standard_normal((1, 64)).astype(np.float32)
    answers = []
    for file in files.values():
        with load(file) as model:
            answers.append(model.run({"h0": row})[0])
    np.testing.assert_array_equal(*answers)
    assert files["mapped"].stat().st_size < 64 * 64
    assert files["embedded"].stat().st_size > 3 * 4 * 64 * 64


@pytest.mark.parametrize(("ours", "met"), [(1.0, True), (1.01, False)])
def test_a_start_is_compared_round_by_round(ours, met):
    """Each round's own ratio counts, since both of its processes met the same machine."""
    both = ((engine_start._OURS, ours), (engine_start._PEERS, 3.0))
    runs = [
        {"way": way, "round": number, "first_step_s": s * slow, "first_clip_s": s * slow, "clip_s": s}
        for number, slow in enumerate((1, 5, 1))
        for way, s in both
    ]
    table = engine_start.group(runs).table
    assert table[0].met is met
    assert "3.00 s (3.00 to 15.00)" in table[0].beside


def test_a_start_is_counted_from_the_process():
    """The interpreter's own start belongs to it."""
    said = {"opened": 101.0, "first_step": 101.5, "clips": [103.0, 104.0], "load_average": 0.5}
    found = engine_start.since(100.0, said)
    assert (found["opened_s"], found["first_step_s"], found["first_clip_s"], found["clip_s"]) == (1.0, 1.5, 3.0, 1.0)


def served(answers, takeovers, lost=()):
    signs = sorted({*answers, *(stamp - 0.5 for stamp in answers)})
    said = {"signs": signs, "answers": answers, "takeovers": takeovers, "lost": list(lost), "load_average": 0.0}
    return engine_swap.noticed(json.loads(json.dumps(said)))


def test_only_what_meets_a_takeover_counts_against_it():
    """A long gap elsewhere is in the median of the quiet ones, and the pause is what a takeover adds to that."""
    found = served([1.0, 2.0, 3.0, 4.8, 5.8, 6.8], [(3.5, 4.0)])
    assert found["quiet_answer_s"] == 1.0
    assert found["longest_answer_s"] == [1.8]
    assert found["longest_step_s"] == [1.3]
    table = engine_swap.group([found]).table
    assert [row.met for row in table] == [True, False, True]
    assert table[0].ours == "0.80 s more"


def test_a_lost_request_is_a_miss():
    """Also where nobody waited."""
    table = engine_swap.group([served([1.0, 2.0, 3.0], [(2.1, 2.2)], ["ModelError: gone"])]).table
    assert [row.met for row in table] == [True, True, False]
    assert table[2].ours == "1"
