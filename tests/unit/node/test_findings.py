"""A check that hangs or breaks ends in a finding, and the rest of the report comes."""

from __future__ import annotations

import threading

import pytest

from p2psync.errors import StoreError
from p2psync.limits import CHECK_AFTER_HANG_S, CHECK_TIMEOUT_S
from p2psync.node.findings import Check, Finding, Outcome, look_at, ok


def broken() -> Finding:
    raise ZeroDivisionError("by nothing")


def refused() -> Finding:
    raise StoreError("it is garbled", hint="restore it")


def test_a_check_that_hangs_is_left_behind() -> None:
    """Its finding says so, and the next check is made."""
    never = threading.Event()

    def hang() -> Finding:
        never.wait()
        return ok("dead disk", "")

    found = look_at([Check("dead disk", hang), Check("next", lambda: ok("next", "well"))], timeout_s=0.05)
    never.set()
    assert [(each.name, each.outcome) for each in found] == [("dead disk", Outcome.FAILED), ("next", Outcome.OK)]


def test_the_patience_with_a_check_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever says nothing of a limit waits for each check, and not for ever: less for those behind one that hung."""
    waited: list[float | None] = []
    monkeypatch.setattr(threading.Thread, "start", lambda _thread: None)
    monkeypatch.setattr(threading.Thread, "join", lambda _thread, timeout=None: waited.append(timeout))
    found = look_at([Check(name, lambda: ok("never", "")) for name in ("one", "two")])
    assert [each.outcome for each in found] == [Outcome.FAILED] * 2
    first, second = waited
    assert first is not None
    assert second is not None
    assert 0 < second <= CHECK_AFTER_HANG_S < first <= CHECK_TIMEOUT_S


def test_after_one_that_hung_less_patience_is_left() -> None:
    """A report on a dead disk takes seconds, however many checks hang."""
    never = threading.Event()

    def hang() -> Finding:
        never.wait()
        return ok("dead disk", "")

    found = look_at([Check("one", hang), Check("two", hang)], timeout_s=0.05)
    never.set()
    assert [each.outcome for each in found] == [Outcome.FAILED] * 2


def test_a_check_that_raises_is_a_finding() -> None:
    """An error of ours is what was found, with its hint; any other means that nobody can tell."""
    first, second = look_at([Check("trust", refused), Check("odd", broken)])
    assert (first.outcome, first.found, first.hint) == (Outcome.FAILED, "it is garbled", "restore it")
    assert (second.outcome, second.found) == (Outcome.WARNING, "cannot be determined: by nothing")


def test_what_cannot_be_said_is_left_out() -> None:
    """A check that finds nothing to say has no row."""
    assert look_at([Check("nothing", lambda: None)]) == []
