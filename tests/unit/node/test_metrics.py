"""Numbers as OpenMetrics text, parsed back by the library that scrapers use."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from p2psync.node.metrics import CONTENT_TYPE, Kind, Series, expose, single


def parsed(*series: Series) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(expose(series).decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_each_kind_is_read_back() -> None:
    """A counter gets its suffix, a gauge stands as it is, words are the labels of a one."""
    assert parsed(
        single("things", "Things.", Kind.COUNTER, 3),
        Series("room", "Room.", Kind.GAUGE, {("a",): 1.5, ("b",): -2}, ("part",)),
        Series("build", "Build.", Kind.INFO, {("1", "x"): 1}, ("version", "name")),
    ) == {
        ("things_total", ()): 3.0,
        ("room", (("part", "a"),)): 1.5,
        ("room", (("part", "b"),)): -2.0,
        ("build_info", (("name", "x"), ("version", "1"))): 1.0,
    }


def test_no_rows_is_a_metric_without_samples() -> None:
    """A table that nothing was counted in is told as empty, and the text stays whole."""
    text = expose([Series("none", "None.", Kind.COUNTER, {}, ("a",))]).decode()
    assert text.endswith("# EOF\n")
    assert parsed(Series("none", "None.", Kind.COUNTER, {}, ("a",))) == {}


def test_type_of_the_content_is_the_library_s() -> None:
    """The content type, which is written down so that the library need not be loaded, is the one that it makes."""
    assert CONTENT_TYPE == CONTENT_TYPE_LATEST


@settings(max_examples=50)
@given(st.dictionaries(st.tuples(st.text()), st.integers(0, 2**53), max_size=5))
def test_any_label_value_survives(rows: dict[tuple[str, ...], float]) -> None:
    """Quotes, backslashes and line ends in a label's value break no line and come back as they were."""
    back = parsed(Series("things", "Things.", Kind.COUNTER, rows, ("word",)))
    assert back == {("things_total", (("word", value),)): float(count) for (value,), count in rows.items()}
