"""What a pull is asked for, as its arguments travel, and which variant it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2psync.content import BlobKind, Digest, FileFormat
from p2psync.errors import InvalidReferenceError, UsageError, VariantNotFoundError
from p2psync.manifest import Blob, ChunkList, File, Manifest, Reference, Variant, files_of
from p2psync.node.pull import PullRequest, choose_variant


def file(path: str) -> File:
    blob = Blob(BlobKind.BYTES, 1, ChunkList(bytes(Digest.of(path.encode()))))
    return File(path, 1, bytes(32), FileFormat.BYTES, (blob,))


FILES = (file("a"), file("b"), file("c"))
SMALL, LARGE = Variant("small", (0,), default=True), Variant("large", (1,))


def test_arguments_are_read() -> None:
    """Every argument of the verb arrives in the request."""
    request = PullRequest.parse(
        {
            "reference": "acme/model:v2",
            "sources": [{"url": "http://a", "kind": "lan"}, {"url": "https://b", "kind": "wan"}],
            "to": "/data/out",
            "link": True,
            "variant": "int8",
            "dry_run": True,
            "offline": True,
        }
    )
    assert request == PullRequest(
        Reference.parse("acme/model:v2"),
        (("http://a", "lan"), ("https://b", "wan")),
        Path("/data/out"),
        link=True,
        variant="int8",
        dry_run=True,
        offline=True,
    )


def test_only_the_reference_is_needed() -> None:
    """What is left out, or null, is off."""
    least = PullRequest(Reference.parse("acme/model"))
    assert PullRequest.parse({"reference": "acme/model"}) == least
    assert PullRequest.parse({"reference": "acme/model", "sources": None, "to": None, "link": False}) == least


def test_link_needs_a_directory() -> None:
    """Linking without an export is a mistake in the call, with a hint."""
    with pytest.raises(UsageError) as caught:
        PullRequest.parse({"reference": "acme/model", "link": True})
    assert caught.value.exit_code == 2
    assert caught.value.hint is not None
    assert "--to DIR" in caught.value.hint


def test_bad_reference_is_refused() -> None:
    """A reference that is none is refused when it is read."""
    with pytest.raises(InvalidReferenceError):
        PullRequest.parse({"reference": "../etc"})


def test_offline_asks_only_files() -> None:
    """Offline, a source on the network is not asked and an origin on this disk is."""
    sources = (("http://a", "lan"), ("file:///tree", "wan"))
    reference = Reference.parse("acme/model")
    assert PullRequest(reference, sources).reachable_sources() == sources
    assert PullRequest(reference, sources, offline=True).reachable_sources() == (("file:///tree", "wan"),)


def test_default_variant_is_taken() -> None:
    """Without a name the default variant is meant."""
    assert choose_variant(Manifest(FILES, (LARGE, SMALL)), None) is SMALL


def test_named_variant_is_taken() -> None:
    """A name outranks the default; files in no variant come along."""
    manifest = Manifest(FILES, (SMALL, LARGE))
    chosen = choose_variant(manifest, "large")
    assert chosen is LARGE
    assert files_of(manifest, chosen) == (1, 2)


@pytest.mark.parametrize("variants", [(), (LARGE,)])
def test_without_a_default_everything_is_taken(variants: tuple[Variant, ...]) -> None:
    """A version without a default variant is pulled whole."""
    manifest = Manifest(FILES, variants)
    assert files_of(manifest, choose_variant(manifest, None)) == (0, 1, 2)


def test_unknown_variant_names_the_known_ones() -> None:
    """A variant that is not there is not found, and the hint says which are."""
    with pytest.raises(VariantNotFoundError) as caught:
        choose_variant(Manifest(FILES, (SMALL, LARGE)), "medium")
    assert caught.value.exit_code == 3
    assert caught.value.hint == "its variants: small, large"
