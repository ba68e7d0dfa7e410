"""The numbers on the page about the protocol are the numbers of the program."""

from __future__ import annotations

import re
from pathlib import Path

from p2psync import limits

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
