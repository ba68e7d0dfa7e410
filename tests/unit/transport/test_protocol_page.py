"""The numbers on the page about the protocol are the numbers of the program."""

from __future__ import annotations

import re
from pathlib import Path

from p2psync import limits
from p2psync.transport import Reason

PAGE = Path(__file__).parents[3] / "docs" / "protocol.md"


def test_limits_on_the_page_are_true() -> None:
    """Every limit in the page's table has the value that it has in the program."""
    rows = re.findall(r"^\| `([A-Z_]+)` \| (\d+) \|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) > 20
    assert {name: int(value) for name, value in rows} == {name: getattr(limits, name) for name, _ in rows}


def test_limits_in_the_text_are_true() -> None:
    """The sizes and times that the prose names are the limits that it means."""
    assert (limits.BATCH_DIGESTS_MAX, limits.BATCH_BYTES_MAX) == (1024, 4 * limits.MIB)
    assert (limits.HEAD_BYTES_MAX, limits.NODE_BYTES_MAX) == (limits.KIB, 16 * limits.MIB)
    assert (limits.RESPONSE_TIMEOUT_S, limits.RATE_WINDOW_S, limits.RATE_MIN_BYTES_PER_S) == (10, 10, limits.KIB)
    assert limits.IDLE_CLIENT_S < limits.IDLE_SERVER_S


def test_words_on_the_page_are_those_that_are_said() -> None:
    """The table of the words of parting names every word that crosses the wire, and no other."""
    table = PAGE.read_text().partition("**Parting.**")[2].partition("**One channel")[0]
    words = re.findall(
        r"`([a-z]+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if line.startswith("|"))
    )
    assert set(words) == {reason.value for reason in Reason} - {"unreachable"}
