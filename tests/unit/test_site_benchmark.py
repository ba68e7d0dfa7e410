"""The site benchmark keeps its promises apart from its figures: each bound is judged by the worst of the seeds."""

from __future__ import annotations

import json

import pytest

from benchmarks import site
from benchmarks.report import Row
from benchmarks.site import Found

OURS, LONE, ARIA = "p2psync", "one lone p2psync pull", "one lone aria2, 16 connections"


def a_run(way: str, seed: int, seconds: float, outside_ratio: float = 1.0, **more) -> dict:
    unique = 96 << 20
    outside = {"outside_bytes": int(unique * outside_ratio), "outside_ratio": outside_ratio, "ip_ratio": 1.05}
    return {"way": way, "seed": seed, "seconds": seconds, "bytes": unique, "ends_s": {"n12": 403.0}, **outside, **more}


def table(question: str, *runs: dict) -> list[Row]:
    asked = site.questions()[question]
    return asked.table(Found(asked.case, runs))


def test_the_faster_lone_downloader_is_what_a_site_is_held_against():
    """0.97 of a slow pull of our own is not enough where another program does better."""
    runs = [a_run(OURS, 1, 50.0), a_run(LONE, 1, 50.0)]
    assert table("six", *runs)[1].met
    assert not table("six", *runs, a_run(ARIA, 1, 43.0))[1].met


@pytest.mark.parametrize(("ratio", "met"), [(1.005, True), (1.006, False)])
def test_the_worst_seed_decides(ratio, met):
    """One seed beyond the bound misses it, whatever the median is."""
    runs = [a_run(LONE, seed, 43.0) for seed in (1, 2, 3)]
    runs += [a_run(OURS, 1, 43.0), a_run(OURS, 2, 43.0), a_run(OURS, 3, 43.0, ratio)]
    assert [row.met for row in table("six", *runs)[:2]] == [met, True]


def test_the_node_behind_the_slow_port_is_told_apart():
    """Its own finish is a row without a bound."""
    last = table("twelve", a_run(OURS, 1, 43.0), a_run(LONE, 1, 43.0))[-1]
    assert (last.ours, last.bound) == ("403 s", "")


def test_a_lost_fetcher_may_cost_what_it_had_in_flight():
    """Two MiB beyond the bound are allowed, and a twentieth of the time."""
    undisturbed = a_run(OURS, 1, 43.0)
    for seconds, ratio, met in ((45.0, 1.025, [True, True]), (45.5, 1.027, [False, False])):
        killed = a_run("p2psync, fetcher killed", 1, seconds, ratio)
        assert [row.met for row in table("lost_fetcher", undisturbed, killed)] == met


def test_nothing_is_said_of_what_was_not_measured():
    """Runs of the others alone make no row."""
    assert table("six", a_run(LONE, 1, 43.0), a_run("libtorrent", 1, 90.0)) == []
    assert table("many") == []


def test_runs_of_a_group_are_read_back(tmp_path):
    """What a file holds of a group is kept for the next time; no file and no group are no runs."""
    file = tmp_path / "site.json"
    assert site.runs_of(file, "six") == []
    file.write_text(json.dumps({"groups": {"six": {"runs": [a_run(LONE, 1, 43.0)]}}}))
    assert [run["way"] for run in site.runs_of(file, "six")] == [LONE]
    assert site.runs_of(file, "twelve") == []
