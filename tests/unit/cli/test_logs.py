"""The log: how a record is told, and how few of a kind are."""

from __future__ import annotations

import json
import logging
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2psync.cli.logs import LogHandler, end_log, log_event, log_to_stderr
from p2psync.cli.output import Output
from p2psync.cli.records import Limiter, as_object, as_text, kind_of


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def record(message, *args, level=logging.WARNING, name="p2psync.test", error=None, **extra):
    info = (type(error), error, error.__traceback__) if error is not None else None
    made = logging.LogRecord(name, level, "/x/test.py", 1, message, args, info, "work")
    made.created = 0.0625
    vars(made).update(extra)
    return made


@pytest.fixture
def said(capsys):
    """What was said on standard error, as lines."""

    def lines():
        return capsys.readouterr().err.splitlines()

    yield lines
    for handler in list(logging.getLogger().handlers):
        if isinstance(handler, LogHandler):
            logging.getLogger().removeHandler(handler)
    logging.getLogger("p2psync").setLevel(logging.NOTSET)


def test_record_as_an_object():
    """Time in UTC with a Z, level, logger, event, message and fields; peer only where there is one."""
    told = as_object(record("%s is full", "the disk", event="disk full", fields={"free": 7}), 0, verbose=False)
    assert told == {
        "time": "1970-01-01T00:00:00.062Z",
        "level": "warning",
        "logger": "p2psync.test",
        "event": "disk full",
        "message": "the disk is full",
        "fields": {"free": 7},
    }
    assert as_object(record("x", peer="n1"), 3, verbose=False) | {"peer": "n1", "suppressed": 3} == as_object(
        record("x", peer="n1"), 3, verbose=False
    )


def test_record_without_an_event_is_named_by_its_place():
    """Where a line was not given an event, the module and function that said it are the event."""
    assert as_object(record("x"), 0, verbose=False)["event"] == "test.work"


def test_error_of_a_record():
    """The error's name and text always stand in the object, the traceback only when it was asked for."""
    try:
        raise ValueError("at http://u:hunter2@h/x")
    except ValueError as error:
        made = record("x", error=error)
    brief, full = as_object(made, 0, verbose=False), as_object(made, 0, verbose=True)
    assert brief["error"] == "ValueError: at http://h/x"
    assert "traceback" not in brief
    assert "test_logs.py" in full["traceback"]
    assert "hunter2" not in json.dumps(full)
    assert list(as_text(made, 0, verbose=False)) == ["warning: p2psync.test: x: ValueError: at http://h/x"]
    assert "hunter2" not in "".join(as_text(made, 0, verbose=True))


@settings(max_examples=50)
@given(st.text(), st.dictionaries(st.text(), st.text() | st.integers() | st.binary()))
def test_any_record_is_one_line_of_json(text, fields):
    """Whatever a record holds, its object is one line that a program reads back."""
    line = json.dumps(as_object(record("%s", text, fields=fields, peer=text), 0, verbose=False))
    assert len(line.splitlines()) == 1
    assert json.loads(line)["level"] == "warning"


def test_one_line_of_a_kind_in_a_window():
    """The first is said at once, those after it are counted, and the next window's first tells how many."""
    clock = Clock()
    limiter = Limiter(10.0, 8, clock)
    first, later = record("a"), record("a")
    assert list(limiter.take(("a",), first)) == [(first, 0)]
    for _ in range(5):
        assert list(limiter.take(("a",), record("a"))) == []
    clock.now_s = 10.0
    assert list(limiter.take(("a",), later)) == [(later, 5)]
    assert list(limiter.take(("a",), record("a"))) == []


def test_kinds_do_not_hide_each_other():
    """A flood of one kind holds back no other; the same event of another peer is another kind."""
    clock = Clock()
    limiter = Limiter(10.0, 8, clock)
    flood, calm = record("a", peer="n1"), record("a", peer="n2")
    assert kind_of(flood) != kind_of(calm)
    for _ in range(3):
        list(limiter.take(kind_of(flood), flood))
    assert list(limiter.take(kind_of(calm), calm)) == [(calm, 0)]


def test_values_make_no_kind():
    """Two lines of one template are alike, whatever stands in them."""
    assert kind_of(record("lost %s", "x")) == kind_of(record("lost %s", "y"))
    assert kind_of(record("lost %s", "x")) != kind_of(record("found %s", "x"))


