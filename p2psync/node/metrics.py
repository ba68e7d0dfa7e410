"""Numbers as OpenMetrics text: the home of prometheus_client, which is loaded when somebody asks for the first time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from prometheus_client.core import Metric

CONTENT_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Kind(Enum):
    """What a number is: one that only grows while the process lives, one that goes up and down, or words."""

    COUNTER = auto()
    GAUGE = auto()
    INFO = auto()


@dataclass(frozen=True, slots=True)
class Series:
    """One metric: a number for each combination of label values, which stand in the order of ``labels``.

    Every scrape is kept for months by whoever scrapes, so a label takes only values that this program enumerates: no
    peer, no address, no model. The one row of an ``INFO`` has the words as its labels, and its number means nothing.
    """

    name: str
    help: str
    kind: Kind
    rows: Mapping[tuple[str, ...], float]
    labels: Sequence[str] = ()


def single(name: str, text: str, kind: Kind, value: float) -> Series:
    """A metric without labels."""
    return Series(name, text, kind, {(): value})


def expose(series: Sequence[Series]) -> bytes:
    """The text of a scrape (OpenMetrics 1.0). The first call takes some 25 ms, for the library."""
    from prometheus_client.openmetrics.exposition import generate_latest
    from prometheus_client.registry import CollectorRegistry

    # It asks for a class of its own and needs this one method.
    class Collector:
        def collect(self) -> Iterator[Metric]:
            return map(_family, series)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return text


def _family(series: Series) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    if series.kind is Kind.INFO:
        info = InfoMetricFamily(series.name, series.help)
        for values in series.rows:
            info.add_metric([], dict(zip(series.labels, values, strict=True)))
        return info
    make = CounterMetricFamily if series.kind is Kind.COUNTER else GaugeMetricFamily
    family = make(series.name, series.help, labels=series.labels)
    for values, number in sorted(series.rows.items()):
        family.add_metric(values, number)
    return family
