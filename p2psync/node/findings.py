"""One thing that was looked at on this machine, and how to look without waiting or failing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from p2psync.errors import P2PSyncError
from p2psync.limits import CHECK_AFTER_HANG_S, CHECK_TIMEOUT_S


class Outcome(StrEnum):
    """``warning``: it works, and will hurt. ``failed``: what this is about does not work."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one thing, and what to do where it is not well."""

    name: str
    outcome: Outcome
    found: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A thing that is looked at. ``look`` returns None where nothing can be said honestly."""

    name: str
    look: Callable[[], Finding | None]


def ok(name: str, found: str) -> Finding:
    """It is well."""
    return Finding(name, Outcome.OK, found)


def warning(name: str, found: str, hint: str) -> Finding:
    """It will hurt."""
    return Finding(name, Outcome.WARNING, found, hint)


def failed(name: str, found: str, hint: str) -> Finding:
    """It does not work."""
    return Finding(name, Outcome.FAILED, found, hint)


def look_at(checks: Iterable[Check], timeout_s: float = CHECK_TIMEOUT_S) -> list[Finding]:
    """Make every check, one after the other. None is waited for longer than ``timeout_s``, none raises.

    A thread that hangs in a dead disk cannot be ended, so it is left behind, and ends with the process. Others are
    then expected to hang too: a report on a dead disk must not take minutes.
    """
    findings = []
    for check in checks:
        answers = _within(check, timeout_s)
        if not answers:
            hint = "the disk or the kernel hangs: see dmesg"
            answers = [failed(check.name, f"no answer within {timeout_s:g} s", hint)]
            timeout_s = min(timeout_s, CHECK_AFTER_HANG_S)
        findings += [finding for finding in answers if finding is not None]
    return findings


def _within(check: Check, timeout_s: float) -> list[Finding | None]:
    """The answer of a check; nothing where it does not come in time."""
    answers: list[Finding | None] = []

    def work() -> None:
        answers.append(_guarded(check))

    thread = threading.Thread(target=work, name=f"check {check.name}", daemon=True)
    thread.start()
    thread.join(timeout_s)
    return answers[:]


def _guarded(check: Check) -> Finding | None:
    """A machine that is broken where nobody foresaw it still gets the rest of its report."""
    try:
        return check.look()
    except P2PSyncError as error:
        return failed(check.name, error.message, error.hint or "")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what was found
        text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        return warning(check.name, f"cannot be determined: {text}", "")
