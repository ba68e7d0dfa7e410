"""The whole report: counted, without sockets when offline, and complete on a machine where everything breaks."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import NoReturn

import pytest

from p2psync.node import doctor
from p2psync.node import home_checks as disk
from p2psync.store import Store, condition

NETWORK = {"interfaces", "multicast", "kernel"}


def names(report: dict[str, list[dict[str, str]]]) -> set[str]:
    return {check["name"] for check in report["checks"]}


def test_report_is_counted(home: Path) -> None:
    """What failed and what warns are as many as the rows say, and each of them says what to do."""
    home.chmod(0o777)
    report = doctor.examine(home, {"ALL_PROXY": "http://p:1"}, offline=True)
    outcomes = {check["name"]: check["outcome"] for check in report["checks"]}
    assert outcomes["home owner"] == "failed"
    assert outcomes["proxy"] == "warning"
    assert report["failed"] == list(outcomes.values()).count("failed")
    assert report["warnings"] == list(outcomes.values()).count("warning")
    assert all(check["hint"] for check in report["checks"] if check["outcome"] != "ok")


def test_offline_opens_no_socket(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is left out, and nothing else needs a socket."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    report = doctor.examine(home, {}, offline=True)
    assert not names(report) & NETWORK
    assert not any("a socket was opened" in check["found"] for check in report["checks"])


def test_every_disk_call_fails(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that answers nothing but errors still gets its report, a row for each check."""
    whole = names(doctor.examine(home, {}, offline=True))

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(5, "Input/output error")

    for name in ("mounted", "room", "shares_blocks", "sync_time_s", "interrupted", "standing"):
        monkeypatch.setattr(condition, name, fail)
    monkeypatch.setattr(disk, "owner_pid", fail)
    monkeypatch.setattr(Store, "open", fail)
    report = doctor.examine(home, {}, offline=True)
    assert names(report) >= whole
    told = [check for check in report["checks"] if "Input/output error" in check["found"]]
    assert len(told) == 8


def test_home_is_left_as_it_was(home: Path) -> None:
    """Nothing is made in an empty home, and none is made where there is none."""
    doctor.examine(home, {}, offline=True)
    assert list(home.iterdir()) == []
    doctor.examine(home / "none", {}, offline=True)
    assert list(home.iterdir()) == []
