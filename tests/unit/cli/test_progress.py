"""Progress counts bytes by source, and shows as a bar or as lines."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.cli import progress
from p2psync.cli.output import Output
from p2psync.cli.progress import Bar, Lines, Rate, Silence, Tally, choose

PLAN = {"event": "plan", "total": 100, "reused": 20, "resumed": 5, "missing": 80, "files": 2}


def test_tally_counts_by_source():
    """What is here is what was reused plus what came from each source; rate and time left follow."""
    tally = Tally("pull m")
    assert tally.take(PLAN, 0.0) == "20 B of 100 B in 2 files are here, 5 B of it from an interrupted pull"
    tally.take({"event": "progress", "lan": 10, "wan": 10, "done": 20}, 2.0)
    assert (tally.done, tally.share, tally.rate.bytes_per_s, tally.eta_s) == (40, 0.4, 10.0, 6.0)
    assert progress.line_of(tally) == (
        "pull m:  40%  40 B of 100 B  10 B/s, 6.0 s left  (reused 20 B, patched 0 B, lan 10 B, wan 10 B)"
    )


def test_tally_of_hashing():
    """Reading files has no sources."""
    tally = Tally("verify")
    tally.take({"event": "hashing", "done": 50, "total": 100}, 1.0)
    assert progress.line_of(tally) == "verify:  50%  50 B of 100 B  0 B/s"


def test_tally_of_a_second_pull():
    """The plan of the next version starts anew."""
    tally = Tally("pull m")
    tally.take(PLAN, 0.0)
    tally.take({"event": "progress", "lan": 80, "wan": 0}, 1.0)
    tally.take({**PLAN, "total": 1000, "reused": 0}, 2.0)
    assert (tally.done, tally.lan, tally.total, tally.rate.bytes_per_s) == (0, 0, 1000, 0.0)


@pytest.mark.parametrize(
    ("event", "news"),
    [
        ({"event": "source", "url": "u", "state": "banned", "reason": "lies"}, "source u banned: lies"),
        (
            {"event": "resolved", "reference": "a/m:v1", "digest": "b3:1", "version": 2, "unchanged": False},
            "version 2 of a/m:v1 is b3:1",
        ),
        ({"event": "resolved", "unchanged": True}, ""),
        ({"event": "something new"}, ""),
        ({}, ""),
    ],
)
def test_news(event, news):
    """Sources that fail and versions that are found are news; kinds that are not known are passed over."""
    assert Tally("x").take(event, 0.0) == news


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 1000)), max_size=50))
def test_rate_is_never_negative(steps):
    """Whatever comes, a rate is not negative, and a counter that starts anew starts a new rate."""
    rate = Rate()
    now_s = 0.0
    for later_s, done in steps:
        now_s += later_s
        rate.add(done, now_s)
        assert rate.bytes_per_s >= 0


def test_rate_looks_back_some_seconds():
    """An old burst does not count for ever."""
    rate = Rate()
    rate.add(0, 0.0)
    rate.add(1000, 1.0)
    for second in range(2, 30):
        rate.add(1000 + second, float(second))
    assert rate.bytes_per_s == pytest.approx(1.0, abs=0.2)


def test_lines_are_few(capsys, monkeypatch):
    """Away from a terminal there is a line when 10 s have passed or 5 % were gained, and never two in one second."""
    clock = iter([0.0] + [i / 10 for i in range(1, 1001)])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    display = Lines("pull m", Output())
    for done in range(1000):
        display.take({"event": "hashing", "done": done * 100, "total": 100_000})
    lines = capsys.readouterr().err.splitlines()
    assert 18 <= len(lines) <= 21
    assert all(line.startswith("pull m: ") for line in lines)


def test_lines_come_when_nothing_moves(capsys, monkeypatch):
    """A pull that hardly moves still says something every 10 s."""
    clock = iter(range(100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    display = Lines("pull m", Output())
    for _ in range(40):
        display.take({"event": "hashing", "done": 1, "total": 1000})
    assert len(capsys.readouterr().err.splitlines()) == 4


def test_bar_goes_away(monkeypatch, capsys):
    """The bar shows the tally on standard error only, prints news above itself, and leaves nothing open."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    bar = Bar("pull m")
    bar.take(PLAN)
    bar.take({"event": "progress", "lan": 30, "wan": 0, "done": 30})
    bar.take({"event": "source", "url": "http://evil\x1b[2J", "state": "dropped", "reason": "gone"})
    bar.close()
    bar.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "http://evil\\x1b[2J dropped: gone" in captured.err
    assert "50 B of 100 B" in captured.err


class Terminal:
    """A standard error that claims to be a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("environ", "terminal", "wanted", "quiet", "kind"),
    [
        ({}, True, True, False, Bar),
        ({"NO_COLOR": "1"}, True, True, False, Bar),
        ({"CI": "false"}, True, True, False, Bar),
        ({"CI": "true"}, True, True, False, Lines),
        ({"TERM": "dumb"}, True, True, False, Lines),
        ({}, False, True, False, Lines),
        ({}, True, False, False, Silence),
        ({}, True, True, True, Silence),
    ],
)
def test_choice_of_display(monkeypatch, environ, terminal, wanted, quiet, kind):
    """A terminal gets a bar; CI, a dumb terminal and a file get lines; --no-progress and --quiet get nothing."""
    if terminal:
        monkeypatch.setattr(sys, "stderr", Terminal())
    assert type(choose("x", Output(quiet=quiet), wanted=wanted, environ=environ)) is kind


def test_no_colour(monkeypatch, capsys):
    """With NO_COLOR the bar sends no colours."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    bar = Bar("pull m")
    bar.take(PLAN)
    bar.close()
    assert "\x1b[3" not in capsys.readouterr().err