def test_what_was_held_back_is_said_when_its_window_is_over():
    """The last of a flood that ended is said with the next line of any kind, or at the end."""
    clock = Clock()
    limiter = Limiter(10.0, 8, clock)
    flood, last, other = record("a"), record("a"), record("b")
    list(limiter.take(("a",), flood))
    list(limiter.take(("a",), flood))
    list(limiter.take(("a",), last))
    clock.now_s = 11.0
    assert list(limiter.take(("b",), other)) == [(last, 1), (other, 0)]
    list(limiter.take(("b",), other))
    assert list(limiter.drain()) == [(other, 0)]
    assert list(limiter.drain()) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 4)), max_size=80))
def test_no_record_is_lost_uncounted_and_the_table_is_bounded(steps):
    """Said lines and the counts that they carry add up to all records; no more kinds are kept than allowed."""
    clock = Clock()
    limiter = Limiter(10.0, 3, clock)
    told = 0
    for number, wait_s in steps:
        clock.now_s += wait_s
        told += sum(1 + held for _, held in limiter.take((str(number),), record("x")))
        assert len(limiter._windows) <= 3
    told += sum(1 + held for _, held in limiter.drain())
    assert told == len(steps)


@pytest.mark.parametrize("as_json", [False, True])
def test_flood_is_few_lines_on_standard_error(said, as_json):
    """In both modes a thousand alike are two lines: the first, and at the end the last with its count."""
    log_to_stderr(Output(), as_json=as_json)
    for number in range(1000):
        logging.getLogger("p2psync.x").warning("a bad thing %d", number)
    end_log()
    lines = said()
    assert len(lines) == 2
    if as_json:
        assert [json.loads(line)["message"] for line in lines] == ["a bad thing 0", "a bad thing 999"]
        assert json.loads(lines[1])["suppressed"] == 998
    else:
        assert lines == [
            "warning: p2psync.x: a bad thing 0",
            "warning: p2psync.x: a bad thing 999 (998 more like this)",
        ]


@pytest.mark.parametrize(
    ("out", "as_json", "levels"),
    [
        (Output(), False, ["warning"]),
        (Output(), True, ["info", "warning"]),
        (Output(verbose=True), False, ["debug", "info", "warning"]),
        (Output(quiet=True), True, []),
    ],
)
def test_which_levels_are_said(said, out, as_json, levels):
    """People get warnings, programs news too, --verbose all of it, --quiet errors alone."""
    log_to_stderr(out, as_json=as_json)
    log = logging.getLogger("p2psync.x")
    log.debug("1")
    log.info("2")
    log.warning("3")
    lines = said()
    found = [json.loads(line)["level"] for line in lines] if as_json else [line.partition(":")[0] for line in lines]
    assert found == levels


def test_line_that_cannot_be_made_ends_nothing(said, monkeypatch):
    """A record whose values do not fit its text is a fault of ours, and the work goes on."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    log_to_stderr(Output())
    logging.getLogger("p2psync.x").warning("%d", "no number")
    logging.getLogger("p2psync.x").warning("after")
    assert said() == ["warning: p2psync.x: after"]


def test_events_of_a_node_are_logged(said):
    """A ban is a warning with the peer and what it is about; figures are not logged."""
    log_to_stderr(Output(), as_json=True)
    log_event({"event": "progress", "done": 1, "total": 2})
    log_event({"event": "peer", "state": "banned", "node": "ab" * 32, "url": "http://h:1", "reason": "wrong bytes"})
    log_event({"event": "peer", "state": "joined", "node": "ab" * 32, "url": "http://h:1", "reason": None})
    ban, joined = map(json.loads, said())
    assert (ban["level"], ban["event"], ban["peer"]) == ("warning", "peer banned", "ab" * 32)
    assert ban["message"] == "peer banned abababababababab wrong bytes"
    assert ban["fields"] == {"node": "ab" * 32, "url": "http://h:1", "reason": "wrong bytes"}
    assert (joined["level"], joined["message"]) == ("info", "peer joined abababababababab")


def test_nobody_reads(monkeypatch):
    """Without a standard error nothing is said and nothing fails."""
    monkeypatch.setattr(sys, "stderr", None)
    LogHandler(Output(), as_json=True).emit(record("x"))
