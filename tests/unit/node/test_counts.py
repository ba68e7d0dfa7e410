"""What a fetch counts."""

from p2psync.node.counts import Counts
from p2psync.transport import SourceKind


def counts() -> Counts:
    """Nothing yet, of two sources."""
    return Counts(by_source={"near": 0, "far": 0})


def test_what_was_received_and_not_used_is_surplus() -> None:
    """A chunk that came twice and one that was stopped half-way, each on the link that carried it."""
    found = counts()
    found.took(SourceKind.LAN, 1000)
    found.useful("near", SourceKind.LAN, 1000, 1000, patch=False)
    found.took(SourceKind.LAN, 1000)
    found.took(SourceKind.WAN, 400)
    assert (found.surplus(SourceKind.LAN), found.surplus(SourceKind.WAN)) == (1000, 400)
    assert (found.lan, found.wan) == (1000, 0)


def test_an_encoded_chunk_uses_what_was_sent_and_counts_as_what_it_stands_for() -> None:
    """So nothing of it is surplus, though fewer bytes came than are counted."""
    found = counts()
    found.took(SourceKind.WAN, 660)
    found.useful("far", SourceKind.WAN, 660, 1000, patch=False)
    assert found.surplus(SourceKind.WAN) == 0
    assert found.by_source == {"near": 0, "far": 1000}


def test_a_chunk_that_is_used_before_its_request_is_over_is_no_surplus() -> None:
    """A request of several chunks is counted as received at its end."""
    found = counts()
    found.useful("near", SourceKind.LAN, 1000, 1000, patch=False)
    assert found.surplus(SourceKind.LAN) == 0
    found.took(SourceKind.LAN, 1000)
    assert found.surplus(SourceKind.LAN) == 0


def test_a_patch_is_counted_apart() -> None:
    """Whoever sent it, most of its bytes were here."""
    found = counts()
    found.took(SourceKind.LAN, 30)
    found.useful("near", SourceKind.LAN, 30, 1000, patch=True)
    assert (found.patched, found.lan, found.surplus(SourceKind.LAN)) == (1000, 0, 0)
