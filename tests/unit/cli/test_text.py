"""Numbers and tables for people."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.cli import text


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (9_995_000, "10.0 MB"),
        (1 << 20, "1.05 MB"),
        (99_950_000, "100 MB"),
        (16_100_000_000, "16.1 GB"),
        (1 << 63, "9.22 EB"),
    ],
)
def test_sizes(count, shown):
    """Sizes have decimal units and three digits."""
    assert text.size(count) == shown


@given(st.integers(0, 1 << 63))
def test_sizes_stay_short(count):
    """No size is wider than nine characters, and it is right to half a per cent."""
    shown = text.size(count)
    number, unit = shown.split()
    value = float(number) * 1000 ** ("B", "kB", "MB", "GB", "TB", "PB", "EB").index(unit)
    assert len(shown) <= 9
    assert abs(value - count) <= count * 0.0051


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (12.4, "12 s"), (200, "3 min 20 s"), (18_600, "5 h 10 min")],
)
def test_durations(seconds, shown):
    """Durations use the two largest units that matter."""
    assert text.duration(seconds) == shown


def test_moments():
    """A time is shown in UTC; a number that no calendar has is shown as it is."""
    assert text.moment(1_764_028_800) == "2025-11-25 00:00 UTC"
    assert text.day(1_764_028_800) == "2025-11-25"
    assert text.moment(1 << 70) == str(1 << 70)


def test_others_words_cannot_move_the_cursor():
    """Control characters, bidirectional marks and lone surrogates are shown, not obeyed; other scripts stay."""
    assert text.printable("a\x1b[2J\nb\u202ec\udc80 ü 模型") == "a\\x1b[2J\\nb\\u202ec\\udc80 ü 模型"


def test_tables_align_and_drop_empty_columns():
    """Columns are two spaces apart, numbers to the right, and a column without content is left out."""
    lines = text.table(("NAME", ">SIZE", "NOTE"), [("a", "1 B", ""), ("long\n", "10 kB", "")])
    assert lines == ["NAME     SIZE", "a         1 B", "long\\n  10 kB"]


def test_pairs_leave_out_what_is_empty():
    """A fact without a value takes no line."""
    assert text.pairs([("a", "1"), ("longer", ""), ("bcd", "2")]) == ["a    1", "bcd  2"]


def test_counts():
    """One is one, others are several."""
    assert [text.plural(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]


def test_short_forms():
    """A digest is shortened in tables; a reference without one stays."""
    digest = "b3:" + "0123456789abcdef" * 4
    assert text.short_digest(digest) == "b3:01234567"
    assert text.short_reference(f"acme/m@{digest}") == "acme/m@b3:01234567"
    assert text.short_reference("acme/m:v1") == "acme/m:v1"
