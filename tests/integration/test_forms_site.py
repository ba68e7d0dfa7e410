"""A site that updates together: the deltas cross the outside link once, also where some nodes lack the base."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.integration import site_lab
from tests.integration.lab import Publisher
from tests.integration.site_lab import SiteLab, Wan
from tests.integration.site_nodes import Site, Together
from tests.integration.test_forms import WEIGHTS, weights, write

pytestmark = [
    pytest.mark.root,
    # Two labs at a time would slow each other's links.
    pytest.mark.xdist_group("lab"),
    pytest.mark.skipif(bool(site_lab.why_not()), reason=site_lab.why_not()),
]

LINE = Wan(mbit=20, rtt_ms=20, loss=0.0)
# Heads, nodes of the manifest and HTTP for each of four nodes, and what two may ask for at once on a busy machine.
TALK_BYTES = 600_000


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Four machines and a publisher with two versions, of which the second has deltas from the first."""
    publisher = Publisher.at(tmp_path / "publisher")
    folders = [write(tmp_path / f"v{step}", weights(step)) for step in range(2)]
    publisher.publish(folders[0], "acme/model:v1", "--to", tmp_path / "tree")
    publisher.publish(folders[1], "acme/model:v2", "--base", "acme/model:v1")
    nodes = tmp_path / "nodes"
    nodes.mkdir()
    with SiteLab(4, LINE) as lab, Site.open(lab, publisher, nodes) as made:
        yield made


def pull(site: Site, names: Sequence[str], reference: str, tree: Path | None = None) -> dict[str, dict[str, Any]]:
    commands = site.pulling(reference, names)
    if tree is not None:
        words = ("pull", reference, "--from", tree.as_uri(), "--json", "--no-progress")
        commands = {name: site.home(name).command(*words) for name in names}
    with Together(commands, 90.0) as pulls:
        return pulls.told(names)


def encoded(site: Site) -> dict[str, int]:
    """Bytes of each kind of form that the second version has."""
    forms = site.publisher.home.json("diff", "acme/model:v1", "acme/model:v2")["forms"]
    return {one["kind"]: one["encoded"] for one in forms["offered"]}


def check(site: Site, told: dict[str, dict[str, Any]], source: Path) -> None:
    for one in told.values():
        assert (Path(one["path"]) / WEIGHTS).read_bytes() == source.read_bytes()


def test_a_site_updates_by_one_set_of_deltas(site: Site, tmp_path: Path) -> None:
    """All nodes have the base and ask at once: each delta comes in once, and every node decodes it."""
    names = site.lab.names
    pull(site, names, "acme/model:v1", tmp_path / "tree")
    site.start(*names)
    told = pull(site, names, "acme/model:v2")
    check(site, told, tmp_path / "v1" / WEIGHTS)
    assert all(one["bytes"]["patched"] > 0.99 * one["bytes"]["total"] for one in told.values())
    outside = sum(one["wire"]["wan"] for one in told.values())
    assert outside <= encoded(site)["delta"] + TALK_BYTES


def test_nodes_without_the_base_cost_the_full_form_once(site: Site, tmp_path: Path) -> None:
    """Two nodes have the base and two have nothing: what crosses the link is at most one set of each kind."""
    with_base, without = site.lab.names[:2], site.lab.names[2:]
    pull(site, with_base, "acme/model:v1", tmp_path / "tree")
    site.start(*site.lab.names)
    told = pull(site, site.lab.names, "acme/model:v2")
    check(site, told, tmp_path / "v1" / WEIGHTS)
    assert all(told[name]["bytes"]["patched"] == 0 for name in without)
    outside = sum(one["wire"]["wan"] for one in told.values())
    assert outside <= encoded(site)["delta"] + encoded(site)["full"] + TALK_BYTES
