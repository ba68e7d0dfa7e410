"""What an update costs is read from the rows that matter, up to a bound, and is what the planner says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from p2psync.limits import MIB
from p2psync.manifest import Encoded, Manifest, Reference, chunk_layers, compare
from p2psync.manifest import forms as form_rows
from p2psync.node import costs
from p2psync.node.costs import Costs, between
from p2psync.store import Published, Store
from tests.integration.test_forms import bfloat16, write
from tests.stores import NAME, manifest_of, publish

SLOW, FAST = 2.5e6, 5e9
ELEMENTS = 3 * MIB // 2


def weights(*moved: str) -> dict[str, Any]:
    """Three layers of three chunks; those named have moved by a step of training."""
    made = {}
    for number in range(3):
        values = np.random.default_rng(number).normal(0, 0.02, ELEMENTS)
        name = f"blocks.{number}.weight"
        made[name] = bfloat16(values + np.random.default_rng(99).normal(0, 3e-5, ELEMENTS) * (name[:8] in moved))
    return made


@pytest.fixture(scope="module")
def updated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Published, Published]]:
    """A home with two versions and a third whose middle layer moved, with deltas from both."""
    top = tmp_path_factory.mktemp("costs")
    with Store.open(top / "home") as store:
        older = publish(store, write(top / "older", weights("blocks.0", "blocks.1")), "older")
        before = publish(store, write(top / "before", weights()), "before")
        bases = (Reference(NAME, "older"), Reference(NAME, "before"))
        yield store, before, publish(store, write(top / "after", weights("blocks.1")), "after", bases=bases)
        assert older.root != before.root


def costs_of(updated: tuple[Store, Published, Published], link: float = SLOW) -> tuple[Costs, Manifest, Manifest]:
    """What the update costs, and the two versions."""
    store, before, after = updated
    a, b = manifest_of(store, before), manifest_of(store, after)
    return between(store, a, b, before.root, link), a, b


def test_rows_that_tell_a_holder_nothing_are_not_read(
    updated: tuple[Store, Published, Published], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three sets two are of use to whoever has this base; and of equal versions no row is read."""
    read = []
    honest = form_rows.decode_rows

    def counted(data: bytes, chunks: int) -> tuple[Encoded, ...]:
        read.append(data)
        return honest(data, chunks)

    monkeypatch.setattr(form_rows, "decode_rows", counted)
    found, _, b = costs_of(updated)
    assert len(found.sets) == 3
    assert list(found.ways) == ["raw", "full", "delta"]
    assert len(read) == 2
    same = between(updated[0], b, b, updated[2].root, SLOW)
    assert len(read) == 2
    assert (same.pull.wire_bytes, same.unread) == (0, 0)


def test_only_the_layer_that_moved_costs_anything(updated: tuple[Store, Published, Published]) -> None:
    """Its delta is what a pull takes on a thin link."""
    found, a, b = costs_of(updated)
    layers = [row.layer for row in compare(a, b).layers]
    told = dict(zip((x.name for x in layers), found.by_layer(chunk_layers(b), layers), strict=True))
    assert {name for name, cost in told.items() if cost["pull"]["wire"]} == {"blocks.1"}
    wire = {way["kind"]: way["wire"] for way in told["blocks.1"]["ways"]}
    assert wire["delta"] < wire["full"] < wire["raw"] == 2 * ELEMENTS
    assert told["blocks.1"]["pull"]["wire"] == wire["delta"]
    assert told["blocks.1"]["pull"] == found.described()["pull"]


def test_on_a_link_that_outruns_the_decoders_every_way_is_raw(updated: tuple[Store, Published, Published]) -> None:
    """A form that makes a layer later is not taken, by the planner's own word."""
    found, _, _ = costs_of(updated, FAST)
    assert {way.wire_bytes for way in found.ways.values()} == {2 * ELEMENTS}
    assert found.described()["chosen"] == [{"kind": "raw", "chunks": 3, "raw": 2 * ELEMENTS, "wire": 2 * ELEMENTS}]


def test_a_comparison_reads_no_more_rows_than_its_bound(
    updated: tuple[Store, Published, Published], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not read is counted, and told as it is: never a form that nobody looked at."""
    every = costs_of(updated)[0]
    assert every.unread == 0
    full, delta = (next(one.count for one in every.sets if one.base in bases) for bases in ((None,), (every.base,)))
    assert delta < full
    monkeypatch.setattr(costs, "DIFF_ROWS_MAX", delta)
    some = costs_of(updated)[0]
    assert some.unread == full
    assert some.ways["full"].wire_bytes == some.ways["raw"].wire_bytes
    assert some.ways["delta"].wire_bytes == every.ways["delta"].wire_bytes
    monkeypatch.setattr(costs, "DIFF_ROWS_MAX", 1)
    none = costs_of(updated)[0]
    assert none.unread == full + delta
    assert none.described()["pull"]["wire"] == none.ways["raw"].wire_bytes
