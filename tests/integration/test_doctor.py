"""The real ``p2psync doctor``: without a home, beside a running node, and where no home can be had."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.lab import Home, Publisher
from tests.unit.cli import shapes


def outcomes(report: dict[str, Any]) -> dict[str, str]:
    """Check to outcome, of a report in the frozen shape."""
    assert shapes.faults("doctor", report) == []
    return {check["name"]: check["outcome"] for check in report["checks"]}


def test_beside_a_running_node(tmp_path: Path) -> None:
    """The node is named and goes on; what is wrong with its home is found, and the exit code stays 0."""
    publisher = Publisher.at(tmp_path / "publisher")
    home = publisher.home
    with home.serve() as serving:
        report = home.json("doctor", "--offline")
        assert outcomes(report)["private files"] == "ok"
        assert f"by process {home.json('status')['pid']}" in [check["found"] for check in report["checks"]]
        home.path.chmod(0o777)
        report = home.json("doctor")
        assert outcomes(report)["home owner"] == "failed"
        assert report["failed"] >= 1
        assert home.json("status")["serving"] == serving.url


def test_text_has_a_hint_below_what_is_not_well(tmp_path: Path) -> None:
    """A row for each check, hints below, and the sum last; ``--quiet`` leaves the names of what is not well."""
    (tmp_path / "home").mkdir(mode=0o700)
    home = Home(tmp_path / "home")
    lines = home.run("doctor", "--offline").stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if "no publisher is trusted yet" in line)
    assert lines[at].startswith("!  trust")
    assert lines[at + 1].strip().startswith("hint: p2psync trust add")
    assert re.fullmatch(r"\d+ failed, \d+ warnings?", lines[-1])
    assert "trust" in home.run("doctor", "--offline", "-q").stdout.split()


def test_no_home_is_made_and_none_is_no_fault(tmp_path: Path) -> None:
    """Of a home that does not exist, the report says what it would stand on."""
    home = Home(tmp_path / "none")
    assert outcomes(home.json("doctor", "--offline"))["home"] == "ok"
    assert not home.path.exists()


@pytest.mark.parametrize("package", ["blake3", "cbor2", "nacl", "ifaddr"])
def test_a_package_that_cannot_be_loaded(tmp_path: Path, package: str) -> None:
    """A broken package ends with 1, and the report comes: it is made without what every other verb needs."""
    code = f"import sys; sys.modules[{package!r}] = None; from p2psync.cli.main import entry; entry()"
    report = Home(tmp_path / "home", (sys.executable, "-c", code)).json("doctor", code=1)
    assert outcomes(report)["libraries"] == "failed"
    assert package in next(check["found"] for check in report["checks"] if check["name"] == "libraries")


def test_where_no_home_can_be_had(tmp_path: Path) -> None:
    """A home below a file ends with 6, and the report is whole: the rest of the machine is told nevertheless."""
    (tmp_path / "file").write_bytes(b"")
    told = outcomes(Home(tmp_path / "file" / "home").json("doctor", "--offline", code=6))
    assert told["home"] == "failed"
    assert told["python"] == "ok"
